"""The spool of one process: everything that its devices have not delivered yet, in one SQLite file.

All changes are made inside ``transaction()``. The books balance after each transaction, whatever it contains
and wherever the process dies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Self

from edge_producer.device_update import DeviceUpdate
from edge_producer.spool.boot_terms import SpoolBoots
from edge_producer.spool.checksums import device_checksum
from edge_producer.spool.salvage_plan import FoundState
from edge_producer.spool.spool_books import SpoolBooks
from edge_producer.spool.spool_errors import translated
from edge_producer.spool.spool_file import PAGE, WAL_PAGES, Connect, SpoolFile, one
from edge_producer.spool.spool_lock import CommitNote, SpoolLock
from edge_producer.spool.spool_messages import SpoolMessages
from edge_producer.spool.spool_rows import SpoolRows
from edge_producer.spool.spool_summaries import devices_with_summaries, insert_summary, read_summaries
from edge_producer.spool.spool_tallies import agree, recount, total
from edge_producer.spool.spool_totals import TOTALS, DeviceBooks, read_books
from edge_producer.summaries import Summary
from schemas.errors import SpoolDamagedError, SpoolOwnerError
from schemas.packed_schemas import packed_summary_layout
from schemas.profile import Profile
from schemas.row_schemas import telemetry_layout, telemetry_layout_of_wire_1

log = logging.getLogger(__name__)

__all__ = ["DeviceBooks", "Spool", "SpoolAccess", "read_books"]

COMMITS = "commits"
"""Name of the counter of transactions."""
SALVAGED, ALL_SALVAGED = "salvaged:", "all"
"""Prefix of the keys of how far copies were taken over, before their names; the last part."""
SPOOLS_SET_ASIDE = "spools_set_aside"
"""Name of the counter of spools that were set aside, and whose content this one took over."""
ROWS_UNKEPT = "rows_unkept"
"""Name of the counter of rows that were sensed and selected, and that no disk kept."""
TALLIES_CORRECTED = "tallies_corrected"
"""Name of the counter of starts that found sums which were not what the tables hold."""
AGED_PER_PAGE = 4
"""Lines and rows whose time is set back in one transaction, for each page that the log may take."""
EARLIER_SPOOLS = "earlier_spools"
"""Key of the ids of spools whose content was taken over."""


@dataclass(frozen=True)
class SpoolAccess:
    """How a spool is opened.

    Attributes:
        lock: Held by the caller; None: the spool has its own.
        connect: Opens the database file; None: as usual.
        again: This process had it open before: what is open in it is this process's own.
        wal_pages: Pages in the write-ahead log from which it is copied into the file.
        gateway: Who sends for the devices; empty: each for itself.
    """

    lock: SpoolLock | None = None
    connect: Connect | None = None
    again: bool = False
    wal_pages: int = WAL_PAGES
    gateway: str = ""


class Spool:
    """The process's spool. Inside it, devices have numbers.

    Attributes:
        devices: Number by device id.
        names: Device id by number.
        spool_id: 16 random hex digits, made with the file.
        boots: Terms of the boots in it.
        books: Lines of the books.
        rows: Rows not yet sealed.
        messages: Sealed messages.
        commits: Transactions since the file was made; opening it is none.
        found_commits: Those of them that held when it was opened.
        layout: Of the summaries in it.
    """

    def __init__(self, file: SpoolFile, profile: Profile) -> None:
        self._file = file
        self.layout = packed_summary_layout(profile)
        self._connection = file.connection
        self.spool_id = file.spool_id
        numbers = self._connection.execute("SELECT device_id, no FROM devices").fetchall()
        self.devices: dict[str, int] = dict(numbers)
        self.names = {no: name for name, no in self.devices.items()}
        self.boots = SpoolBoots(self._connection)
        self.books = SpoolBooks(self._connection, profile.summaries.period_s, self.boots)
        self.books.awaited.update(self._awaited())
        self.rows = SpoolRows(self._connection, self.books)
        self.messages = SpoolMessages(self._connection, self.books, self.names)
        self.summary_bytes = total(self._connection, "summary_bytes")
        self.commits = self.found_commits = self.counters().get(COMMITS, 0)

    @classmethod
    def open(
        cls,
        path: Path,
        device_ids: Sequence[str],
        profile: Profile,
        now_s: float,
        access: SpoolAccess | None = None,
    ) -> Self:
        """The spool of exactly these devices.

        Args:
            path: SQLite file, created where absent.
            device_ids: Must be those for which an existing file was made.
            profile: Profile of the devices.
            now_s: Steady clock.
            access: How it is opened; None: the first time in this process, with a lock of its own.

        Raises:
            SpoolInUseError: Another process has it.
            SpoolUnavailableError: The disk does not give or take it now.
            SpoolDamagedError: Damaged, of another version, or an older copy of itself.
            SpoolOwnerError: Of other devices, or with rows of another feature set inside.
        """
        access = access or SpoolAccess()
        file = SpoolFile.open(path, device_ids, access.lock, access.connect, access.wal_pages, access.gateway)
        try:
            spool = cls(file, profile)
            spool._refuse_older_copy()
            # Not counted: whether an earlier transaction held is told by the count.
            with file.transaction():
                spool._adopt(profile)
                if not access.again:
                    spool._close_earlier_start()
                    spool.boots.forget_unused()
            if not access.again:
                spool._set_clock(now_s, AGED_PER_PAGE * access.wal_pages)
        except BaseException:
            file.close()
            raise
        return spool

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, synced to disk when it returns.

        Raises:
            SpoolError: The file cannot be written; nothing of the transaction holds, and the spool
                must be opened anew.
        """
        with self._file.transaction():
            yield
            self.count({COMMITS: 1})
        self.commits += 1
        self._file.lock.set_note(CommitNote(self.spool_id, self.commits))

    @property
    def in_doubt(self) -> bool:
        """Whether the last transaction may hold although it failed; ``commits`` tells, once opened again."""
        return self._file.in_doubt

    def meta(self, key: str) -> str | None:
        """A value kept beside the tables, by key."""
        return self._file.meta(key)

    def set_meta(self, key: str, value: str) -> None:
        """Keep a value. Call it inside a transaction."""
        self._file.set_meta(key, value)

    def note_salvage(self, copy: str, progress: str) -> None:
        """Remember how far a copy was taken over. Call it inside a transaction."""
        self.set_meta(f"{SALVAGED}{copy}", progress)

    def salvage_noted(self, copy: str) -> str | None:
        """What was remembered last; None where there is nothing."""
        return self.meta(f"{SALVAGED}{copy}")

    def _awaited(self) -> Iterator[int]:
        """Lines of which a copy that is not taken over to its end may still hold something."""
        query = "SELECT value FROM meta WHERE key LIKE ? || '%'"
        for (text,) in self._connection.execute(query, (SALVAGED,)):
            with suppress(ValueError, TypeError):
                part, _, lines, _ = json.loads(text)
                yield from () if part == ALL_SALVAGED else (id_ for _, id_ in lines)

    def note_earlier(self, spool_id: str) -> None:
        """Remember the id of a spool whose content was taken over. Call it inside a transaction."""
        known = json.loads(self.meta(EARLIER_SPOOLS) or "[]")
        if spool_id and spool_id not in known:
            self.set_meta(EARLIER_SPOOLS, json.dumps([*known, spool_id]))

    def restore_device(self, device: int, found: FoundState) -> None:
        """Store the state of a device as another spool had it. Call it inside a transaction."""
        if found.opened is not None:
            self.add_summary(device, found.opened)
        nothing = (None,) * len(Summary._fields)
        values = (found.boot_id, found.next_seq, found.newest_us, found.state, found.held, found.decision)
        self._connection.execute(
            "UPDATE devices SET boot_id = ?, next_seq = ?, newest_us = ?, state = ?, held = ?, decision = ?,"
            " crc = ? WHERE no = ?",
            (*values, device_checksum(found.state, found.held, nothing), device),
        )

    def has_sealed(self, device_id: str) -> bool:
        """Whether the device has ever sealed a message into this spool."""
        query = "SELECT EXISTS (SELECT 1 FROM lanes WHERE device = ?)"
        return bool(one(self._connection, query, self.devices[device_id]))

    def lose_held(self, device_id: str) -> None:
        """Count what a device's filter held back as lost: its state cannot be read. Not in a transaction."""
        device = self.devices[device_id]
        with self.transaction():
            held = one(self._connection, "SELECT held FROM devices WHERE no = ?", device)
            self._connection.execute("UPDATE devices SET held = 0, state = NULL WHERE no = ?", (device,))
            self.books.add_totals(device, (held, 0, 0, held, 0))
            self.count({"rows_damaged": held})

    def check_content(self) -> None:
        """Check the whole file, sums included; takes seconds where it is large. Not in a transaction.

        Sums that are not what the tables hold are counted anew, and that is counted.

        Raises:
            SpoolDamagedError: It is damaged.
            SpoolError: It cannot be written.
        """
        self._file.check_content()
        with translated(self._file.path, "read"):
            if agree(self._connection):
                return
        log.warning("%s: its sums are counted anew", self._file.path)
        with self.transaction():
            recount(self._connection)
            self.count({TALLIES_CORRECTED: 1})
        self.rows.measure()
        self.messages.measure()
        self.summary_bytes = total(self._connection, "summary_bytes")

    def close(self) -> None:
        """Close the file and release its lock."""
        self._file.close()

    def bound_log(self, pages: int) -> None:
        """Keep the write-ahead log within so many pages and one transaction. Not inside a transaction."""
        self._file.bound_log(pages)

    @property
    def bytes(self) -> int:
        """Estimated size of all rows, summaries and messages that wait."""
        return self.rows.bytes + self.summary_bytes + self.messages.bytes

    @property
    def file_bytes(self) -> int:
        """Size of the database file, without its log."""
        return self._file.pages()[0] * PAGE

    @property
    def used_bytes(self) -> int:
        """The part of the file that holds something; the rest is used again before it grows."""
        pages, free = self._file.pages()
        return (pages - free) * PAGE

    def state(self, device_id: str) -> str | None:
        """JSON that the device's last update stored; None before its first."""
        query = "SELECT state FROM devices WHERE device_id = ?"
        row = self._connection.execute(query, (device_id,)).fetchone()
        return None if row is None or row[0] is None else str(row[0])

    def apply(self, update: DeviceUpdate, now_s: float) -> None:
        """Store everything that one device did since its last update. Call it inside a transaction."""
        device = self.devices[update.device_id]
        self.boots.remember(update.boots)
        lines = {k: self.books.change(device, k, c, now_s) for k, c in update.books.lines.items()}
        self.rows.insert(device, update.rows, lines)
        self.books.close(device, update.books.closed)
        for summary in update.closed:
            self.add_summary(device, summary)
        opened = update.open_summary or (None,) * len(Summary._fields)
        values = (update.boot_id, update.next_seq, update.newest_us, update.state, update.held)
        self._connection.execute(
            "UPDATE devices SET boot_id = ?, next_seq = ?, newest_us = ?, state = ?, held = ?, decision = ?,"
            " open_boot = ?, open_model = ?, open_period_us = ?, open_period_s = ?, open_part = ?,"
            " open_value = ?, open_raw = ?, crc = ? WHERE no = ?",
            (*values, update.decision, *opened, device_checksum(update.state, update.held, opened), device),
        )
        lost = sum(change.lost for change in update.books.lines.values())
        self.count({**update.meters, ROWS_UNKEPT: lost})

    def count(self, increments: Mapping[str, int]) -> None:
        """Add to the counters."""
        self._connection.executemany(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value",
            [(name, n) for name, n in increments.items() if n],
        )

    def counters(self) -> dict[str, int]:
        """All counters, by name."""
        return dict(self._connection.execute("SELECT name, value FROM counters").fetchall())

    def add_summary(self, device: int, summary: Summary) -> None:
        """Store a closed summary."""
        insert_summary(self._connection, device, summary)
        self.summary_bytes += len(summary.value)

    def devices_with_summaries(self, below_s: float = inf) -> list[int]:
        """Devices with unsealed summaries, of periods shorter than this."""
        return devices_with_summaries(self._connection, below_s)

    def summaries(self, device: int, limit: int, below_s: float = inf) -> list[tuple[int, Summary]]:
        """Unsealed summaries with their ids, in the order they closed; a damaged one is given up.

        Args:
            device: Number of the device.
            limit: Most summaries.
            below_s: Only of periods shorter than this.
        """
        whole, damaged = read_summaries(self._connection, device, limit, below_s, self.layout)
        if damaged:
            self.remove_summaries(damaged)
            self.count({"summaries_damaged": len(damaged)})
        return whole

    def remove_summaries(self, summaries: Iterable[tuple[int, Summary]]) -> None:
        """Remove summaries that a sealed message or a merged summary holds, or that are given up."""
        for id_, summary in summaries:
            self._connection.execute("DELETE FROM summaries WHERE id = ?", (id_,))
            self.summary_bytes -= len(summary.value)

    def drained(self) -> bool:
        """Whether nothing is left to send; held rows do not count."""
        return self.left() == (0, 0, 0) and not self.books.unstated()

    def left(self) -> tuple[int, int, int]:
        """Numbers of unsealed rows, unsealed summaries and sealed messages."""
        rows, summaries, messages = (total(self._connection, n) for n in ("rows", "summaries", "messages"))
        return rows, summaries, messages

    def totals(self) -> dict[str, DeviceBooks]:
        """Each device's totals, from sums that are kept: it costs the same however much waits."""
        return {device: DeviceBooks(*counts) for device, *counts in self._connection.execute(TOTALS)}

    def _adopt(self, profile: Profile) -> None:
        wires = [
            f"{profile.name}/{layout(profile).fingerprint}"
            for layout in (telemetry_layout, telemetry_layout_of_wire_1)
        ]
        wire, known = f"{wires[0]}/{profile.summaries.period_s}", self._file.meta("wire")
        before, _, period_s = (known or wire).rpartition("/")
        waits = self.rows.bytes or self._held() or self.books.unstated() or self.summary_bytes
        if before not in wires and waits:
            raise SpoolOwnerError(
                f"{self._file.path} holds rows of another profile or feature set ({known}); "
                "drain it with that one first, or move it aside to start empty"
            )
        if float(period_s) != profile.summaries.period_s:
            self.books.keep_period(float(period_s))
        if known != wire or self.meta("check") is None:
            self.set_meta("wire", wire)

    def _refuse_older_copy(self) -> None:
        note = self._file.lock.note()
        if note is not None and note.spool_id == self.spool_id and self.commits < note.commits:
            raise SpoolDamagedError(
                f"{self._file.path} is an older copy of itself: {self.commits} of {note.commits} commits",
                stale=True,
            )

    def _held(self) -> int:
        (held,) = self._connection.execute("SELECT sum(held) FROM devices").fetchone()
        return int(held)

    def _set_clock(self, now_s: float, step: int) -> None:
        """Set steady times of an earlier boot back to this one's, so many in each transaction.

        All at once would make the log as large as the file. What a crash leaves the next start does.
        """
        for last in range(step, self.books.last_id() + step, step):
            with self.transaction():
                self.books.age(last - step, last, now_s)
        for last in range(step, self.rows.last_id() + step, step):
            with self.transaction():
                self.rows.age(last - step, last, now_s)

    def _close_earlier_start(self) -> None:
        self.books.close_all()
        columns = "no, open_boot, open_model, open_period_us, open_period_s, open_part, open_value, open_raw"
        open_ones = f"SELECT {columns} FROM devices WHERE open_value IS NOT NULL"  # noqa: S608  (constants)
        for device, *summary in self._connection.execute(open_ones).fetchall():
            self.add_summary(device, Summary(*summary))
        self._connection.execute("UPDATE devices SET open_value = NULL")
