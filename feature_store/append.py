"""One whole commit of rows that come from no topic: registrations, labels by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import orjson
import pyarrow as pa

from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake, TableCommit
from feature_store.lake_moments import TaskHistory, compare
from feature_store.self_digest import with_digest
from feature_store.task_history import task_history
from schemas.errors import DamagedLakeError, LakeConflictError

SNAPSHOT_EVERY = 32
_ATTEMPTS = 50


def append(lake: Lake, cuts: CutStore, task: str, rows: Callable[[int], Mapping[str, pa.Table]]) -> int:
    """Commit the rows to their tables, all or nothing, and record a cut that shows them.

    Several processes may append under one task at once.

    Args:
        lake: Holds the tables.
        cuts: Of the same lake.
        task: Name under which the rows are committed.
        rows: Gives the rows by table for a commit number; called once per attempt.

    Returns:
        Number of the commit.

    Raises:
        LakeConflictError: Other writers were first at every attempt.
        DamagedLakeError: The commit log is damaged, or is of another moment than the tables.
    """
    log = CommitLog(lake.root)
    for _ in range(_ATTEMPTS):
        history = task_history(log, task)
        n = history.decided + 1
        parts = rows(n)
        _refuse_other_moments(lake, cuts, history, parts)
        # Step 1: files that no commit names; a crash leaves them to vacuum.
        staged = {table: lake.stage(table, part, task, n) for table, part in parts.items()}
        record = {table: [f.to_json() for f in files] for table, files in staged.items()}
        # Step 2: the decision. ``finish`` also applies the commits of earlier writers that died after theirs.
        if log.put_if_absent(task, n, with_digest(orjson.dumps(record))):
            finish(lake, cuts, task)
            if (n + 1) % SNAPSHOT_EVERY == 0:
                named = {"named": dict(task_history(log, task).named)}
                log.write_snapshot(task, n, with_digest(orjson.dumps(named)))
            return n
    raise LakeConflictError(f"other writers of '{task}' were first {_ATTEMPTS} times in a row")


def finish(lake: Lake, cuts: CutStore, task: str) -> None:
    """Apply decided commits that a table lacks, show them in a cut, and mark them.

    Raises:
        DamagedLakeError: The commit log is damaged, or is of another moment than the tables.
    """
    log = CommitLog(lake.root)
    decided = log.newest(task)
    if decided < 0 or log.applied(task) == decided:
        return
    history = task_history(log, task)
    redo = _refuse_other_moments(lake, cuts, history)
    for n in redo:
        for table, files in (
            history.files_of(n) or {}
        ).items():  # None: pruned, so another process applied it
            lake.apply(table, [TableCommit(task, n, files)])
    cuts.record({task: history.decided})
    log.mark_applied(task, history.decided)


def _refuse_other_moments(
    lake: Lake, cuts: CutStore, history: TaskHistory, tables: Iterable[str] = ()
) -> list[int]:
    """Commits to apply, once it is clear that these tables and the commit log come from one moment."""
    cut = cuts.latest()
    moments = compare(lake, history, cut.marks.get(history.task) if cut else None, tables)
    if refusal := moments.refusal():
        raise DamagedLakeError(refusal)
    return moments.redo
