"""Readings of channels that wait to become samples, in bounded room: the busiest channel drops its own.

Each channel's readings keep their order; of several channels the oldest measured comes first, with all others
of the same time. Not thread-safe: whoever uses it from several threads locks.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple


class ChannelReading(NamedTuple):
    """What a source reports of one channel.

    Attributes:
        given: A number, a boolean, a text or None, as it came.
        us: When it was measured, µs since 1970; None: some time ago, and it is so now.
        flaw: Why the value is not used, such as ``bad``; empty: it is good.
        first: It is what the source knew when it began to tell, and may have been so for long.
    """

    device_id: str
    channel: str
    given: Any
    us: int | None
    flaw: str = ""
    first: bool = False


class ReadingQueue:
    """Readings of all channels of all devices.

    Args:
        most: How many may wait; beyond them the oldest of the channel that has most is dropped.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[tuple[str, str], deque[ChannelReading]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, reading: ChannelReading) -> int:
        """Take a reading in; returns how many were dropped for it."""
        self._waiting.setdefault((reading.device_id, reading.channel), deque()).append(reading)
        self._count += 1
        if self._count <= self._most:
            return 0
        max(self._waiting.values(), key=len).popleft()
        self._count -= 1
        return 1

    def get(self) -> list[ChannelReading]:
        """The oldest of the readings that are each channel's first, all of one device and time.

        Raises:
            IndexError: There is none.
        """
        firsts = [waiting[0] for waiting in self._waiting.values() if waiting]
        if not firsts:
            raise IndexError("no reading waits")
        oldest = min(firsts, key=lambda first: -1 if first.us is None else first.us)
        taken = [r for r in firsts if r.device_id == oldest.device_id and r.us == oldest.us]
        for reading in taken:
            self._waiting[reading.device_id, reading.channel].popleft()
        self._count -= len(taken)
        return taken
