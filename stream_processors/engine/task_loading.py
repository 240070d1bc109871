"""Loads a task from the commit log: the newest readable snapshot, and the records after it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from feature_store.commit_log import SNAPSHOT, CommitLog
from feature_store.decided_files import Files, record_name
from feature_store.lake_moments import TaskHistory
from schemas.errors import DamagedLakeError
from stream_processors.engine.records import CommitRecord, TaskState

log = logging.getLogger(__name__)

_RUNBOOK = "docs/runbook.md#damaged-commit-records"
_ATTEMPTS = 5
_MISSHAPEN = (KeyError, TypeError, ValueError, AttributeError)
"""What parsing JSON of another shape raises: records of release 0.2.0 have no digest that shows it before."""


def task_name(partition: int) -> str:
    """Name of the task that owns this partition of all task topics."""
    return f"task-{partition:02d}"


@dataclass(frozen=True)
class LoadedTask:
    """A task as the commit log has it.

    Attributes:
        state: After its newest commit.
        base: The snapshot that the records were added to; n = -1: none.
        records: Those after it, by number.
        unreadable: Snapshots that were passed over because they are damaged.
    """

    state: TaskState
    base: TaskState
    records: Mapping[int, CommitRecord] = field(default_factory=dict)
    unreadable: tuple[int, ...] = ()

    def state_at(self, n: int) -> TaskState:
        """State after commit n, which is none before the base."""
        state = self.base
        for number in range(self.base.n + 1, n + 1):
            state = state.after(self.records[number])
        return state

    def history(self, commits: CommitLog) -> TaskHistory:
        """What the task has decided, to compare with the tables."""

        def files_of(n: int) -> Files | None:
            record = read_record(commits, self.state.task, n)
            return None if record is None else record.files

        state, base = self.state, self.base
        return TaskHistory(state.task, state.n, state.named, files_of, base.n, base.named)


def load_task(commits: CommitLog, task: str) -> LoadedTask:
    """The task after its newest decided commit.

    Raises:
        DamagedLakeError: A snapshot or record that is needed is damaged or missing.
    """
    for _ in range(_ATTEMPTS):
        base, unreadable = _base(commits, task)
        newest = commits.newest(task)
        records = {n: read_record(commits, task, n) for n in range(base.n + 1, newest + 1)}
        missing = next((n for n, record in records.items() if record is None), None)
        if missing is None or commits.snapshots(task)[:1] <= [base.n]:
            break  # else a snapshot was taken, and records were pruned meanwhile
    if missing is not None:
        raise DamagedLakeError(_hole(task, missing, newest, unreadable))
    state = base
    for record in records.values():
        state = state.after(record) if record else state
    return LoadedTask(state, base, {n: r for n, r in records.items() if r}, unreadable)


def read_record(commits: CommitLog, task: str, n: int) -> CommitRecord | None:
    """Record n; None: it does not exist.

    Raises:
        DamagedLakeError: It is damaged.
    """
    try:
        record = CommitRecord.from_bytes(commits.read(task, n))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise DamagedLakeError(_unreadable(task, n, f"it cannot be read ({exc.strerror or exc})")) from exc
    except (DamagedLakeError, *_MISSHAPEN) as exc:
        raise DamagedLakeError(_unreadable(task, n, str(exc))) from exc
    if (record.task, record.n) != (task, n):
        raise DamagedLakeError(_unreadable(task, n, f"it holds {record.task}/{record.n}"))
    return record


def _unreadable(task: str, n: int, problem: str) -> str:
    return (
        f"{task} is stopped: {record_name(task, n)} is unreadable: {problem}. What the task remembers after "
        f"commit {n - 1} is lost with it: restore the file from a backup ({_RUNBOOK})"
    )


def _base(commits: CommitLog, task: str) -> tuple[TaskState, tuple[int, ...]]:
    unreadable: list[int] = []
    for n in commits.snapshots(task):
        try:
            return read_snapshot(commits, task, n), tuple(unreadable)
        except DamagedLakeError as exc:
            log.warning("snapshot %s/%d cannot be read, an older one is used: %s", task, n, exc)
        unreadable.append(n)
    return TaskState(task), tuple(unreadable)


def read_snapshot(commits: CommitLog, task: str, n: int) -> TaskState:
    """State in snapshot n.

    Raises:
        DamagedLakeError: It is damaged or missing.
    """
    name = f"_commits/{task}/{n:012d}{SNAPSHOT}"
    try:
        state = TaskState.from_bytes(commits.read_snapshot(task, n))
    except (OSError, *_MISSHAPEN) as exc:
        raise DamagedLakeError(f"{name} is unreadable: {exc!r}") from exc
    if (state.task, state.n) != (task, n):
        raise DamagedLakeError(f"{name} is unreadable: it holds {state.task}/{state.n}")
    return state


def _hole(task: str, n: int, newest: int, unreadable: tuple[int, ...]) -> str:
    damaged = "".join(f", and {task}/{i:012d}{SNAPSHOT} is damaged" for i in unreadable)
    return (
        f"{task} is stopped: its commit log has a hole: {record_name(task, n)} is missing and the newest "
        f"commit is {newest}{damaged}. What the task remembers after commit {n - 1} is lost with it: restore "
        f"the file from a backup ({_RUNBOOK})"
    )
