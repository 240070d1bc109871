"""Stands for messages whose bytes were not unpacked: too large when unpacked, or not decodable."""

from __future__ import annotations

from stream_processors.job import RawMessage


class UnreadRange(RawMessage):
    """Offsets up to ``offset`` of which nothing is known; it has no key, headers or value.

    Attributes:
        first_offset: The first of them.
        reason: Why they were not read.
    """

    first_offset: int
    reason: str

    @classmethod
    def of(
        cls, topic: str, partition: int, first: int, last: int, timestamp_ms: int, reason: str
    ) -> UnreadRange:
        """The range from ``first`` to ``last``, both included."""
        made = cls(topic, partition, last, timestamp_ms, None, [], b"")
        made.first_offset, made.reason = first, reason
        return made


def first_offset(message: RawMessage) -> int:
    """Offset of the first message that this one stands for: itself, unless it is a range."""
    return message.first_offset if isinstance(message, UnreadRange) else message.offset
