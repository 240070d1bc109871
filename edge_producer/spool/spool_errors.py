"""What an error of SQLite or of the operating system means for the spool: try again, or set it aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import SpoolDamagedError, SpoolError, SpoolUnavailableError

_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_AUTH,
    }
)
_DAMAGED = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
    }
)


SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What sqlite3 raises. It quotes damaged names in its messages, and fails where those are no text."""


@contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """Errors of sqlite3 and of the operating system as ours."""
    try:
        yield
    except (*SQLITE_ERRORS, OSError) as exc:
        raise as_spool_error(path, exc, doing) from exc


def as_spool_error(path: Path, error: Exception, doing: str = "used") -> Exception:
    """An error of sqlite3 or of the operating system as ours; any other as it is."""
    text = f"{path} cannot be {doing}: {error}"
    if isinstance(error, OSError):
        return SpoolUnavailableError(text)
    if isinstance(error, UnicodeDecodeError):
        return SpoolDamagedError(text)
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the rest tells kinds of it apart
    if code in _UNAVAILABLE:
        return SpoolUnavailableError(text)
    return SpoolDamagedError(text) if code in _DAMAGED else SpoolError(text)
