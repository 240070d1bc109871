"""How much room the spool takes on its disk, all its files counted, and how much it may take.

The limit is what the operator allows, less the write-ahead log and the copies that were set aside; those
leave half of it. Besides that the file grows only as long as the reserve of the disk stays free. What is
removed frees pages of the file, which are used again, so a file at its limit goes on working.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_file import PAGE, SHARED, WAL, WAL_PAGES
from edge_producer.spool.spool_set_aside import copies, size_of
from schemas.durable import Disk, DiskRoom

RESERVE_BYTES, RESERVE_SHARE = 64 * 1024**2, 0.05
"""Free room that is left to others, unless the settings say: this size, or this share of a small disk."""
WAL_SHARE = 1 / 4
"""Share of the limit, or of what is free, that the write-ahead log may take: half of it until it is copied
into the file, the rest for the transaction by which it becomes as large as that."""
LEAST_WAL_PAGES = 25
SHARED_BYTES = 64 * 1024
"""What the index of the log takes in memory that is mapped from a file: 32 KiB for each 4000 pages."""
LOG_KEPT = 1.5
"""Times its part from which a log is taken to stay that large."""
MARGIN_SHARE, MARGIN_BYTES = 0.1, 128 * 1024
"""Part of what is allowed that is kept free for one transaction."""


@dataclass(frozen=True)
class RoomUse:
    """What the spool takes and may take, in bytes.

    Attributes:
        used: Part of the database file that holds something.
        file: The database file.
        wal: Its write-ahead log, with the index of it.
        wal_limit: Size to which the log may still grow.
        aside: Copies that were set aside.
        limit: What all of this may take.
        free: Free room of the disk; None where the disk does not say.
        reserve: Free room that must remain.
    """

    used: int
    file: int
    wal: int
    wal_limit: int
    aside: int
    limit: int
    free: int | None
    reserve: int

    @property
    def wal_pages(self) -> int:
        """Pages of the write-ahead log from which it is copied into the file."""
        return (self.wal_limit - SHARED_BYTES) // (2 * PAGE)

    @property
    def allowed(self) -> int:
        """What ``used`` may be."""
        within = self.limit - self._log - self.aside
        if self.aside:  # what was set aside must find room to be taken over into
            within = max(within, (self.limit - self._log) // 2)
        if self.free is None:
            return max(within, 0)
        # The file can grow into what is free beyond the reserve, once the log has had its part of it.
        growth = self.free - self.reserve - max(self.wal_limit - self.wal, 0)
        return max(min(within, self.file + max(growth, 0)), 0)

    @property
    def _log(self) -> int:
        """What the log takes: its part, or more where a reader keeps it from being started anew."""
        return self.wal if self.wal > LOG_KEPT * self.wal_limit else self.wal_limit

    @property
    def margin(self) -> int:
        """Part of what is allowed that what can give way leaves free."""
        return round(max(self.allowed * MARGIN_SHARE, MARGIN_BYTES))

    @property
    def left(self) -> int:
        """By how much ``used`` may grow."""
        return max(self.allowed - self.used, 0)

    @property
    def total(self) -> int:
        """All files together."""
        return self.file + self.wal + self.aside

    def payload_limit(self, payload: int) -> float:
        """What the payload may be: as it is while there is room, else its part of what is allowed.

        A margin stays: what is written before something is removed makes the file grow.
        """
        most = self.allowed - self.margin
        if self.used <= max(most, 0):
            return float("inf")
        return max(payload * most / self.used, 0.0)

    @property
    def cap(self) -> int:
        """What the database file may be: it never grows beyond what is allowed, and never shrinks."""
        return max(self.allowed, self.file)

    def to_status(self) -> dict[str, Any]:
        """For the status file."""
        names = ("used", "file", "wal", "aside", "limit", "left", "free", "reserve")
        return {f"{name}_bytes": getattr(self, name) for name in names}


class _Around(NamedTuple):
    """What was seen beside the database file at a look: room of the disk, bytes of the log, and set aside."""

    disk: DiskRoom | None
    wal: int
    aside: int


class SpoolRoom:
    """Measures one spool.

    Args:
        path: The spool's file.
        max_bytes: Limit of all its files together.
        reserve_bytes: Free room that must remain; None: ``RESERVE_BYTES``, or less on a small disk.
        disk: Says how much is free.
    """

    def __init__(self, path: Path, max_bytes: int, reserve_bytes: int | None, disk: Disk) -> None:
        self._path = path
        self._reserve = reserve_bytes
        self._disk = disk
        self._around: _Around | None = None
        self.max_bytes = max_bytes

    @property
    def wal_pages(self) -> int:
        """Pages of the write-ahead log from which it is copied into the file."""
        return self._wal_pages(self._disk_room(), self._wal_bytes())

    def use(self, spool: Spool, *, anew: bool = True) -> RoomUse:
        """What the spool takes now; inside a transaction as it leaves it.

        Args:
            spool: The spool.
            anew: Look at the disk, the log and what was set aside; False: they are as at the last look, which
                is enough within a turn of the writer.
        """
        if anew or self._around is None:
            aside = sum(copy.bytes for copy in copies(self._path.parent))
            self._around = _Around(self._disk_room(), self._wal_bytes(), aside)
        room, wal, aside = self._around
        return RoomUse(
            used=spool.used_bytes,
            file=spool.file_bytes,
            wal=wal,
            wal_limit=2 * self._wal_pages(room, wal) * PAGE + SHARED_BYTES,
            aside=aside,
            limit=self.max_bytes,
            free=None if room is None else room.free,
            reserve=self._reserved(room),
        )

    def _wal_pages(self, room: DiskRoom | None, wal: int) -> int:
        share = self.max_bytes
        if room is not None:
            share = min(share, room.total, max(room.free + wal - self._reserved(room), 0))
        return max(min(WAL_PAGES, int(share * WAL_SHARE / 2 / PAGE)), LEAST_WAL_PAGES)

    def _wal_bytes(self) -> int:
        return sum(size_of(self._path.with_name(self._path.name + suffix)) for suffix in (WAL, SHARED))

    def _reserved(self, room: DiskRoom | None) -> int:
        if self._reserve is not None:
            return self._reserve
        return RESERVE_BYTES if room is None else min(RESERVE_BYTES, round(room.total * RESERVE_SHARE))

    def _disk_room(self) -> DiskRoom | None:
        try:
            return self._disk.room(self._path.parent)
        except OSError:
            return None
