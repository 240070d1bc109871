"""Finds the originals of dead letters: in the letter itself, or in the source topic while they are there."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from infra.kafka.kafka_admin import KafkaAdmin, OffsetSpan
from infra.kafka.log_view import DeadLetter, full_topic
from schemas.errors import StackError

if TYPE_CHECKING:
    from schemas.envelope import Headers

Original = tuple[bytes | None, "Headers", bytes | None]
"""Key, headers and value of a message as it was sent."""


def originals(letter: DeadLetter, admin: KafkaAdmin, namespace: str) -> Iterator[Original]:
    """The messages that a letter stands for, byte for byte.

    Those that retention removed are left out, and those from a batch that the client cannot read on. Of a
    sum with very many ranges a few messages that lie between them come along.
    """
    if letter.has_bytes:
        yield letter.key, letter.headers, letter.value
        return
    where = (full_topic(letter.source_topic, namespace), letter.source_partition)
    held = admin.spans([where[0]]).get(where)
    if held is None:
        return
    span = OffsetSpan(max(held.low, letter.offsets[0][0]), min(held.end, letter.offsets[-1][1] + 1))
    starts = [first for first, _ in letter.offsets]
    with suppress(StackError):
        for message in admin.read({where: span}):
            at = bisect_right(starts, message.offset) - 1
            if at >= 0 and message.offset <= letter.offsets[at][1]:
                yield message.key, message.headers, message.value
