"""Input that no commit record names any more: rows of a task from the tables, by partition and offset.

Rows that came from a topic carry its offsets, rows that a built-in job derived carry commit numbers. So any
span of a task's past can be read from a cut, as long as nobody has deleted the rows.
"""

# ruff: noqa: S608  # the SQL is made of constants, numbers, and names and texts that the door quotes

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pyarrow as pa

from feature_store import connect, duck, parquet
from feature_store.commit_feed import topic_of
from feature_store.cut import Cut
from feature_store.lake import Lake
from schemas.tables import BOOKS, QUARANTINE
from schemas.topics import TASK_TOPICS
from schemas.view_specs import BOOKS_STATEMENTS
from stream_processors.user_jobs.job_input import OffsetRows, Position, StreamRows, derived

_SPARSENESS = 4
"""Offsets looked through for one that has rows: refused messages and repeats have none."""
Spans = Mapping[str, tuple[int, int]]
"""First and next offset by stream."""


class OlderRows:
    """Rows of one task in one cut. Close it after use.

    Args:
        lake: Its tables are read.
        cut: Which files.
        task: Such as ``task-03``.
        reads: Whether the job reads a table.
        memory_mb: What the query engine may take, MiB.
    """

    def __init__(self, lake: Lake, cut: Cut, task: str, reads: Callable[[str], bool], memory_mb: int) -> None:
        self._lake, self._cut, self._task, self._reads = lake, cut, task, reads
        self._partition = int(task.rpartition("-")[2])
        self._connection = connect(lake.root, cut.id, locked=False, comments=False)
        self._connection.execute(f"SET memory_limit = '{memory_mb}MB'")
        self._connection.execute("SET threads = 1")

    def close(self) -> None:
        """Give up the connection."""
        self._connection.close()

    def streams(self) -> dict[str, list[str]]:
        """Tables by stream, for the streams that the job reads: all tables of a stream move together.

        Refused messages of every topic are in ``quarantine``: who reads that reads a part of each topic.
        """
        read = self._read()
        wanted = {self._stream(table) for table in read if table != QUARANTINE.name}
        refused = [QUARANTINE.name] if QUARANTINE.name in read else []
        topics = [t.base for t in TASK_TOPICS] if refused else []
        found: dict[str, list[str]] = {topic: list(refused) for topic in topics}
        for table in self._cut.tables:
            stream = self._stream(table)
            if table != QUARANTINE.name and (stream in wanted or stream in topics):
                found.setdefault(stream, []).append(table)
        return found

    def counted(self, tables: Mapping[str, Iterable[str]], spans: Spans, limit: int) -> dict[str, StreamRows]:
        """The next offsets of each stream, with their rows.

        Args:
            tables: By stream.
            spans: What is to be read; each call looks through a part, so that its cost is that of its rows.
            limit: Most offsets of one stream.
        """
        found = {}
        for stream, (start, last) in spans.items():
            end = min(last, start + _SPARSENESS * limit)
            parts = [
                f"SELECT _offset, known_at, {int(t != QUARANTINE.name)} AS landed FROM {_view(t)} "
                f"WHERE {self._where(t, stream, start, end)}"
                for t in tables.get(stream, ())
            ]
            offsets = self._by_offset(" UNION ALL ".join(parts), limit + 1) if parts else []
            is_whole = len(offsets) <= limit and (end == last or not offsets)
            found[stream] = StreamRows(end, offsets[:limit], complete=is_whole)
        return found

    def _by_offset(self, rows: str, limit: int) -> list[OffsetRows]:
        sums = "count(*)::BIGINT AS n, max(known_at) AS at, sum(landed)::BIGINT AS landed"
        found = self._query(
            f"SELECT _offset, {sums} FROM ({rows}) GROUP BY _offset ORDER BY _offset LIMIT {limit}"
        )
        return [OffsetRows(r["_offset"], r["n"], r["at"], r["landed"]) for r in found.to_pylist()]

    def rows(self, spans: Spans) -> dict[str, pa.Table]:
        """Rows of these spans in the tables that the job reads, by table, in order of offset."""
        found = {}
        for table in self._read():
            conditions = [
                self._where(table, stream, start, end)
                for stream, (start, end) in spans.items()
                if self._holds(table, stream)
            ]
            if not conditions:
                continue
            columns = self._lake.snapshot(table).columns
            names = ", ".join(map(duck.name, columns.names))
            where = " OR ".join(f"({c})" for c in conditions)
            part = self._query(f"SELECT {names} FROM {_view(table)} WHERE {where} ORDER BY _offset, _row")
            if part.num_rows:
                found[table] = parquet.conform(part, columns)
        return found

    def _read(self) -> list[str]:
        return [table for table in self._cut.tables if self._reads(table)]

    def _stream(self, table: str) -> str:
        return topic_of(table) or derived(self._task)

    def _holds(self, table: str, stream: str) -> bool:
        """Whether the table has rows of the stream; refused messages of every topic are in ``quarantine``."""
        if table == QUARANTINE.name:
            return stream != derived(self._task)
        return self._stream(table) == stream

    def _where(self, table: str, stream: str, start: int, end: int) -> str:
        topic = f" AND topic = {duck.text(stream)}" if table == QUARANTINE.name else ""
        return f"_partition = {self._partition} AND _offset >= {start} AND _offset < {end}{topic}"

    def _query(self, sql: str) -> pa.Table:
        return duck.query(self._connection, sql)


def _view(table: str) -> str:
    return duck.name(BOOKS_STATEMENTS if table == BOOKS.name else table)


def spans_between(position: Position, ends: Position) -> dict[str, tuple[int, int]]:
    """Span of each stream that is not at its end yet."""
    return {s: (position.get(s, 0), end) for s, end in ends.items() if position.get(s, 0) < end}
