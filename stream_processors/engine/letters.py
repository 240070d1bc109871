"""What a derived message is published as, and in which spans the originals of dead letters are read. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stream_processors.engine.log_span import LogSpan
from stream_processors.job import Derived, RawMessage

LARGEST_COPY_BYTES = 900_000
"""A larger dead letter is published without its bytes, with a pointer to them."""
ORIGINAL_HEADER = "original."
"""Prefix, on a dead letter, of the headers of the original message."""
NEAR = 1000
"""Messages between two originals that are read and thrown away, which is cheaper than one more read."""
_OVERHEAD_BYTES = 32  # of a record and of each header, at most

Headers = list[tuple[str, bytes]]
Place = tuple[str, int, int]
"""Topic, partition and offset."""


class Content(NamedTuple):
    """What is handed to the broker.

    Attributes:
        bare: It is a dead letter without the bytes of its original: there is no smaller form of it.
    """

    key: bytes
    value: bytes
    headers: Headers
    bare: bool = True

    @property
    def size(self) -> int:
        """Bytes on the wire, at most."""
        return message_bytes(self.key, self.value, self.headers)


class Unpublished(NamedTuple):
    """A derived message that the broker will never take.

    Attributes:
        number: Its index in the commit record.
    """

    number: int
    reason: str


def message_bytes(key: bytes | None, value: bytes, headers: Iterable[tuple[str, bytes | None]]) -> int:
    """Bytes of a message on the wire, at most."""
    own = sum(len(k) + len(v or b"") + _OVERHEAD_BYTES for k, v in headers)
    return len(key or b"") + len(value) + own + _OVERHEAD_BYTES


def content_of(derived: Derived, original: RawMessage | None) -> Content:
    """The message with its own value, or with the original's key, headers and bytes where they fit.

    Args:
        derived: A derived message.
        original: Of a dead letter; None: the log does not hold it any more, or it is no copy.
    """
    key, headers = derived.key.encode(), list(derived.headers)
    if derived.copy_of is None:
        return Content(key, derived.value, headers)
    if original is None:
        return Content(key, b"", [*headers, ("lost", b"the original is not in the log any more")])
    copied = [*headers, *((ORIGINAL_HEADER + k, v) for k, v in original.headers)]
    own = key if original.key is None else original.key
    full = Content(own, original.value, copied, bare=False)
    # The original came compressed, or its key is long: the broker would refuse the copy at every attempt.
    return full if full.size <= LARGEST_COPY_BYTES else bare_letter(derived, full.size)


def bare_letter(derived: Derived, size: int) -> Content:
    """A dead letter that points to its original instead of copying it."""
    note = ("too_large", b"%d bytes; the original is in the source topic" % size)
    return Content(derived.key.encode(), b"", [*derived.headers, note])


def originals_wanted(
    messages: Sequence[Derived], at_hand: Mapping[Place, RawMessage]
) -> dict[Place, list[int]]:
    """Which derived messages wait for an original that has to be read, by its place."""
    wanted: dict[Place, list[int]] = defaultdict(list)
    for index, derived in enumerate(messages):
        if derived.copy_of is not None and derived.copy_of not in at_hand:
            wanted[derived.copy_of].append(index)
    return wanted


def spans_of(places: Iterable[Place]) -> list[LogSpan]:
    """Few spans that hold these places: near ones are read in one go."""
    spans: list[LogSpan] = []
    for topic, partition, offset in sorted(places):
        last = spans[-1] if spans else None
        if last and last[:2] == (topic, partition) and offset - last.end <= NEAR:
            spans[-1] = last._replace(end=offset + 1)
        else:
            spans.append(LogSpan(topic, partition, offset, offset + 1))
    return spans
