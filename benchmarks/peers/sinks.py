"""Rows at a sink, counted from outside while a process writes: a Delta table or a folder of Parquet files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.delta_entry import TableState
from feature_store.duck import file_list


class SinkRows:
    """Rows that have landed in a folder.

    Args:
        folder: Of the Delta table, or of Parquet files at any depth; need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = TableState(-1, pa.schema([]), {})
        self._files: dict[Path, int] = {}

    def count(self) -> int:
        """Rows that are committed by now."""
        if self._is_delta():
            while (entry := self._folder / "_delta_log" / f"{self._log.version + 1:020d}.json").exists():
                self._log.apply(entry.read_bytes())
            return sum(self._log.rows.values())
        for path in self._folder.rglob("*.parquet"):
            if path not in self._files:
                with suppress(OSError, pa.ArrowInvalid):  # it is being written
                    self._files[path] = pq.read_metadata(path).num_rows
        return sum(self._files.values())

    def require(self, rows: int) -> None:
        """Read the sink and compare.

        Raises:
            RuntimeError: It lacks rows, or holds one twice.
        """
        paths = [self._folder / p for p in self._log.sizes] if self._is_delta() else [*self._files]
        sql = f"SELECT count(*), count(DISTINCT (device_id, seq)) FROM read_parquet({file_list(paths)})"
        [found] = duckdb.sql(sql).fetchall()
        if found != (rows, rows):
            raise RuntimeError(f"{self._folder} holds {found} rows (all, distinct), not {rows}")

    def _is_delta(self) -> bool:
        return (self._folder / "_delta_log").is_dir()
