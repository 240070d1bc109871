"""The tables of a spool's file.

meta       key, value: format, spool_id (16 random hex digits), devices, wire (telemetry fingerprint),
           gateway, earlier_spools (ids of spools whose content was taken over), salvaged:<name>, check
devices    one line per device: boot, next seq, state (JSON: decisions, filter and its held rows), held
           rows, open summary, action in force
books      one line per (device, boot, period, model, stratum): counters, moments, what was stated when
rows       selected rows not yet sealed, with u and pi, so that they can still be thinned
blocks     thinning factor tau of (device, period, stratum) where it is below 1
summaries  closed summaries not yet sealed
messages   sealed messages not yet acknowledged: resent byte for byte
lanes      next message number by device and lane
totals     counters of lines of the books that were settled and removed
tallies    sums over rows, messages, summaries and lines by device, kept by triggers (``spool_tallies.py``)
counters   what the process measures, by name

Columns that release 0.2.0 did not have are added when a file is opened, with a default: that release can
still read the file.
"""

from __future__ import annotations

import sqlite3

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
_ADDED = (
    ("devices", "crc", "INTEGER"),
    ("books", "lost", "INTEGER NOT NULL DEFAULT 0"),
    ("books", "period_s", "REAL"),
    ("rows", "crc", "INTEGER"),
    ("summaries", "crc", "INTEGER"),
    ("messages", "attempt", "INTEGER NOT NULL DEFAULT 1"),
    ("messages", "blocked", "TEXT"),
)
"""Columns since 0.2.0: checksums; rows of a line that could not be kept; the length of a line's period where
the profile has had another since; whether an attempt to send a message may have reached the broker (1) or
none can have (0); why a message is blocked. There is room for no more: the description of the tables must
fit into the file's first page, or a damaged one could not be replaced."""


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables that each release has, always in the same order."""
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    extend_tables(connection)


def extend_tables(connection: sqlite3.Connection) -> None:
    """Add the columns that an earlier release did not have. Call it inside a transaction."""
    known = {
        table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for table in dict.fromkeys(table for table, _, _ in _ADDED)
    }
    for table, column, kind in _ADDED:
        if column not in known[table]:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
