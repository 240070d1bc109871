"""What the commit log knows of any task: its newest commit, and the newest one that names each table."""

from __future__ import annotations

from feature_store.commit_log import SNAPSHOT, CommitLog
from feature_store.decided_files import read_files, record_name
from feature_store.lake_moments import TaskHistory
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked


def task_history(log: CommitLog, task: str) -> TaskHistory:
    """The task's records after its newest readable snapshot.

    Raises:
        DamagedLakeError: A record that is needed is damaged or missing.
    """
    base, base_named = _newest_snapshot(log, task)
    named = dict(base_named)
    newest = log.newest(task)
    for n in range(base + 1, newest + 1):
        files = read_files(log, task, n)
        if files is None:
            raise DamagedLakeError(
                f"{task}: its commit log has a hole: {record_name(task, n)} is missing and the newest commit "
                f"is {newest}; restore the file from a backup (docs/runbook.md#damaged-commit-records)"
            )
        named |= {table: n for table, staged in files.items() if staged}
    return TaskHistory(task, newest, named, lambda n: read_files(log, task, n), base, base_named)


def _newest_snapshot(log: CommitLog, task: str) -> tuple[int, dict[str, int]]:
    for n in log.snapshots(task):
        try:
            raw = checked(log.read_snapshot(task, n), f"_commits/{task}/{n:012d}{SNAPSHOT}")
        except (DamagedLakeError, OSError):
            continue
        return n, dict(raw.get("named", {}))
    return -1, {}
