"""Sums over the spool's tables by device, kept by SQLite in the transaction that changes a line.

Triggers keep them: no code that adds, changes or removes a line can forget to, not even that of an earlier
release which opens the file again. A file without sums gets them once, by a count over its tables. The same
count checks them at each start of a process, when the whole file is read anyway.

The indexes here let a query find what it wants without looking at the rest. They are a help, no condition: a
spool whose disk has no room for them works without.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress

log = logging.getLogger(__name__)

_SUMS: Mapping[str, Mapping[str, str]] = {
    "books": {
        "lines": "1",
        "sensed": "{}.sensed",
        "acked": "{}.acked",
        "filtered": "{}.filtered",
        "evicted": "{}.evicted",
        "refused": "{}.refused",
        "unstated": "{}.dirty",
        "moment_bytes": "length({}.moments)",
    },
    "rows": {"rows": "1", "row_bytes": "length({}.features)"},
    "summaries": {"summaries": "1", "summary_bytes": "length({}.value)"},
    "messages": {"messages": "1", "message_rows": "{}.n_rows", "message_bytes": "{}.size"},
}
"""What is added up of a line of each table, by the name of the sum; ``{}`` stands for the line."""
TALLIES = "tallies"
"""The table that holds them."""
_NAMES = [name for sums in _SUMS.values() for name in sums]
_INDEXES = (
    # Each line that waits to be stated stands in one of the first two, in the order in which it is due.
    "CREATE INDEX books_settled ON books (device, stated_s) WHERE dirty = 1 AND closed = 1 AND pending = 0",
    "CREATE INDEX books_waiting ON books (device, changed_s) WHERE dirty = 1 AND closed = 1 AND pending <> 0",
    "CREATE INDEX books_open ON books (device) WHERE closed = 0",
    "CREATE INDEX messages_blocked ON messages (blocked) WHERE blocked IS NOT NULL",
    "DROP INDEX IF EXISTS books_to_state",
)
_NEWEST_INDEX = "messages_blocked"

COUNTED = "SELECT d.no AS device, {columns} FROM devices d {tables}".format(  # noqa: S608  (constants)
    columns=", ".join(f"coalesce(of_{t}.{n}, 0) AS {n}" for t, sums in _SUMS.items() for n in sums),
    tables=" ".join(
        f"LEFT JOIN (SELECT device, {', '.join(f'sum({what.format(t)}) AS {n}' for n, what in sums.items())}"  # noqa: S608
        f" FROM {t} GROUP BY device) of_{t} ON of_{t}.device = d.no"
        for t, sums in _SUMS.items()
    ),
)
"""A query for all sums, counted from the tables themselves: it reads every line."""


def has_tallies(connection: sqlite3.Connection) -> bool:
    """Whether the file has sums; those of earlier releases have none."""
    query = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'tallies')"
    return bool(connection.execute(query).fetchone()[0])


def add_tallies(connection: sqlite3.Connection) -> None:
    """Add the sums to a file that has none, with what its tables hold. Call it inside a transaction."""
    if has_tallies(connection):
        return
    columns = ", ".join(f"{name} INTEGER NOT NULL" for name in _NAMES)
    connection.execute(f"CREATE TABLE tallies (device INTEGER PRIMARY KEY, {columns})")
    recount(connection)
    for table, sums in _SUMS.items():
        for event, change in _changes(table, sums).items():
            name = f"{table}_{event.split()[0].lower()}_tallied"
            body = f"UPDATE tallies SET {change}"  # noqa: S608  (constants)
            connection.execute(f"CREATE TRIGGER {name} AFTER {event} ON {table} BEGIN {body}; END")


def _changes(table: str, sums: Mapping[str, str]) -> dict[str, str]:
    """What each kind of change does to the sums, by the event of its trigger."""

    def of(line: str, what: str) -> str:
        return f"coalesce({what.format(line)}, 0)"

    read = sorted({what.split(".")[1].rstrip(")") for what in sums.values() if "." in what})
    added = ", ".join(f"{name} = {name} + {of('NEW', what)}" for name, what in sums.items())
    removed = ", ".join(f"{name} = {name} - {of('OLD', what)}" for name, what in sums.items())
    moved = ", ".join(
        f"{name} = {name} + {of('NEW', what)} - {of('OLD', what)}" for name, what in sums.items()
    )
    return {
        "INSERT": f"{added} WHERE device = NEW.device",
        "DELETE": f"{removed} WHERE device = OLD.device",
        f"UPDATE OF {', '.join(read)}": f"{moved} WHERE device = NEW.device",
    }


def recount(connection: sqlite3.Connection) -> None:
    """Set the sums to what the tables hold. Call it inside a transaction."""
    connection.execute(f"INSERT OR REPLACE INTO tallies (device, {', '.join(_NAMES)}) {COUNTED}")


def add_devices(connection: sqlite3.Connection, new: Iterable[str]) -> list[str]:
    """Add devices to those of the file, with their sums; returns all. Call it inside a transaction."""
    (last,) = connection.execute("SELECT max(no) FROM devices").fetchone()
    insert = "INSERT INTO devices (no, device_id) VALUES (?, ?)"
    connection.executemany(insert, enumerate(sorted(new), last + 1))
    recount(connection)
    return [name for (name,) in connection.execute("SELECT device_id FROM devices ORDER BY device_id")]


def agree(connection: sqlite3.Connection) -> bool:
    """Whether the sums are what the tables hold. Reads every line."""
    names = f"device, {', '.join(_NAMES)}"
    query = f"SELECT EXISTS (SELECT {names} FROM ({COUNTED}) EXCEPT SELECT {names} FROM tallies)"  # noqa: S608
    return not connection.execute(query).fetchone()[0]


def total(connection: sqlite3.Connection, name: str) -> int:
    """One sum over all devices."""
    return int(connection.execute(f"SELECT coalesce(sum({name}), 0) FROM tallies").fetchone()[0])  # noqa: S608


def add_indexes(connection: sqlite3.Connection) -> None:
    """Add the indexes to a file that lacks them, if its disk has room. Not inside a transaction."""
    query = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = ?)"
    if connection.execute(query, (_NEWEST_INDEX,)).fetchone()[0]:
        return
    try:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _INDEXES:
            connection.execute(statement)
        connection.execute("COMMIT")
    except sqlite3.OperationalError as exc:
        log.warning("the spool goes on without its new indexes: %s", exc)
        with suppress(sqlite3.Error):  # SQLite has done it by itself where the disk is full
            connection.execute("ROLLBACK")
