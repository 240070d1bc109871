"""Keeps an open spool within its room: before, in and after each transaction.

Before it, room is made, in transactions of their own. In it no more is written than there is room for, and a
file that grew beyond what is allowed fails the transaction. After it, the log is kept short.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge_producer.spool.eviction import Eviction
from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_file import PAGE
from edge_producer.spool.spool_room import RoomUse, SpoolRoom
from schemas.errors import SpoolCrowdedError
from schemas.profile import Profile

ROUNDS = 16
"""Most transactions in a row that make room; the next turn goes on."""
PAGES_AT_ONCE = 4
"""Pages that change where one row, block or line is removed: its own, and those of indexes and counters."""
HEADROOM = 64 * 1024
"""What making room may add to a file without a free page: removing rows changes lines, which may need one."""
WAITING_SHARE = 0.125
"""Part of what is used that must wait to be sent for a source to be held up."""
TIGHT_S = 30.0
"""How long nothing but answers is written after a transaction that found no room."""


class SpoolHousekeeping:
    """One open spool and its room.

    Args:
        spool: The spool.
        room: Measures it.
        eviction: Makes room in it.
    """

    def __init__(self, spool: Spool, room: SpoolRoom, eviction: Eviction) -> None:
        self._spool = spool
        self._room = room
        self._eviction = eviction

    def follow(self, profile: Profile) -> None:
        """Have room made as another profile says, from here on."""
        self._eviction.follow(profile)

    def make_room(self, now_s: float) -> bool:
        """Bring the spool below its limit, or nearer to it. Not inside a transaction.

        Returns:
            Whether it is done: there is room, or nothing is left that could give way.

        Raises:
            SpoolError: The spool cannot be written.
        """
        for _ in range(ROUNDS):
            use = self._room.use(self._spool)
            allowed = use.payload_limit(self._spool.bytes)
            if not self._eviction.is_due(now_s, allowed):
                return True
            at_once = use.wal_pages // PAGES_AT_ONCE
            with self.transaction(HEADROOM):
                changed = self._eviction.relieve(now_s, allowed, use.allowed, at_once)
            if not changed:
                return True
        return False

    @property
    def room_bytes(self) -> int:
        """What one transaction may add at most: it goes into the log and into the file.

        Half of the margin is left for the books: also a spool full of messages counts what devices do.
        """
        use = self._last_use()
        return max(use.left - use.margin // 2, 0) // 3

    @property
    def sealed_bytes(self) -> int:
        """What one transaction may seal: always one message, because what is sent makes room."""
        return max(min(self.room_bytes, self.at_once), 1)

    @property
    def at_once(self) -> int:
        """What one transaction should add, so that the log keeps to its part."""
        return self._last_use().wal_pages * PAGE // 2

    @property
    def is_half_full(self) -> bool:
        """Whether what waits fills half of the room: a source that can wait should, before rows give way.

        Books alone do not count: they go when they are stated, however long a source waits.
        """
        use = self._last_use()
        return use.used > use.allowed / 2 and self._spool.bytes > use.used * WAITING_SHARE

    @contextmanager
    def transaction(self, headroom: int = 0) -> Iterator[None]:
        """A transaction of the spool that leaves its file within what is allowed.

        Args:
            headroom: What must be free in the file in any case, in bytes.

        Raises:
            SpoolCrowdedError: The file would grow beyond it; nothing of the transaction holds.
            SpoolError: The spool cannot be written.
        """
        use = self._last_use()
        cap = max(use.cap, use.used + headroom)
        with self._spool.transaction():
            yield
            size = self._spool.file_bytes
            if size > cap:
                raise SpoolCrowdedError(f"the spool may take {cap} bytes, and needs {size}")
        self._spool.bound_log(use.wal_pages)

    def _last_use(self) -> RoomUse:
        """What the spool takes now, on the disk as ``make_room`` saw it, with which each turn begins."""
        return self._room.use(self._spool, anew=False)
