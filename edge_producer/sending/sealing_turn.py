"""Who is next in a turn of sealing, and how much may be sealed in it."""

from __future__ import annotations

from collections.abc import Iterable

from edge_producer.spool.spool_messages import SpoolMessages, StoredMessage
from schemas.topics import Lane

PRIORITY = {
    Lane.ALERT: 0,
    Lane.LIVE: 1,
    Lane.SUMMARY: 2,
    Lane.BOOKS: 3,
    Lane.STATE: 3,
    Lane.LABEL: 3,
    Lane.BACKLOG: 4,
    Lane.EXCERPT: 5,
}
"""Order of lanes, the most urgent first."""


class SealingQuota:
    """Number of messages that may still be sealed in this turn; none once what was sealed fills its room.

    Args:
        count: Messages.
        messages: Where they are stored.
        room_bytes: What they may add there.
    """

    def __init__(self, count: int, messages: SpoolMessages, room_bytes: float) -> None:
        self._count = count
        self._messages = messages
        self._until = messages.bytes + room_bytes

    @property
    def left(self) -> int:
        """Messages that may still be sealed."""
        return self._count if self._messages.bytes < self._until else 0

    def spend(self, count: int) -> None:
        """Take messages off."""
        self._count -= count

    def take(self, sealed: Iterable[StoredMessage]) -> list[StoredMessage]:
        """The messages, taken off."""
        taken = list(sealed)
        self.spend(len(taken))
        return taken


class Turns:
    """Devices in order, starting behind the one that came first last time: so all get their share."""

    def __init__(self) -> None:
        self._first = 0

    def order(self, devices: Iterable[int]) -> list[int]:
        """These devices in this turn's order."""
        known = sorted(devices)
        rotated = [d for d in known if d > self._first] + [d for d in known if d <= self._first]
        self._first = rotated[0] if rotated else 0
        return rotated
