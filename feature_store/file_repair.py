"""Restores a damaged data file whose rows are still elsewhere: in the files that it merged, or with a caller.

The digest in the file's name proves the result: what comes out must be the same bytes. Where another version
of the Parquet library writes other bytes, a table goes back to the merged files instead.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store import parquet
from feature_store.damage_list import DamageList
from feature_store.data_file import COMPACTED, content_problem, digest_of, has_digest, is_sorted, origin
from feature_store.delta_entry import COMPACTOR, LogFile, compaction_inputs, entry_problem
from feature_store.lake import Lake
from feature_store.set_aside import set_aside
from feature_store.sorted_file import write_sorted
from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.tables import ONCE_REQUIRED

log = logging.getLogger(__name__)


def restore(lake: Lake, table: str, path: str) -> str | None:
    """Restore a damaged compacted file.

    Returns:
        How, in words; None: it cannot be restored.
    """
    named = origin(path)
    if named is None or named.task != COMPACTED:
        return None
    inputs = _inputs(lake.root / table, path)
    sound = bool(inputs) and all(content_problem(lake.root / table / f, None) is None for f in inputs)
    if not sound:
        return None
    if _merge_again(lake, table, path, inputs, named.width):
        return f"restored byte for byte from the {len(inputs)} files that it merged"
    if _take_back(lake, table, path, inputs):
        return f"the {len(inputs)} files that it merged took its place"
    return None


def put_back(lake: Lake, table: str, path: str, rows: pa.Table) -> bool:
    """Write a file again as a commit landed it, from the rows of that commit; False: other bytes came out."""
    named = origin(path)
    if named is None:
        return False
    for columns in _shapes(lake.snapshot(table).columns, named.width):
        try:
            fitting = parquet.conform(rows, columns)
        except ValueError:  # a row without a value that every row had to have then
            continue
        for day, part in parquet.by_day(fitting, "known_at"):
            if _day(path) != day.isoformat() or not digest_of(path):
                continue
            if (content := _as_it_was(part, parquet.LANDING, path)) is not None:
                _write(lake.root, table, path, content)
                return True
    return False


def _shapes(columns: pa.Schema, width: int) -> Iterator[pa.Schema]:
    """The first so many columns as files have them: as of now, and as of when some had to have a value."""
    now = pa.schema(list(columns)[:width])
    yield now
    then = [f.with_nullable(f.nullable and f.name not in ONCE_REQUIRED) for f in now]
    if pa.schema(then) != now:
        yield pa.schema(then)


def put_away(root: Path, table: str, path: str) -> None:
    """Set a damaged data file aside, where it exists."""
    if (root / table / path).exists():
        set_aside(root, root / table / path)


def _inputs(folder: Path, path: str) -> list[str]:
    """Files that a compaction merged into this one, as its log entry says; empty: the entry is gone."""
    for entry in sorted((folder / "_delta_log").glob("*.json"), reverse=True):
        content = DISK.read(entry) or b""
        if entry_problem(content, int(entry.stem)) is None and (
            found := compaction_inputs(content).get(path)
        ):
            return found
    return []


def _merge_again(lake: Lake, table: str, path: str, inputs: Sequence[str], width: int) -> bool:
    merge = _sort_again if is_sorted(path) else _join_again
    for columns in _shapes(lake.snapshot(table).columns, width):
        try:
            if merge(lake.root, table, path, inputs, columns):
                return True
        except (DamagedLakeError, ValueError):
            return False
    log.info("%s/%s cannot be written again with the same bytes", table, path)
    return False


def _sort_again(root: Path, table: str, path: str, inputs: Sequence[str], columns: pa.Schema) -> bool:
    """Write the file again with its rows in order; False: other bytes came out."""
    written = write_sorted(root / table, inputs, columns, path.split("/", 1)[0])
    if not written.digest.startswith(digest_of(path) or "none"):
        written.beside.unlink()
        return False
    put_away(root, table, path)
    DISK.rename(written.beside, root / table / path)
    DamageList(root).remove(table, path)
    return True


def _join_again(root: Path, table: str, path: str, inputs: Sequence[str], columns: pa.Schema) -> bool:
    """Write the file again as earlier releases did, the rows of one input after those of the other."""
    rows = parquet.concat([parquet.read(root / table / f, columns) for f in inputs], columns)
    content = _as_it_was(rows, parquet.COMPACTED, path)
    if content is None:
        return False
    _write(root, table, path, content)
    return True


def _as_it_was(rows: pa.Table, codec: parquet.Codec, path: str) -> pa.Buffer | None:
    """The rows as the file of this name, as this release or an earlier one wrote it; None: other rows."""
    return next((c for c in parquet.forms(rows, codec) if has_digest(c, path)), None)


def _write(root: Path, table: str, path: str, content: pa.Buffer) -> None:
    put_away(root, table, path)
    DISK.write(root / table / path, content.to_pybytes())
    DamageList(root).remove(table, path)


def _day(path: str) -> str:
    return path.split("/", 1)[0].partition("=")[2]


def _take_back(lake: Lake, table: str, path: str, inputs: Sequence[str]) -> bool:
    table_log = lake.log(table)
    sizes = table_log.snapshot().sizes
    if path not in sizes:
        return False  # only older cuts name it
    adds = [_log_file(lake.root / table, f) for f in inputs]
    number = (table_log.transaction(COMPACTOR) or 0) + 1
    return table_log.commit(adds, [LogFile(path, sizes[path], _day(path))], {COMPACTOR: number})


def _log_file(folder: Path, path: str) -> LogFile:
    stats = parquet.statistics(pq.read_metadata(folder / path))
    return LogFile(path, (folder / path).stat().st_size, _day(path), stats)
