"""The spool's SQLite file: tables, lock, transactions. The room's only door to sqlite3.

One file per edge process, in WAL mode, for many devices. What belongs together is committed in one
transaction, and synced to disk (``synchronous=FULL``).

meta       key, value: format, spool_id (16 random hex digits), devices, wire (telemetry fingerprint)
devices    one line per device: boot, next seq, state (JSON: decisions, filter and its held rows), held
           rows, open summary, action in force
books      one line per (device, boot, period, model, stratum): counters, moments, what was stated when
rows       selected rows not yet sealed, with u and pi, so that they can still be thinned
blocks     thinning factor tau of (device, period, stratum) where it is below 1
summaries  closed summaries not yet sealed
messages   sealed messages not yet acknowledged: resent byte for byte
lanes      next message number by device and lane
totals     counters of lines of the books that were settled and removed
counters   what the process measures, by name
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from schemas.errors import SpoolError, SpoolInUseError

FORMAT = "1"
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE devices (
    no INTEGER PRIMARY KEY, device_id TEXT NOT NULL UNIQUE, boot_id INTEGER NOT NULL DEFAULT 0,
    next_seq INTEGER NOT NULL DEFAULT 0, newest_us INTEGER NOT NULL DEFAULT 0, state TEXT,
    held INTEGER NOT NULL DEFAULT 0, decision TEXT NOT NULL DEFAULT '', open_model TEXT,
    open_boot INTEGER, open_period_us INTEGER, open_period_s REAL, open_part INTEGER, open_value BLOB,
    open_raw INTEGER);
CREATE TABLE books (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device INTEGER NOT NULL, boot_id INTEGER NOT NULL,
    period_us INTEGER NOT NULL, model TEXT NOT NULL, stratum TEXT NOT NULL,
    sensed INTEGER NOT NULL DEFAULT 0, acked INTEGER NOT NULL DEFAULT 0,
    filtered INTEGER NOT NULL DEFAULT 0, evicted INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0, pending INTEGER NOT NULL DEFAULT 0,
    moments BLOB, closed INTEGER NOT NULL DEFAULT 0,
    dirty INTEGER NOT NULL DEFAULT 1, changed_s REAL NOT NULL, stated_s REAL NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 0, statement INTEGER,
    UNIQUE (device, boot_id, period_us, model, stratum));
CREATE INDEX books_to_state ON books (device) WHERE dirty = 1 AND closed = 1;
CREATE INDEX books_stated ON books (statement) WHERE statement IS NOT NULL;
CREATE INDEX books_of_block ON books (device, period_us, stratum);
CREATE TABLE rows (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device INTEGER NOT NULL, book INTEGER NOT NULL,
    seq INTEGER NOT NULL, event_us INTEGER NOT NULL, mono_ns INTEGER NOT NULL,
    time_quality INTEGER NOT NULL, features BLOB NOT NULL, score REAL, decision TEXT NOT NULL,
    reasons INTEGER NOT NULL, sample_p REAL NOT NULL, pi REAL NOT NULL, u REAL NOT NULL,
    sensed_s REAL NOT NULL);
CREATE INDEX rows_by_age ON rows (device, sensed_s);
CREATE INDEX rows_by_book ON rows (book);
CREATE TABLE blocks (
    device INTEGER NOT NULL, period_us INTEGER NOT NULL, stratum TEXT NOT NULL, tau REAL NOT NULL,
    PRIMARY KEY (device, period_us, stratum)) WITHOUT ROWID;
CREATE TABLE summaries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device INTEGER NOT NULL, boot_id INTEGER NOT NULL,
    model TEXT NOT NULL, period_us INTEGER NOT NULL, period_s REAL NOT NULL, part INTEGER NOT NULL,
    value BLOB NOT NULL, raw_bytes INTEGER NOT NULL);
CREATE INDEX summaries_by_device ON summaries (device);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, device INTEGER NOT NULL, lane TEXT NOT NULL,
    msg_no INTEGER NOT NULL, topic TEXT NOT NULL, headers TEXT NOT NULL, value BLOB NOT NULL,
    size INTEGER NOT NULL, n_rows INTEGER NOT NULL, books TEXT NOT NULL, UNIQUE (device, lane, msg_no));
CREATE TABLE lanes (
    device INTEGER NOT NULL, lane TEXT NOT NULL, next_no INTEGER NOT NULL,
    PRIMARY KEY (device, lane)) WITHOUT ROWID;
CREATE TABLE totals (
    device INTEGER PRIMARY KEY, sensed INTEGER NOT NULL, acked INTEGER NOT NULL,
    filtered INTEGER NOT NULL, evicted INTEGER NOT NULL, refused INTEGER NOT NULL);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""


class SpoolFile:
    """An open spool file, locked for this process.

    Used by one thread at a time; the connection may move between threads.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self.connection = connection
        self._lock = lock
        self.spool_id = str(self.meta("spool_id"))

    @classmethod
    def open(cls, path: Path, device_ids: Sequence[str]) -> Self:
        """The spool file of exactly these devices, created where absent.

        Raises:
            SpoolError: In use by another process, damaged, of another version, or of other devices.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            connection = _connect(path)
            try:
                _configure(connection)
                if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    _create(connection, device_ids)
                file = cls(path, connection, lock)
                file.check(device_ids)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as exc:
            os.close(lock)
            raise SpoolError(f"{path} cannot be used: {exc}; move it aside to start empty") from exc
        except BaseException:
            os.close(lock)
            raise
        return file

    def meta(self, key: str) -> str | None:
        """A value of ``meta``."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def check(self, device_ids: Sequence[str]) -> None:
        """Check that the file is of this version and of exactly these devices.

        Raises:
            SpoolError: It is not.
        """
        if self.meta("format") != FORMAT:
            raise SpoolError(f"{self.path} has format {self.meta('format')}, this version reads {FORMAT}")
        known = set(json.loads(self.meta("devices") or "[]"))
        if known != set(device_ids):
            odd = sorted(known ^ set(device_ids))
            raise SpoolError(
                f"{self.path} belongs to another set of devices (differs in {', '.join(odd[:5])}); "
                "use another state folder, or move it aside to start empty"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on disk when it returns.

        Raises:
            SpoolError: The file cannot be written; nothing of the transaction holds.
        """
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")
        except sqlite3.Error as exc:
            raise SpoolError(f"{self.path} cannot be written: {exc}") from exc

    def close(self) -> None:
        """Close and unlock."""
        self.connection.close()
        os.close(self._lock)


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A read-only connection that sees one snapshot, with sqlite3's errors translated.

    Raises:
        SpoolError: The file cannot be read.
    """
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as exc:
        raise SpoolError(f"{path} cannot be read: {exc}") from exc


def one(connection: sqlite3.Connection, query: str, *args: Any) -> Any:
    """The single value of a query that gives one row of one column; 0 where it is NULL."""
    row = connection.execute(query, args).fetchone()
    return 0 if row is None or row[0] is None else row[0]


def _lock(path: Path) -> int:
    handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(handle)
        raise SpoolInUseError(f"{path} is in use by another process") from exc
    return handle


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    connection.execute("PRAGMA temp_store = MEMORY")


def _create(connection: sqlite3.Connection, device_ids: Sequence[str]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    devices = sorted(device_ids)
    meta = {"format": FORMAT, "spool_id": secrets.token_hex(8), "devices": json.dumps(devices)}
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.executemany("INSERT INTO devices (no, device_id) VALUES (?, ?)", enumerate(devices, 1))
    connection.execute("COMMIT")
