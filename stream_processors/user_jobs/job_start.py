"""Where a user job begins on a task: written once, when a worker opens the task, before it commits anything.

``<lake>/_jobs/<job>/<task number>.start`` holds the job's first state as a snapshot. It names the next commit
of the task, so a new job begins with it. In release 0.2.0 users' jobs ran inside the task's own commits, with
their state under ``<job>/…``: such a job goes on from that state, at the commit after the last that ran it.
The job's own commits are numbered on from the task's, so that no row of it gets the place of an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from feature_store.commit_feed import FeedEntry, landed_rows
from feature_store.commit_log import CommitLog
from feature_store.job_status import JOBS_FOLDER
from feature_store.lake import Lake
from schemas.durable import DISK
from schemas.errors import LakeConflictError, OperatorError
from stream_processors.engine.records import TaskState
from stream_processors.user_jobs.declaration import UserJob


def job_task_name(job: str, task: str) -> str:
    """Name of the task under which the job's own commits are kept: ``job-<job>-<task number>``."""
    return f"job-{job}-{task.rpartition('-')[2]}"


def put_starts(root: Path, installed: Iterable[str], source: TaskState) -> dict[str, int]:
    """Record where jobs begin that have not begun on this task yet.

    Args:
        root: The lake's folder.
        installed: Names of the installed jobs.
        source: State of the task as it was opened.

    Returns:
        By job the newest commit that it has surely read: of the installed jobs, and of those that the task's
        newest commit ran itself.
    """
    read = {}
    for name in sorted({*installed, *_inside(root, source)}):
        path = _path(root, name, source.task)
        is_new = not path.exists() and DISK.put_if_absent(path, first_state(name, source).to_bytes())
        read[name] = source.n if is_new else -1
    return read


def first_state(job: str, source: TaskState) -> TaskState:
    """State with which the job begins after commit ``source.n`` of the task."""
    own = f"{job}/"
    landed = {f"{own}{seen(topic)}": rows for topic, rows in landed_rows(source.counters).items() if rows}
    counters = {key: count for key, count in source.counters.items() if key.startswith(own)}
    return TaskState(
        task=job_task_name(job, source.task),
        n=max(source.n, 0),
        offsets={**source.offsets, source.task: source.n + 1},
        state={key: value for key, value in source.state.items() if key.startswith(own)},
        counters={**counters, **landed},
        log=source.log,
    )


def begin(lake: Lake, commits: CommitLog, job: UserJob, installed_as: str, task: str) -> None:
    """Make the job's first snapshot from its start, if the job has none yet.

    Safe to repeat, also by two processes at once: both write the same.

    Args:
        lake: Holds the job's tables.
        commits: Of the same lake.
        job: The job.
        installed_as: Name of its entry point, under which its start may stand where the two differ.
        task: Task that it reads.

    Raises:
        LakeConflictError: No worker has recorded a start yet.
        OperatorError: The start cannot be read.
    """
    name = job_task_name(job.name, task)
    if commits.latest_snapshot(name) is not None or commits.latest(name) is not None:
        return
    payload = DISK.read(_path(lake.root, job.name, task))
    if payload is None and (other := DISK.read(_path(lake.root, installed_as, task))) is not None:
        start = _read(other, installed_as, task)
        counters = {_renamed(k, installed_as, job.name): v for k, v in start.counters.items()}
        moved = TaskState(name, start.n, start.offsets, {}, counters, start.log)
        DISK.put_if_absent(_path(lake.root, job.name, task), moved.to_bytes())
        payload = DISK.read(_path(lake.root, job.name, task))
    if payload is None:
        raise LakeConflictError(f"{name} has no start: a worker writes it when it opens {task}")
    start = _read(payload, job.name, task)
    written = [table for table in job.writes if table in lake.tables()]
    ran = start.state or any(lake.applied(table, task) is not None for table in written)
    if job.earliest and not ran:
        start = replace(start, offsets={}, counters={})
    commits.write_snapshot(name, start.n, start.to_bytes())


def seen(topic: str) -> str:
    """Counter of the rows of a topic that a job has had before it."""
    return f"input/{topic}"


def _inside(root: Path, source: TaskState) -> Iterable[str]:
    """Users' jobs that ran within the task's newest commit, as release 0.2.0 did it."""
    try:
        return FeedEntry.from_record(CommitLog(root).read(source.task, source.n)).inside
    except FileNotFoundError:
        return ()


def _read(payload: bytes, job: str, task: str) -> TaskState:
    try:
        return TaskState.from_bytes(payload)
    except (OperatorError, KeyError, TypeError) as exc:
        name = f"{JOBS_FOLDER}/{job}/{task.rpartition('-')[2]}.start"
        raise OperatorError(
            f"the start of job '{job}' on {task} is damaged: remove {name} from the lake's folder and "
            "restart the workers; the job then begins with the next commit"
        ) from exc


def _renamed(key: str, old: str, new: str) -> str:
    return f"{new}/{key.removeprefix(f'{old}/')}"


def _path(root: Path, job: str, task: str) -> Path:
    return root / JOBS_FOLDER / job / f"{task.rpartition('-')[2]}.start"
