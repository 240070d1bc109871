"""One whole commit of rows that come from no topic: registrations, labels by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson
import pyarrow as pa

from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake, StagedFile, TableCommit
from schemas.errors import LakeConflictError

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
    """
    log = CommitLog(lake.root)
    for _ in range(_ATTEMPTS):
        newest = log.latest(task)
        n = 0 if newest is None else newest + 1
        # Step 1: files that no commit names; a crash leaves them to vacuum.
        staged = {table: lake.stage(table, part, task, n) for table, part in rows(n).items()}
        record = {table: [f.to_json() for f in files] for table, files in staged.items()}
        # Step 2: the decision. ``finish`` also applies the commits of earlier writers that died after theirs.
        if log.put_if_absent(task, n, orjson.dumps(record)):
            finish(lake, cuts, task)
            if (n + 1) % SNAPSHOT_EVERY == 0:
                log.write_snapshot(task, n, b"{}")
            return n
    raise LakeConflictError(f"other writers of '{task}' were first {_ATTEMPTS} times in a row")


def finish(lake: Lake, cuts: CutStore, task: str) -> None:
    """Apply decided commits that are not marked applied, show them in a cut, and mark them."""
    log = CommitLog(lake.root)
    newest, applied = log.latest(task), log.applied(task)
    if newest is None or (applied is not None and applied >= newest):
        return
    start = 0 if applied is None else applied + 1
    for n in (n for n in log.numbers(task) if n >= start):
        try:
            record = orjson.loads(log.read(task, n))
        except FileNotFoundError:
            continue  # pruned meanwhile, so another process has applied it
        for table, files in record.items():
            lake.apply(table, [TableCommit(task, n, tuple(StagedFile.from_json(f) for f in files))])
    cuts.record({task: newest})
    log.mark_applied(task, newest)
