"""Keeps the lake small: merges small files, and deletes files that no query can read any more.

``compact`` runs beside writers and readers. ``vacuum`` deletes only files that no cut on record, no pin and
no unfinished commit names, that no user job has yet to read, and no file younger than an hour.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from feature_store import parquet
from feature_store.commit_feed import unread_files
from feature_store.commit_log import CommitLog
from feature_store.cut import paths
from feature_store.cut_store import CutStore
from feature_store.damage_list import DamageList, by_table
from feature_store.data_file import COMPACTED, Origin, origin
from feature_store.delta_entry import INPUTS, LogFile
from feature_store.lake import Lake
from feature_store.sound_files import read_each
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, OperatorError
from schemas.tables import PARTITION_COLUMN

log = logging.getLogger(__name__)

GRACE = timedelta(hours=1)
"""Younger files are never deleted: a commit may be about to name them, a query may be reading them."""
_APP = "compactor"
"""Application of compactions: by its transaction the second of two simultaneous ones is refused."""


@dataclass(frozen=True)
class CompactionPolicy:
    """When and how to compact.

    Attributes:
        small_bytes: Files below it are worth merging.
        target_bytes: Most input merged into one file; memory is bounded to about ten times as much.
        least_files: Fewer small files of a table are left alone.
    """

    small_bytes: int = 16 * 1024**2
    target_bytes: int = 32 * 1024**2
    least_files: int = 8


def compact(lake: Lake, cuts: CutStore, policy: CompactionPolicy | None = None) -> int:
    """Merge small files of every table, and show the result in a new cut.

    Returns:
        How many files were replaced.
    """
    merged = sum(compact_table(lake, cuts, table, policy or CompactionPolicy()) for table in lake.tables())
    if merged:
        cuts.record({})
    return merged


def compact_table(lake: Lake, cuts: CutStore, table: str, policy: CompactionPolicy) -> int:
    """Merge small files of one table.

    It merges only files that the newest cut names: so no merged file ever holds rows of a commit that another
    table still lacks.

    Returns:
        How many files were replaced; also 0 where another compactor was first.
    """
    table_log = lake.log(table)
    table_log.catch_up()
    cut = cuts.latest()
    if cut is None or table not in cut.tables:
        return 0
    snapshot = table_log.snapshot()
    damaged = DamageList(lake.root).of_table(table)
    files = [f for f in cut.tables[table].files if f not in damaged]
    sizes = {f: snapshot.sizes[f] for f in files if f in snapshot.sizes}
    adds, removes = [], []
    inputs: dict[str, list[str]] = {}
    for day, group in plan(sizes, policy):
        sound = read_each(lake.root, table, group, snapshot)
        if len(sound) > 1:
            rows = parquet.concat(list(sound.values()), snapshot.columns)
            name = Origin(COMPACTED, cut.id, len(snapshot.columns))
            whole = lake.write(table, rows, day, name, parquet.COMPACTED)
            adds.append(LogFile(whole.path, whole.size, day, whole.stats))
            removes += [LogFile(f, sizes[f], day) for f in sound]
            inputs[whole.path] = list(sound)
    if not adds:
        return 0
    number = (table_log.transaction(_APP) or 0) + 1
    return len(removes) if table_log.commit(adds, removes, {_APP: number}, {INPUTS: inputs}) else 0


def plan(sizes: Mapping[str, int], policy: CompactionPolicy) -> list[tuple[str, list[str]]]:
    """Which files to merge into one: lists of paths with their day."""
    days: dict[str, list[str]] = defaultdict(list)
    for file, size in sorted(sizes.items()):
        if size < policy.small_bytes and (day := _day(file)):
            days[day].append(file)
    groups: list[tuple[str, list[str]]] = []
    for day, files in sorted(days.items()):
        groups += [(day, group) for group in _pack(files, sizes, policy.target_bytes) if len(group) > 1]
    few = sum(len(files) for _, files in groups) < policy.least_files
    return [] if few else groups


def _pack(files: Iterable[str], sizes: Mapping[str, int], target_bytes: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    filled = 0
    for file in files:
        if groups[-1] and filled + sizes[file] > target_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(file)
        filled += sizes[file]
    return groups


def _day(file: str) -> str:
    key, _, value = file.split("/", 1)[0].partition("=")
    return value if key == PARTITION_COLUMN and "/" in file else ""


def vacuum(lake: Lake, cuts: CutStore, now: datetime) -> int:
    """Drop old cuts, then delete data files and log entries that are not needed any more.

    Args:
        lake: Its tables are cleaned up.
        cuts: Of the same lake.
        now: UTC; files younger than an hour by then stay.

    Returns:
        How many data files were deleted.
    """
    with cuts.housekeeping():
        if unreadable := cuts.damaged_pins():
            log.error("vacuum deletes nothing while a pin cannot be read: %s", "; ".join(unreadable.values()))
            return 0
        cuts.thin(now)
        # The order of these reads matters. A file of a commit is first named by a commit that is not marked
        # applied, then by its table's log, then by a cut: read in this order, none slips through between two.
        old, depth = _old_files(lake, now), len(lake.root.parts)
        commits = CommitLog(lake.root)
        applied = {task: commits.applied(task) for task in commits.tasks()}
        active = _active_files(lake)
        named = {lake.root / t / f for t, files in active.items() for f in files}
        kept = cuts.kept()
        named |= {path for cut in kept for path in paths(lake.root, cut)}
        unread = _unread(lake, now)
        spared = named | unread if unread is not None else set(old)
        gone = [
            p for p in old if p not in spared and p.parts[depth] in active and not unfinished(p.name, applied)
        ]
        for path in gone:
            path.unlink(missing_ok=True)
        _sweep(lake, now)
        for table in active:
            versions = [cut.tables[table].version for cut in kept if table in cut.tables]
            lake.log(table).forget(min(versions, default=0), now - GRACE)
    if gone:
        log.info("vacuum deleted %d files", len(gone))
    return len(gone)


def _active_files(lake: Lake) -> dict[str, Iterable[str]]:
    """Files by table that the logs name; without tables of which anything is damaged.

    What is left of such a table may be all that it can be healed from.
    """
    listed = by_table(DamageList(lake.root).all())
    found: dict[str, Iterable[str]] = {}
    for table in lake.tables():
        try:
            files = lake.snapshot(table).sizes
        except DamagedLakeError as exc:
            log.warning("vacuum leaves table %s alone: %s", table, exc)
            continue
        if table not in listed:
            found[table] = files
    return found


def _unread(lake: Lake, now: datetime) -> set[Path] | None:
    """Files that user jobs have yet to read; None where the commits cannot be read that name them."""
    try:
        return unread_files(lake.root, now)
    except OperatorError:
        log.exception("vacuum deletes no data file: it cannot tell what user jobs have not read yet")
        return None


def unfinished(file: str, applied: Mapping[str, int | None]) -> bool:
    """Whether a commit that is not marked applied may still name the file."""
    found = origin(file)
    if found is None:
        return True  # another engine wrote it, and may still use it
    if found.task == COMPACTED:
        return False
    mark = applied.get(found.task)
    return mark is None or found.n > mark


def _old_files(lake: Lake, now: datetime) -> list[Path]:
    found = []
    for table in lake.tables():
        for path in (lake.root / table).glob(f"{PARTITION_COLUMN}=*/*.parquet"):
            if _is_old(path, now):
                found.append(path)
    return found


def _sweep(lake: Lake, now: datetime) -> None:
    below = (
        folder
        for pattern in ("*/", "_commits/*/", "_profiles/*/", "_jobs/*/", "_jobs/_feed/*/")
        for folder in lake.root.glob(pattern)
    )
    for folder in (lake.root, *below):
        DISK.sweep(folder, (now - GRACE).timestamp())


def _is_old(path: Path, now: datetime) -> bool:
    try:
        return now.timestamp() - path.stat().st_mtime > GRACE.total_seconds()
    except FileNotFoundError:
        return False
