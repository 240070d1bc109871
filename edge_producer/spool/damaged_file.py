"""Reads what can still be read of a damaged spool: around pages that cannot, and without its first page.

The first page names all tables. Where it is lost, that of a new spool stands in for it: the same statements
in the same order give every table the same place. Nothing read here may be believed unchecked.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

from edge_producer.spool.spool_errors import SQLITE_ERRORS
from edge_producer.spool.spool_file import PAGE, connect_file
from edge_producer.spool.spool_tables import create_tables

_MAX_FAILURES = 20_000
"""Reads that may fail before the rest of a file is given up: each costs some microseconds."""
_LARGEST_ID = 2**40


class DamagedSpoolFile:
    """One damaged spool, opened to be read.

    Attributes:
        unreadable: Places that could not be read.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self.unreadable = 0

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """The file, its log included; None where nothing of it can be read.

        Its first page is replaced where it is damaged; the damaged one is kept beside it, as ``<name>.head``.
        """
        if not path.is_file():  # SQLite would wait for the other end of a pipe
            return None
        for immutable in (False, True):
            connection = _opened(path, immutable=immutable)
            if connection is not None:
                return cls(connection)
        if not _replace_head(path):
            return None
        connection = _opened(path, immutable=False) or _opened(path, immutable=True)
        return None if connection is None else cls(connection)

    def close(self) -> None:
        """Close it; the file stays as it is."""
        self._connection.close()

    def all(self, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
        """Lines of a small table, up to the first that cannot be read."""
        try:
            query = f"SELECT {self._known(table, columns)} FROM {table}"  # noqa: S608  (constants)
            yield from self._connection.execute(query)
        except SQLITE_ERRORS:
            self.unreadable += 1

    def by_id(self, table: str, columns: str, after: int = 0) -> Iterator[tuple[Any, ...]]:
        """Lines of a table in the order of ``id``, which comes first; unreadable ones are left out."""
        highest = self._highest_id(table)
        known = self._known(table, columns)
        # Spans still to be read, the next one last: a span that fails is halved.
        spans = [(after + 1, highest)]
        while spans and self.unreadable < _MAX_FAILURES:
            low, high = spans.pop()
            if low > high:
                continue
            last = low - 1
            try:
                found = self._connection.execute(
                    f"SELECT id, {known} FROM {table} WHERE id BETWEEN ? AND ? ORDER BY id",  # noqa: S608
                    (low, high),
                )
                for line in found:
                    if not isinstance(line[0], int) or not last < line[0] <= high:
                        raise sqlite3.DatabaseError("ids out of order")
                    last = line[0]
                    yield line
            except SQLITE_ERRORS:
                self.unreadable += 1
                low = last + 1
                if low < high:
                    middle = (low + high) // 2
                    spans += [(middle + 1, high), (low, middle)]

    def _known(self, table: str, columns: str) -> str:
        """The columns by the names that the file has for them.

        NULL stands for those that the version which made the file did not have. Where a name is damaged, the
        place of the column tells which it is.
        """
        with suppress(*SQLITE_ERRORS):
            found = [row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")]
            made = _columns_of_new(table)
            odd = {name: own for name, own in zip(made, found, strict=False) if own not in made}
            return ", ".join(
                c if c in found else _quoted(odd[c]) if c in odd else "NULL" for c in columns.split(", ")
            )
        return columns

    def _highest_id(self, table: str) -> int:
        with suppress(*SQLITE_ERRORS):
            row = self._connection.execute(f"SELECT max(id) FROM {table}").fetchone()  # noqa: S608
            if row is not None and isinstance(row[0], int):
                return row[0]
            if row is not None and row[0] is None:
                return 0
        return _LARGEST_ID


def _opened(path: Path, *, immutable: bool) -> sqlite3.Connection | None:
    """A connection that reads the tables' names; None where it cannot.

    Args:
        path: The file.
        immutable: Without its log, and without the memory that readers of a log share.
    """
    mode = "immutable=1" if immutable else "mode=ro"
    try:
        connection = sqlite3.connect(f"file:{path}?{mode}", uri=True, check_same_thread=False)
    except SQLITE_ERRORS:
        return None
    try:
        connection.execute("PRAGMA cell_size_check = ON")
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.execute("SELECT count(*) FROM meta").fetchone()
            return connection
    except SQLITE_ERRORS:
        pass
    connection.close()
    return None


def _replace_head(path: Path) -> bool:
    """Give a file the first page of a new spool; False where that cannot help, or cannot be done."""
    try:
        size = path.stat().st_size
        if size < 2 * PAGE:
            return False
        with path.open("r+b") as file:
            path.with_suffix(".head").write_bytes(file.read(PAGE))
            file.seek(0)
            file.write(_new_head(size // PAGE))
    except OSError:
        return False
    return True


def _new_head(pages: int) -> bytes:
    connection = connect_file(Path(":memory:"))
    try:
        create_tables(connection)
        head = bytearray(connection.serialize()[:PAGE])
    finally:
        connection.close()
    head[18:20] = b"\x02\x02"  # written and read with a log
    head[28:32] = pages.to_bytes(4, "big")
    head[32:40] = bytes(8)  # no list of free pages
    head[92:96] = head[24:28]  # the number of pages is valid
    return bytes(head)


@cache
def _columns_of_new(table: str) -> list[str]:
    connection = connect_file(Path(":memory:"))
    try:
        create_tables(connection)
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    finally:
        connection.close()


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))
