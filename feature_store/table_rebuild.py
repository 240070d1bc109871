"""Makes a damaged Delta log anew: from the newest cut, which names the table's files, and the commit records.

The new log is a checkpoint with the next number, so whoever has the table open finds it. Nothing is deleted:
the damaged entries stay where they are, below the checkpoint, where nobody reads them any more.
"""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store import log_digests, parquet
from feature_store.commit_log import CommitLog
from feature_store.cut import Cut, TableCut
from feature_store.cut_store import CutStore
from feature_store.data_file import presence_problem
from feature_store.decided_files import read_files
from feature_store.delta import DeltaLog
from feature_store.delta_base import HINT
from feature_store.delta_entry import DIGEST, LogFile, actions_digest
from feature_store.lake import Lake, TableCommit
from feature_store.process_lock import exclusive
from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.tables import FIXED_TABLES, TableSpec
from schemas.view_specs import arrow_type

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BrokenTable:
    """A table whose log is damaged, or of an earlier moment than the newest cut.

    Attributes:
        problem: In words.
        missing: Files that the cut names and that are not on the disk, each with its rows where known.
        healed: Its log was made anew.
    """

    table: str
    problem: str
    missing: tuple[tuple[str, int | None], ...] = ()
    healed: bool = False


def broken_tables(lake: Lake, cut: Cut | None) -> list[BrokenTable]:
    """Tables whose log cannot be read or is older than the cut."""
    named = cut.tables if cut else {}
    found = []
    for table in sorted({*lake.tables(), *named}):
        problem = _problem(lake, table, named.get(table))
        if problem is not None:
            missing = _missing(lake.root / table, named[table]) if table in named else ()
            found.append(BrokenTable(table, problem, missing))
    return found


def mend_tables(
    lake: Lake, cuts: CutStore, specs: Sequence[TableSpec] = FIXED_TABLES, *, accept_loss: bool = False
) -> list[BrokenTable]:
    """Make the logs of broken tables anew, unless rows would be lost by it.

    Args:
        lake: The lake; its tables are opened anew.
        cuts: Of the same lake.
        specs: Known tables; columns of others are taken from the cut.
        accept_loss: Also where files are missing; they stay named in cuts, as damaged.

    Returns:
        Every broken table, healed or not.
    """
    cut = cuts.latest()
    found = []
    for broken in broken_tables(lake, cut):
        healed = False
        if cut is not None and broken.table in cut.tables and (accept_loss or not broken.missing):
            with exclusive(lake.root / "_repair.lock"):
                if _problem(lake, broken.table, cut.tables[broken.table]) is not None:
                    _rebuild(lake, cut, broken.table, {s.name: s for s in specs}.get(broken.table))
            healed = True
            log.warning(
                "table %s: its Delta log was made anew; it was broken: %s", broken.table, broken.problem
            )
        found.append(BrokenTable(broken.table, broken.problem, broken.missing, healed))
    return found


def _problem(lake: Lake, table: str, in_cut: TableCut | None) -> str | None:
    lake.forget(table)
    try:
        version = lake.snapshot(table).version
    except DamagedLakeError as exc:
        return str(exc)
    except ValueError:
        return f"table {table}: its folder or its Delta log is missing"
    if in_cut is not None and version < in_cut.version:
        return (
            f"table {table} is of an earlier moment than the newest cut: its Delta log ends at version "
            f"{version}, the cut was made at {in_cut.version}"
        )
    return None


def _missing(folder: Path, table: TableCut) -> tuple[tuple[str, int | None], ...]:
    return tuple((f, rows) for f, size, rows in table.sized() if presence_problem(folder / f, size))


def _rebuild(lake: Lake, cut: Cut, table: str, spec: TableSpec | None) -> None:
    folder = lake.root / table
    beside = lake.root / f".tmp-rebuild.{uuid.uuid4().hex}"
    try:
        fresh = DeltaLog.create(
            beside / table,
            _columns(cut.tables[table], spec),
            spec.doc if spec else "",
            [c for c in cut.tables[table].columns if c in parquet.PRUNING],
        )
        fresh.commit([_log_file(folder, *sized) for sized in cut.tables[table].sized()], [], cut.marks)
        checkpoint = fresh.checkpoint()
        _put(folder, checkpoint, _newest_version(folder, cut.tables[table]) + 1)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    lake.forget(table)
    _redo(lake, table, cut.marks)


def _columns(table: TableCut, spec: TableSpec | None) -> pa.Schema:
    """Columns in the cut's order: a data file has the first ones of them."""
    known = {f.name: f for f in spec.schema} if spec else {}
    return pa.schema([known.get(n) or pa.field(n, arrow_type(kind)) for n, kind in table.columns.items()])


def _log_file(folder: Path, path: str, size: int | None, rows: int | None) -> LogFile:
    day = path.split("/", 1)[0].partition("=")[2]
    try:
        stats = parquet.statistics(pq.read_metadata(folder / path))
        return LogFile(path, size or (folder / path).stat().st_size, day, stats)
    except (OSError, pa.ArrowException):  # its rows are counted all the same: the file is on the damage list
        return LogFile(path, size or 0, day, orjson.dumps({"numRecords": rows or 0}).decode())


def _newest_version(folder: Path, table: TableCut) -> int:
    names = [p.name[:20] for p in (folder / "_delta_log").glob("*")]
    return max([table.version, *(int(n) for n in names if n.isdigit())])


def _put(folder: Path, checkpoint: Path, version: int) -> None:
    """The fresh checkpoint under the next number, then the entry of that number, then the hint to it."""
    place = folder / "_delta_log"
    target = place / f"{version:020d}.checkpoint.parquet"
    DISK.write(target, checkpoint.read_bytes())
    log_digests.note(target)
    info = {"operation": "REBUILD", DIGEST: actions_digest(version, [], [], {})}
    DISK.put_if_absent(place / f"{version:020d}.json", orjson.dumps({"commitInfo": info}))
    hint = orjson.loads((checkpoint.parent / HINT).read_bytes())
    DISK.write(place / HINT, orjson.dumps({**hint, "version": version}))


def _redo(lake: Lake, table: str, marks: Mapping[str, int]) -> None:
    """Apply the commits after the cut to this table again."""
    commits = CommitLog(lake.root)
    for task in commits.tasks():
        for n in (n for n in commits.numbers(task) if n > marks.get(task, -1)):
            try:
                files = (read_files(commits, task, n) or {}).get(table, ())
            except DamagedLakeError as exc:
                log.warning("%s: %s", table, exc)
                break
            if all(presence_problem(lake.root / table / f.path, f.size) is None for f in files):
                lake.apply(table, [TableCommit(task, n, files)])
