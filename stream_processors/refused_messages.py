"""What becomes of refused messages: rows of the table `quarantine`, dead letters, and sums.

A message whose signature holds keeps its bytes, once. Messages that nobody signed are one pool a partition:
the first of a minute are kept one by one, later ones only as a sum with their places and a digest.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.errors import MessageError
from schemas.tables import QUARANTINE
from stream_processors.job import Derived, RawMessage, State, dead_letter
from stream_processors.unread_range import UnreadRange, first_offset

MINUTE_MS = 60_000
REMEMBERED_REFUSALS = 32
"""Refused messages of one producer that are known again: a repeat is counted, not copied once more."""
MOST_RANGES = 200
"""Ranges of offsets in one letter; more are joined, and then hold some offsets of other messages too."""
LARGEST_KEY_BYTES = 1024
"""A longer key is no producer's: its message is kept as a place, and names nobody."""
LARGEST_NAME = 256
SUMMED = "summed"
"""Header of a letter that stands for messages without their bytes; its value says where they are."""
_BUDGET, _REFUSED = "letters", "refused"
_MISSING = (1 << 32) - 1
_TWO_SIZES = struct.Struct(">2I")


@dataclass(frozen=True)
class LetterLimits:
    """How much is kept one by one of what nobody signed, a partition and minute of append time.

    Attributes:
        messages: Messages with a row and a letter of their own.
        bytes: Bytes of theirs (keys, headers, values) that go to the dead-letter topic.
    """

    messages: int = 60
    bytes: int = 1024**2


class LetterBudget(NamedTuple):
    """What the newest minute of append time has used of ``LetterLimits``."""

    minute: int = -1
    messages: int = 0
    bytes: int = 0

    def at(self, timestamp_ms: int) -> LetterBudget:
        """The budget at this append time; a clock that stepped back begins no new minute."""
        minute = timestamp_ms // MINUTE_MS
        return LetterBudget(minute) if minute > self.minute else self


@dataclass
class RefusalSum:
    """Refused messages of one topic, error class and producer that are not kept one by one.

    Attributes:
        producer: Verified producer; None: the pool of what nobody signed.
        ranges: Half-open ranges of their offsets, ascending.
        digests: Their digests, in order of offsets.
    """

    first: RawMessage
    error: MessageError
    producer: str | None
    n_messages: int = 0
    n_rows: int = 0
    n_bytes: int = 0
    ranges: list[list[int]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)

    def add(self, message: RawMessage, digest: bytes, size: int, n_rows: int = 0) -> None:
        """Count one message more; offsets ascend."""
        first, end = first_offset(message), message.offset + 1
        self.n_messages += end - first
        self.n_rows += n_rows
        self.n_bytes += size
        self.digests.append(digest)
        if self.ranges and self.ranges[-1][1] == first:
            self.ranges[-1][1] = end
        else:
            self.ranges.append([first, end])

    def row(self, producer: str | None) -> dict[str, Any]:
        """The row of `quarantine` about them; a single message has its own digest.

        Args:
            producer: Who signed them, or the key as given.
        """
        message = self.first
        return {
            "topic": message.topic,
            "producer": producer,
            "error": type(self.error).__name__,
            "reason": str(self.error)[:1000],
            "n_rows": self.n_rows,
            "n_bytes": self.n_bytes,
            "verified": self.producer is not None,
            "n_messages": self.n_messages,
            "last_offset": self.ranges[-1][1] - 1,
            "digest": self._digest(),
            "known_at": message.appended_us,
            "_partition": message.partition,
            "_offset": self.ranges[0][0],
            "_row": 0,
        }

    def letter(self) -> Derived:
        """The letter that says where they are."""
        spans = ",".join(f"{a}-{b - 1}" for a, b in joined(self.ranges, MOST_RANGES))
        headers = (
            (SUMMED, b"%d" % self.n_messages),
            ("n_bytes", b"%d" % self.n_bytes),
            ("offsets", spans.encode()),
            ("last_offset", b"%d" % (self.ranges[-1][1] - 1)),
            ("original_digest", self._digest().encode()),
            ("signed", str(self.producer is not None).lower().encode()),
        )
        made = dead_letter(self.first, type(self.error).__name__, str(self.error))
        return Derived(made.topic, self.producer or "", b"", (*made.headers, *headers))

    def _digest(self) -> str:
        """Of one message, its digest; of more, over their digests."""
        over = b"".join(self.digests)
        return over.hex() if len(self.digests) == 1 else hashlib.sha256(over).hexdigest()


class Refusals:
    """Collects the refused messages of one call of a job.

    Args:
        limits: For what nobody signed.
        state: The job's state; ``changes`` are to be added to the job's own.
        now_ms: The commit's clock, where a message's timestamp is not the broker's but anybody's.
    """

    def __init__(self, limits: LetterLimits, state: State, now_ms: int | None = None) -> None:
        self._limits, self._state, self._now_ms = limits, state, now_ms
        self._budget = self._budget_before = LetterBudget(*state.get(_BUDGET, ()))
        self._refused: dict[str, list[str]] = {}
        self._rows: list[dict[str, Any]] = []
        self._letters: list[Derived] = []
        self._sums: dict[tuple[str, type[MessageError], str | None], RefusalSum] = {}
        self._spent_until = self._end_of_spent_minute()

    def stranger(self, message: RawMessage, error: MessageError) -> None:
        """Refuse a message whose signature was not found to hold: nothing in it speaks for anybody."""
        digest, size = _measured(message)
        at_ms = message.timestamp_ms if self._now_ms is None else self._now_ms
        if at_ms < self._spent_until:
            self._sum_of(message, error, None).add(message, digest, size)
            return
        budget = self._budget.at(at_ms)
        key = message.key or b""
        whole = len(key) <= LARGEST_KEY_BYTES and not isinstance(message, UnreadRange)
        has_bytes = whole and budget.bytes + size <= self._limits.bytes
        used = budget.bytes + (size if has_bytes else 0)
        self._budget = LetterBudget(budget.minute, budget.messages + 1, used)
        self._spent_until = self._end_of_spent_minute()
        alone = RefusalSum(message, error, None)
        alone.add(message, digest, size)
        name = key[:LARGEST_KEY_BYTES].decode("utf-8", "replace")[:LARGEST_NAME]
        self._rows.append(alone.row(name or None))
        self._letters.append(_copy(message, error, digest, verified=False) if has_bytes else alone.letter())

    def signed(self, message: RawMessage, error: MessageError, producer: str, n_rows: int) -> None:
        """Refuse a whole message whose signature holds: its bytes are kept, unless they are already.

        Args:
            message: The message.
            error: Why it is refused.
            producer: Who signed it.
            n_rows: Rows that its header states.
        """
        digest, size = _measured(message)
        kept = self._refused.get(producer) or list(self._state.get(f"{_REFUSED}/{producer}", ()))
        short = digest.hex()[:16]
        if short in kept:
            self._sum_of(message, error, producer).add(message, digest, size, n_rows)
            return
        self._refused[producer] = [*kept, short][-REMEMBERED_REFUSALS:]
        alone = RefusalSum(message, error, producer)
        alone.add(message, digest, size, n_rows)
        self._rows.append(alone.row(producer))
        self._letters.append(_copy(message, error, digest, verified=True))

    def some_rows(self, message: RawMessage, error: MessageError) -> None:
        """Keep the bytes of a message of which only some rows were refused; their rows are the caller's."""
        self._letters.append(_copy(message, error, message_digest(message), verified=True))

    def table(self) -> pa.Table:
        """Rows for the table `quarantine`, each message in one of them."""
        rows = [*self._rows, *(s.row(s.producer) for s in self._sums.values())]
        return pa.Table.from_pylist(rows, schema=QUARANTINE.schema)

    def letters(self) -> tuple[Derived, ...]:
        """Dead letters to publish; one for each sum."""
        return (*self._letters, *(s.letter() for s in self._sums.values()))

    def changes(self) -> Mapping[str, Any]:
        """State keys that changed."""
        changed: dict[str, Any] = {f"{_REFUSED}/{p}": digests for p, digests in self._refused.items()}
        if self._budget != self._budget_before:
            changed[_BUDGET] = list(self._budget)
        return changed

    def _end_of_spent_minute(self) -> int:
        """Append time, ms, from which on messages are kept one by one again."""
        if self._limits.messages == 0:
            return sys.maxsize
        spent = self._budget.messages >= self._limits.messages
        return (self._budget.minute + 1) * MINUTE_MS if spent else -1

    def _sum_of(self, message: RawMessage, error: MessageError, producer: str | None) -> RefusalSum:
        key = (message.topic, type(error), producer)
        if key not in self._sums:
            self._sums[key] = RefusalSum(message, error, producer)
        return self._sums[key]


def _copy(message: RawMessage, error: MessageError, digest: bytes, *, verified: bool) -> Derived:
    """The letter that has the message's bytes."""
    made = dead_letter(message, type(error).__name__, str(error))
    verdict = (("original_digest", digest.hex().encode()), ("signed", str(verified).lower().encode()))
    return replace(made, headers=(*made.headers, *verdict))


def message_digest(message: RawMessage) -> bytes:
    """SHA-256 over the lengths of key, header names, header values and value, and then over themselves.

    Lengths are numbers of 4 bytes, most significant first; a missing key or value has the largest.
    """
    return _measured(message)[0]


def _measured(message: RawMessage) -> tuple[bytes, int]:
    """Digest and size of a message."""
    key, value = message.key, message.value
    if key is not None and not message.headers:  # most of a flood
        sizes = _TWO_SIZES.pack(len(key), len(value))
        return hashlib.sha256(sizes + key + value).digest(), len(key) + len(value)
    parts = [key]
    for name, of_header in message.headers:
        parts += (name.encode(), of_header)
    parts.append(value)
    sizes = struct.pack(f">{len(parts)}I", *(_MISSING if p is None else len(p) for p in parts))
    content = b"".join([p for p in parts if p])
    digest = hashlib.sha256(sizes)
    digest.update(content)
    return digest.digest(), len(content)


def joined(ranges: Iterable[list[int]], most: int) -> list[list[int]]:
    """At most ``most`` ascending half-open ranges that cover these: the smallest holes are closed."""
    covering = [list(r) for r in ranges]
    if len(covering) <= most:
        return covering
    holes = sorted((after[0] - before[1]) for before, after in pairwise(covering))
    largest = holes[len(covering) - most - 1]
    kept = covering[:1]
    for span in covering[1:]:
        if span[0] - kept[-1][1] <= largest:
            kept[-1][1] = span[1]
        else:
            kept.append(span)
    return kept
