"""The door to duckdb: connections that only read, and its errors translated to ours."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from feature_store.spill_folder import spill_folder
from schemas.errors import QueryError, UnreadableDataError

Connection = Any
"""A ``duckdb.DuckDBPyConnection``: duckdb ships no complete type information."""

_READING = (duckdb.IOException, duckdb.InvalidInputException, duckdb.InternalException, duckdb.FatalException)


OLDEST_CLIENT = "v1.0.0"
"""Oldest DuckDB that reads the files that we write."""


def build(
    statements: Iterable[str], database: Path | None = None, relative_to: Path | None = None
) -> Connection:
    """A connection after these statements; times are UTC.

    Args:
        statements: SQL, in order.
        database: A new file to hold what they make; None: nothing outlasts the connection.
        relative_to: Folder that relative paths in them begin at; None: the working directory.

    Raises:
        QueryError: DuckDB refuses one of them, or cannot read a file that it names.
    """
    with translated():
        connection = duckdb.connect(":memory:")
        connection.execute("SET TimeZone = 'UTC'")
        # A file of the lake never changes, and reading its footer costs more than one device's rows in it.
        connection.execute("SET parquet_metadata_cache = true")
        if relative_to is not None:
            connection.execute(f"SET file_search_path = {text(str(relative_to))}")
        if database is not None:
            connection.execute(
                f"ATTACH {text(str(database))} AS made (STORAGE_VERSION {text(OLDEST_CLIENT)}); USE made"
            )
        for statement in statements:
            connection.execute(statement)
        return connection


def describe(connection: Connection, statements: Iterable[str]) -> None:
    """Run statements that describe what ``build`` made, all or none.

    Raises:
        QueryError: DuckDB refuses one of them, or the disk does.
    """
    with translated():
        connection.execute("; ".join(["BEGIN", *statements, "COMMIT"]))


def finish(connection: Connection) -> None:
    """Close a connection that made a file, with everything in the file itself.

    Closing alone says nothing where the disk is full: what was made is then in the log beside the file only.

    Raises:
        QueryError: It could not be written.
    """
    with translated(), connection:
        connection.execute("CHECKPOINT")


def columns_of_views(connection: Connection) -> dict[str, set[str]]:
    """Columns of each view of the connection, by the view's name."""
    with translated():
        found: dict[str, set[str]] = {}
        query = (
            "SELECT table_name, column_name FROM duckdb_columns() "
            "WHERE NOT internal AND database_name = current_database()"
        )
        for view, column in connection.execute(query).fetchall():
            found.setdefault(view, set()).add(column)
        return found


def is_readable(database: Path) -> bool:
    """Whether DuckDB can open a file of views."""
    try:
        with duckdb.connect(str(database), read_only=True) as connection:
            connection.execute("SELECT count(*) FROM duckdb_views()").fetchall()
    except (duckdb.Error, OSError):
        return False
    return True


def lock(connection: Connection, readable: Sequence[Path]) -> None:
    """Restrict the connection to reading these files, for good.

    Not even a new file in the lake can be written: ``COPY … TO``, ``ATTACH`` of files and ``INSTALL`` fail.
    """
    connection.execute(f"SET temp_directory = {text(str(spill_folder() / uuid.uuid4().hex))}")
    connection.execute(f"SET allowed_paths = {file_list(readable)}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def query(connection: Connection, sql: str) -> pa.Table:
    """Result of one reading statement.

    Raises:
        QueryError: DuckDB refuses it, or it is no reading statement.
    """
    with translated():
        _check(sql)
        result: pa.Table = connection.sql(sql).to_arrow_table()
        return result


@contextmanager
def translated() -> Iterator[None]:
    """DuckDB's errors as ``QueryError``, or ``UnreadableDataError`` if a file may be the cause."""
    try:
        yield
    except duckdb.Error as exc:
        # Thrift's errors come without a class of their own; the others name the file.
        unreadable = type(exc) is duckdb.Error or (isinstance(exc, _READING) and ".parquet" in str(exc))
        raise (UnreadableDataError if unreadable else QueryError)(str(exc)) from exc


def _check(sql: str) -> None:
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"one statement at a time, got {len(statements)}")
    kind = statements[0].type.name
    if kind == "EXPLAIN":
        _check(_explained(statements[0].query))
    elif kind != "SELECT" and not (kind == "MULTI" and "pivot" in sql.lower()):
        raise QueryError(f"{kind} is not allowed here: the lake is read only; SELECT from the views")


def _explained(sql: str) -> str:
    """The statement that an EXPLAIN or EXPLAIN ANALYZE is about."""
    words = sql.strip().split(None, 2)
    if len(words) == 3 and words[1].lower().startswith("analy"):
        return words[2]
    return sql.strip().split(None, 1)[1]


def text(value: str) -> str:
    """SQL literal of a text."""
    return "'" + value.replace("'", "''") + "'"


def name(value: str) -> str:
    """SQL identifier, quoted."""
    return '"' + value.replace('"', '""') + '"'


LARGEST_TOTAL = 10**18 - 1
"""Largest sum that a view shows: nine of them still add up within BIGINT."""


def total(expression: str, condition: str = "true") -> str:
    """SQL of a sum of whole numbers as BIGINT, whatever the rows say: it stops at ``LARGEST_TOTAL``.

    DuckDB sums BIGINT without overflow, but a cast of the sum fails for every reader of the view.

    Args:
        expression: What is summed; its own arithmetic must not overflow (cast to HUGEINT).
        condition: Of the rows that count.
    """
    return (
        f"greatest(least(coalesce(sum({expression}) FILTER ({condition}), 0), {LARGEST_TOTAL}), "
        f"-{LARGEST_TOTAL})::BIGINT"
    )


def file_list(paths: Iterable[Path]) -> str:
    """SQL list of paths."""
    return "[" + ", ".join(text(str(p)) for p in paths) + "]"
