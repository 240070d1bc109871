"""SQLite on a disk that a test can fill, write-protect or break: real databases, errors of real disks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

CODES = {
    "full": (sqlite3.SQLITE_FULL, "database or disk is full"),
    "read-only": (sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
    "broken": (sqlite3.SQLITE_IOERR, "disk I/O error"),
    "away": (sqlite3.SQLITE_CANTOPEN, "unable to open database file"),
    "damaged": (sqlite3.SQLITE_CORRUPT, "database disk image is malformed"),
    "odd": (sqlite3.SQLITE_MISUSE, "bad parameter or other API misuse"),
}
"""Error code and message of each fault, as SQLite gives them."""


class FaultySqlite:
    """Opens databases; while ``fault`` is set, what would write raises that fault.

    Attributes:
        fault: One of ``CODES``, or None.
        in_doubt: The next commit holds, and raises an I/O error all the same.
        uncommitted: The next commit does not hold, and raises an I/O error.
        refused: Number of statements that raised.
        only: A fault holds for databases for which this is true; None: for all.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        self.in_doubt = self.uncommitted = False
        self.refused = 0
        self.only: Callable[[Path], bool] | None = None

    def connect(self, path: Path) -> sqlite3.Connection:
        """As ``spool_file.connect_file`` does, but with faults."""

        class Connection(sqlite3.Connection):
            def execute(connection, sql, *args):  # noqa: N805
                self.check(path, sql)
                if sql == "COMMIT" and self.uncommitted:
                    self.uncommitted = False
                    self._raise("broken")
                result = sqlite3.Connection.execute(connection, sql, *args)
                if sql == "COMMIT" and self.in_doubt:
                    self.in_doubt = False
                    self._raise("broken")
                return result

        self.check(path, "CONNECT")
        return sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=10.0, factory=Connection
        )

    def check(self, path: Path, sql: str) -> None:
        """Raise if the fault concerns this statement."""
        concerned = self.only is None or self.only(path)
        writes = sql.startswith(("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE", "CREATE"))
        if self.fault is not None and concerned and (writes or (self.fault == "away" and sql == "CONNECT")):
            self._raise(self.fault)

    def _raise(self, fault: str) -> None:
        self.refused += 1
        code, text = CODES[fault]
        error = sqlite3.OperationalError(text) if fault != "damaged" else sqlite3.DatabaseError(text)
        error.sqlite_errorcode = code
        raise error
