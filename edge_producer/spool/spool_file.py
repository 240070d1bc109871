"""The spool's SQLite file: tables, lock, transactions. The room's only door to sqlite3.

One file per edge process, in WAL mode, for many devices. What belongs together is committed in one
transaction, and synced to disk (``synchronous=FULL``).

What the tables hold: ``spool_tables.py``.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from edge_producer.spool.spool_errors import translated
from edge_producer.spool.spool_lock import SpoolLock
from edge_producer.spool.spool_structure import mend_structure
from edge_producer.spool.spool_tables import create_tables, extend_tables
from edge_producer.spool.spool_tallies import add_devices, add_indexes, add_tallies
from schemas.errors import SpoolDamagedError, SpoolOwnerError

FORMAT = "1"
PAGE = 4096
"""Bytes of a page: SQLite's default, which every spool was made with."""
AS_SAMPLED = 0.0
"""What ``rows.pi`` holds where it equals ``sample_p``, which is nearly always: it takes no byte."""
WAL_PAGES = 2000
"""Pages in the write-ahead log from which it is copied into the file. Twice as many are kept free for it."""
WHOLE_CHECK_PAGES = 8192
"""Pages up to which a check compares every index with its table: that takes a second or two."""
GATEWAY = "gateway"
"""Key of ``meta`` of the gateway that sends for the devices; it stands among them, and senses nothing."""
_CHECKED = ("format", "spool_id", "devices", "wire")
"""Keys of ``meta`` that a checksum covers; written together with it."""
BUSY_S = 10.0
"""How long a transaction waits for another program that has the file locked."""
WAL, SHARED = "-wal", "-shm"
"""Suffixes of the files that SQLite keeps beside the spool's."""

Connect = Callable[[Path], sqlite3.Connection]
"""Opens a database file. Tests give one whose disk is full."""


class SpoolFile:
    """An open spool file, locked for this process.

    Used by one thread at a time; the connection may move between threads.

    Attributes:
        in_doubt: The last commit failed: it may hold or not. The file must be opened anew to know.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: SpoolLock, *, own: bool) -> None:
        self.path = path
        self.connection = connection
        self.lock = lock
        self.in_doubt = False
        self._own = own
        self._wal_pages = 0
        self.spool_id = str(self.meta("spool_id"))

    @classmethod
    def open(
        cls,
        path: Path,
        device_ids: Sequence[str],
        lock: SpoolLock | None = None,
        connect: Connect | None = None,
        wal_pages: int = WAL_PAGES,
        gateway: str = "",
    ) -> Self:
        """The spool file of exactly these devices, created where absent; a gateway's takes on more devices.

        Args:
            path: The file.
            device_ids: Must be those for which an existing file was made.
            lock: Held by the caller, who keeps it when the file is closed; None: the file has its own.
            connect: Opens the file; None: as usual.
            wal_pages: Pages in the write-ahead log from which it is copied into the file.
            gateway: Who sends for the devices; empty: each for itself.

        Raises:
            SpoolInUseError: Another process has it.
            SpoolUnavailableError: The disk does not give or take it now.
            SpoolDamagedError: Damaged, or of another version.
            SpoolOwnerError: Of other devices.
        """
        held = lock or SpoolLock.take(path)
        try:
            with translated(path, "used"):
                _refuse_empty(path)
                connection = (connect or connect_file)(path)
                try:
                    _configure(connection)
                    _prepare(connection, device_ids)
                    file = cls(path, connection, held, own=lock is None)
                    file.bound_log(wal_pages)
                    file.check(device_ids, gateway)
                except BaseException:
                    connection.close()
                    raise
        except BaseException:
            if lock is None:
                held.release()
            raise
        return file

    def meta(self, key: str) -> str | None:
        """A value of ``meta``."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of ``meta``. Call it inside a transaction."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
        if key in _CHECKED:
            self.connection.execute("INSERT OR REPLACE INTO meta VALUES ('check', ?)", (self._check(),))

    def _check(self) -> str:
        """Checksum of what the file says about itself."""
        return str(zlib.crc32(repr([self.meta(key) for key in _CHECKED]).encode()))

    def check(self, device_ids: Sequence[str], gateway: str = "") -> None:
        """Check that the file is of this version, whole at its head, and of exactly these devices.

        A gateway's takes on devices that are new behind it, and keeps what those that went have left.

        Raises:
            SpoolDamagedError: It is of another version, or says two things about itself.
            SpoolOwnerError: It is of other devices.
        """
        if self.meta("check") not in (None, self._check()):
            raise SpoolDamagedError(f"what {self.path} says about itself is damaged")
        if self.meta("format") != FORMAT:
            raise SpoolDamagedError(
                f"{self.path} has format {self.meta('format')}, this version reads {FORMAT}"
            )
        try:
            known = set(json.loads(self.meta("devices") or "[]"))
        except (ValueError, TypeError) as exc:
            raise SpoolDamagedError(f"{self.path} names no devices: {exc}") from exc
        if known != {name for (name,) in self.connection.execute("SELECT device_id FROM devices")}:
            raise SpoolDamagedError(f"{self.path} names two sets of devices")
        if gateway and self.meta(GATEWAY) in (None, gateway):
            if new := {*device_ids, gateway} - known:
                with self.transaction():
                    self.set_meta("devices", json.dumps(add_devices(self.connection, new)))
                    self.set_meta(GATEWAY, gateway)
            return
        if known != set(device_ids):
            odd = sorted(known ^ set(device_ids))
            raise SpoolOwnerError(
                f"{self.path} belongs to another set of devices (differs in {', '.join(odd[:5])}); "
                "use another state folder, or move it aside to start empty"
            )

    def check_content(self) -> None:
        """Read every page, and check that the tables hang together; of a small file also every index.

        Raises:
            SpoolDamagedError: They do not.
        """
        with translated(self.path, "read"):
            pragma = "integrity_check(1)" if self.pages()[0] <= WHOLE_CHECK_PAGES else "quick_check(1)"
            (found,) = self.connection.execute(f"PRAGMA {pragma}").fetchone()
        if found != "ok":
            raise SpoolDamagedError(f"{self.path} is damaged: {found}")

    def pages(self) -> tuple[int, int]:
        """Pages of the file, and those of them that are free; inside a transaction as it leaves them."""
        return one(self.connection, "PRAGMA page_count"), one(self.connection, "PRAGMA freelist_count")

    def bound_log(self, pages: int) -> None:
        """Have the log copied into the file from so many pages on; cut one that is twice as long.

        Not inside a transaction. A log that a reader still needs stays: the next call tries again.
        """
        with translated(self.path, "written"):
            if pages != self._wal_pages:
                self._wal_pages = pages
                self.connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")
                # What a transaction took beyond is given back when the log is started anew. The rest stays:
                # on a disk that others have filled the spool goes on in the room that it has.
                self.connection.execute(f"PRAGMA journal_size_limit = {pages * PAGE}")
            if self.log_bytes > 2 * pages * PAGE:
                self.connection.execute("PRAGMA busy_timeout = 0")
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self.connection.execute(f"PRAGMA busy_timeout = {round(BUSY_S * 1e3)}")

    @property
    def log_bytes(self) -> int:
        """Size of the write-ahead log."""
        with suppress(OSError):
            return self.path.with_name(self.path.name + WAL).stat().st_size
        return 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on disk when it returns.

        Raises:
            SpoolError: The file cannot be written. Nothing of the transaction holds; where ``in_doubt`` is
                set, all of it may.
        """
        with translated(self.path, "written"):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite has done it by itself where the disk is full
                    self.connection.execute("ROLLBACK")
                raise
            try:
                self.connection.execute("COMMIT")
            except BaseException:
                self.in_doubt = True
                raise

    def close(self) -> None:
        """Close the file, and release the lock if it is its own."""
        with suppress(sqlite3.Error):
            self.connection.close()
        if self._own:
            self.lock.release()


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection that sees one snapshot, with sqlite3's errors translated.

    Raises:
        SpoolError: The file cannot be read.
    """
    with translated(path, "read"):
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()


def one(connection: sqlite3.Connection, query: str, *args: Any) -> Any:
    """The single value of a query that gives one row of one column; 0 where it is NULL."""
    row = connection.execute(query, args).fetchone()
    return 0 if row is None or row[0] is None else row[0]


def connect_file(path: Path) -> sqlite3.Connection:
    """A connection that reads and writes, without transactions of its own."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_S)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _refuse_empty(path: Path) -> None:
    """Notice a file without content before SQLite takes it for a new one, and its log for nothing.

    Raises:
        SpoolDamagedError: It is empty.
    """
    with suppress(FileNotFoundError):
        if not os.stat(path).st_size:  # noqa: PTH116  (a path may be a directory: SQLite says so)
            raise SpoolDamagedError(f"{path} is empty")


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")
    # Damaged text is read all the same: its checksum or digest does not hold, and only its own line is lost.
    connection.text_factory = _text


def _prepare(connection: sqlite3.Connection, device_ids: Sequence[str]) -> None:
    """Create the tables where there are none, else add what an earlier release did not have."""
    connection.execute("BEGIN IMMEDIATE")
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        _create(connection, device_ids)
    elif connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone() == (FORMAT,):
        extend_tables(connection)
    else:
        connection.execute("COMMIT")
        return
    add_tallies(connection)
    mend_structure(connection)
    connection.execute("COMMIT")
    add_indexes(connection)


def _create(connection: sqlite3.Connection, device_ids: Sequence[str]) -> None:
    create_tables(connection)
    devices = sorted(device_ids)
    meta = {"format": FORMAT, "spool_id": secrets.token_hex(8), "devices": json.dumps(devices)}
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.executemany("INSERT INTO devices (no, device_id) VALUES (?, ?)", enumerate(devices, 1))
