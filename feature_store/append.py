"""One whole commit of rows that come from no topic: registrations, labels by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import orjson
import pyarrow as pa

from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake, TableCommit
from feature_store.lake_moments import TaskHistory, TaskMoments, compare
from feature_store.task_history import task_history
from schemas.errors import DamagedLakeError, LakeConflictError
from schemas.self_digest import with_digest

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
        n = log.newest(task) + 1
        parts = rows(n)
        history, _moments = _compared(lake, cuts, log, task, parts)
        if history.decided + 1 != n:
            continue
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
    history, moments = _compared(lake, cuts, log, task)
    for n in moments.redo:
        named = history.files_of(n) or {}  # None: pruned meanwhile, so another process has applied it
        for table, files in named.items():
            lake.apply(table, [TableCommit(task, n, files)])
    cuts.record({task: history.decided})
    log.mark_applied(task, history.decided)


def _compared(
    lake: Lake, cuts: CutStore, log: CommitLog, task: str, tables: Iterable[str] = ()
) -> tuple[TaskHistory, TaskMoments]:
    """What the task has decided beside what its tables and these hold of it, all of one moment.

    Raises:
        DamagedLakeError: They are of different moments.
        LakeConflictError: Other writers went on at every attempt.
    """
    for _ in range(_ATTEMPTS):
        history = task_history(log, task)
        cut = cuts.latest()
        moments = compare(lake, history, cut.marks.get(task) if cut else None, tables)
        refusal = moments.refusal()
        if refusal is None:
            return history, moments
        if log.newest(task) == history.decided:  # else another writer went on meanwhile
            raise DamagedLakeError(refusal)
    raise LakeConflictError(f"other writers of '{task}' went on {_ATTEMPTS} times in a row")
