"""Deletes files of the lake that no query can read any more.

These are files that no cut on record, no pin and no unfinished commit names, that no user job has yet to
read, and none younger than an hour. Excerpts that have left their table go whatever names them still.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from feature_store.commit_feed import unread_files
from feature_store.commit_log import CommitLog
from feature_store.cut import paths, without_excerpts
from feature_store.cut_store import CutStore
from feature_store.damage_list import DamageList, by_table
from feature_store.data_file import COMPACTED, origin
from feature_store.lake import Lake
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, OperatorError
from schemas.excerpt_table import holds_excerpts
from schemas.tables import PARTITION_COLUMN

log = logging.getLogger(__name__)

GRACE = timedelta(hours=1)
"""Younger files are never deleted: a commit may be about to name them, a query may be reading them."""


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
        named |= {path for cut in kept for path in paths(lake.root, without_excerpts(cut))}
        unread = _unread(lake, now)
        raw = {p for p in old if holds_excerpts(p.parts[depth])}
        spared = named | (unread - raw) if unread is not None else set(old)
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
        for pattern in (
            "*/",
            "_commits/*/",
            "_profiles/*/",
            "_profile_versions/*/",
            "_jobs/*/",
            "_jobs/_feed/*/",
        )
        for folder in lake.root.glob(pattern)
    )
    for folder in (lake.root, *below):
        DISK.sweep(folder, (now - GRACE).timestamp())


def _is_old(path: Path, now: datetime) -> bool:
    try:
        return now.timestamp() - path.stat().st_mtime > GRACE.total_seconds()
    except FileNotFoundError:
        return False
