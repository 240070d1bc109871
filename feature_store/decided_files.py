"""Which data files a commit record names, whoever wrote it; and which commits are in all of their tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feature_store.commit_log import CommitLog
from feature_store.lake import Lake, StagedFile
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked

Files = Mapping[str, tuple[StagedFile, ...]]


def files_of(data: bytes, what: str) -> Files:
    """Staged files by table of a commit record: a task's of the workers, or one of `append`.

    Raises:
        DamagedLakeError: The record is damaged.
    """
    raw: dict[str, Any] = checked(data, what)
    named = raw["files"] if "format" in raw else raw
    try:
        return {table: tuple(StagedFile.from_json(f) for f in files) for table, files in named.items()}
    except (TypeError, AttributeError) as exc:
        raise DamagedLakeError(f"{what} is damaged: it is no commit record ({exc})") from exc


def read_files(log: CommitLog, task: str, n: int) -> Files | None:
    """Staged files by table of commit n; None: the record is pruned or was never written.

    Raises:
        DamagedLakeError: The record is damaged.
    """
    try:
        return files_of(log.read(task, n), record_name(task, n))
    except FileNotFoundError:
        return None


def record_name(task: str, n: int) -> str:
    """Path of a commit record in the lake's folder, for messages."""
    return f"_commits/{task}/{n:012d}.json"


def landed_marks(lake: Lake, log: CommitLog) -> dict[str, int]:
    """Per task, the newest commit that all of its tables hold, from the tables' own transactions.

    Commits are applied in order: where one is in all of its tables, so are those before it.
    """
    marks = {}
    for task in log.tasks():
        numbers = log.numbers(task)
        before = max([*log.snapshots(task), numbers[0] - 1 if numbers else -1], default=-1)
        mark = next((n for n in reversed(numbers) if n > before and _is_landed(lake, log, task, n)), before)
        if mark >= 0:
            marks[task] = mark
    return marks


def _is_landed(lake: Lake, log: CommitLog, task: str, n: int) -> bool:
    try:
        named = read_files(log, task, n) or {}
        return all((lake.applied(table, task) or -1) >= n for table, files in named.items() if files)
    except (DamagedLakeError, ValueError):
        return False
