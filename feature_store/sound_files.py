"""Rows of data files that are as they were written; the others go on the damage list."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from feature_store import parquet
from feature_store.damage_list import DamageList
from feature_store.delta import Snapshot
from schemas.errors import DamagedLakeError

log = logging.getLogger(__name__)


def read_each(root: Path, table: str, files: Iterable[str], snapshot: Snapshot) -> dict[str, pa.Table]:
    """Rows by file, without damaged files.

    Args:
        root: The lake's folder.
        table: Name of the table.
        files: Paths relative to the table's folder.
        snapshot: Of the table: its columns, and how many rows each file holds.
    """
    found = {}
    for file in files:
        try:
            found[file] = parquet.read(root / table / file, snapshot.columns)
        except DamagedLakeError as exc:
            damaged = DamageList(root).add(table, file, snapshot.rows.get(file), str(exc))
            log.warning("%s (docs/runbook.md#damaged-data-files)", damaged.line())
    return found


def read_all(root: Path, table: str, snapshot: Snapshot) -> pa.Table:
    """Rows of all files of a table, without damaged files."""
    parts = read_each(root, table, snapshot.sizes, snapshot)
    return parquet.concat(list(parts.values()), snapshot.columns)
