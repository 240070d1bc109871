"""Runs the users' jobs beside a worker: a process each, told which tasks the worker owns."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from feature_store.job_status import STARTING, STOPPED, JobStatus, JobStatusFiles
from schemas.errors import PipelineError
from schemas.instants import utc_now
from stream_processors.engine.checkpoint import Checkpoint
from stream_processors.engine.task_handler import TaskHandler
from stream_processors.engine.task_loading import task_name
from stream_processors.job import RawMessage
from stream_processors.settings import StreamSettings
from stream_processors.user_jobs.job_process import JobProcess
from stream_processors.user_jobs.job_start import put_starts

log = logging.getLogger(__name__)

TICK_S = 0.25


class JobSupervisor:
    """Keeps the processes of all installed jobs running while the worker owns tasks.

    One thread does all of it and lives as long as the worker: the kernel ends a process with the thread that
    started it.

    Args:
        names: Entry points of the installed jobs.
        settings: Of the worker.
    """

    def __init__(self, names: Sequence[str], settings: StreamSettings) -> None:
        self._statuses = JobStatusFiles(settings.lake_root)
        self._processes = [JobProcess(name, settings, self._statuses, TICK_S) for name in names]
        self._owned: frozenset[int] = frozenset()
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="user-jobs", daemon=True)

    def own(self, task: int) -> None:
        """The worker owns this task from now on."""
        self._owned |= {task}
        if self._processes and self._thread.ident is None:
            self._thread.start()
        self._changed.set()

    def release(self, task: int) -> None:
        """The worker does not own this task any more."""
        self._owned -= {task}
        self._changed.set()

    def job_of(self, name: str) -> str:
        """The job's own name, once it has been loaded; until then its entry point's."""
        return next((p.job for p in self._processes if p.name == name), name)

    def _run(self) -> None:
        while True:
            self._changed.wait(TICK_S)
            self._changed.clear()
            owned = self._owned
            for process in self._processes:
                try:
                    process.check(owned, utc_now())
                except Exception:
                    log.exception("unexpected error with the process of job %s; retrying", process.name)


class WithUserJobs:
    """A task handler beside which users' jobs run: they read what it commits.

    Args:
        inner: What commits.
        checkpoint: The same tasks' checkpoint.
        root: The lake's folder.
        names: Entry points of the installed jobs.
        supervisor: Runs them.
    """

    def __init__(
        self,
        inner: TaskHandler,
        checkpoint: Checkpoint,
        root: Path,
        names: Sequence[str],
        supervisor: JobSupervisor,
    ) -> None:
        self._inner, self._checkpoint = inner, checkpoint
        self._root, self._names, self._supervisor = root, names, supervisor
        self._statuses = JobStatusFiles(root)
        self._pending: set[int] = set()

    def open(self, task: int) -> dict[str, int]:
        """Recover a task, note where jobs begin on it, and let them read it."""
        offsets = self._inner.open(task)
        self._pending.add(task)
        self._start_jobs()
        return offsets

    def process(self, batches: Mapping[int, Sequence[RawMessage]]) -> None:
        """Commit; jobs read it by themselves."""
        self._start_jobs()
        self._inner.process(batches)

    def close(self, task: int) -> None:
        """Forget a task."""
        self._pending.discard(task)
        self._supervisor.release(task)
        self._inner.close(task)

    def _start_jobs(self) -> None:
        """Note where jobs begin on tasks that were opened, before anything more is committed there."""
        for task in sorted(self._pending):
            try:
                read = put_starts(self._root, self._names, self._checkpoint.state(task))
                for name, position in read.items():
                    self._announce(self._supervisor.job_of(name), position, task_name(task))
            except (OSError, PipelineError) as exc:  # trouble of jobs must not stop the task; tried again
                log.warning("jobs cannot begin on %s yet: %s", task_name(task), exc)
                continue
            self._pending.discard(task)
            self._supervisor.own(task)

    def _announce(self, job: str, position: int, task: str) -> None:
        """Write a first status, by which vacuum spares what the job has to read; or let it try again."""
        now = utc_now()
        found = self._statuses.read(job, task)
        if found is None:
            self._statuses.write(JobStatus(job, task, position=position), now)
        elif found.state == STOPPED:
            self._statuses.write(replace(found, retry_at=None), now)
        else:
            self._statuses.write(replace(found, state=STARTING), now)
