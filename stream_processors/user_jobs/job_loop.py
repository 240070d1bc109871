"""Runs one job on the tasks that its process owns: round after round, each failure kept to its task."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from feature_store.job_status import RUNNING, STARTING, STOPPED, JobStatus, JobStatusFiles
from schemas.errors import OperatorError, PipelineError, RetryableError
from schemas.instants import has_passed
from stream_processors.engine.records import CommitRecord
from stream_processors.engine.task_loading import task_name
from stream_processors.job import RawMessage
from stream_processors.user_jobs.declaration import UserJob
from stream_processors.user_jobs.job_checkpoint import JobCheckpoint, JobFailedError
from stream_processors.user_jobs.job_input import JobInput
from stream_processors.user_jobs.job_points import UNKNOWN_PACKAGE, InstalledPackage

log = logging.getLogger(__name__)

STATUS_EVERY = timedelta(seconds=2)
"""Least time between two writes of a status that says nothing new but the position."""
KEPT_BACK_PAUSE = timedelta(seconds=2)
"""Wait after broker, lake or disk failed, or after another process was first."""
LONG_AGO = datetime.min.replace(tzinfo=UTC)
_LOOK_EVERY = timedelta(seconds=1)
_LONGEST_TRACE = 8000


class _Staged(NamedTuple):
    """What came of one task's turn.

    Attributes:
        record: To be decided on, if anything.
        messages: Raw messages behind it.
        more: More input waits.
    """

    record: CommitRecord | None = None
    messages: Sequence[RawMessage] = ()
    more: bool = False


@dataclass(frozen=True)
class LoopSettings:
    """What an operator set, and installed.

    Attributes:
        tick: Longest time between two calls of the job on a task, messages or not.
        retention_s: How long unread input is kept, seconds; vacuum reads it from the status.
        installed_as: Name of the job's entry point.
        package: What it belongs to, as it was when the code was loaded.
    """

    tick: timedelta
    retention_s: float
    installed_as: str
    package: InstalledPackage = UNKNOWN_PACKAGE


class JobLoop:
    """One job in this process.

    Args:
        checkpoint: Of the job.
        job: The job.
        statuses: Where its status goes.
        settings: What an operator set.
        clock: UTC now.
    """

    def __init__(
        self,
        checkpoint: JobCheckpoint,
        job: UserJob,
        statuses: JobStatusFiles,
        settings: LoopSettings,
        clock: Callable[[], datetime],
    ) -> None:
        self._checkpoint, self._job, self._statuses = checkpoint, job, statuses
        self._settings, self._clock = settings, clock
        self._known: dict[int, JobStatus] = {}
        self._open: set[int] = set()
        self._paused: dict[int, datetime] = {}
        self._ticked: dict[int, datetime] = {}
        self._written: dict[int, datetime] = {}
        self._looked = clock()

    def round(self, owned: Collection[int]) -> bool:
        """Read, compute and commit once on each owned task.

        Returns:
            Whether more input waits.
        """
        now = self._clock()
        for task in [t for t in self._known if t not in owned]:
            self._drop(task)
        staged: dict[int, CommitRecord] = {}
        originals: list[RawMessage] = []
        more = False
        for task in sorted(owned):
            found = self._stage(task, now)
            more |= found.more
            if found.record is not None:
                staged[task] = found.record
                originals += found.messages
        self._commit(staged, originals)
        self._show()
        return more

    def wants_restart(self, owned: Collection[int]) -> bool:
        """Whether a fresh process should go on: every task has stopped, or the wait of one is over.

        A fresh process runs the code that is installed by then.
        """
        now = self._clock()
        stopped = [t for t in owned if t in self._known and self._known[t].state == STOPPED]
        if not stopped:
            return False
        if len(stopped) == len(owned):
            return True
        if not has_passed(_LOOK_EVERY, self._looked, now):
            return False
        self._looked = now
        found = [self._statuses.read(self._job.name, task_name(t)) for t in stopped]
        return any(status is not None and status.is_due(now) for status in found)

    def _stage(self, task: int, now: datetime) -> _Staged:
        """Input and step 1 of one task; whatever goes wrong is its own."""
        try:
            return self._compute(task, now) if self._is_ready(task, now) else _Staged()
        except (JobFailedError, OperatorError) as exc:
            self._fail(task, exc, now)
        except (RetryableError, OSError) as exc:
            self._keep_back(task, exc, now)
        except Exception as exc:  # noqa: BLE001  (nobody foresaw it: the other tasks go on, this one waits)
            self._keep_back(task, exc, now, "unexpected error; ")
        return _Staged()

    def _compute(self, task: int, now: datetime) -> _Staged:
        given = self._checkpoint.next_input(task)
        tick = has_passed(self._settings.tick, self._ticked.get(task, LONG_AGO), now)
        if given is None and not tick:
            return _Staged()
        if tick:
            self._ticked[task] = now
        taken = JobInput({}) if given is None else given
        record = self._checkpoint.stage_input(task, taken, now, tick=tick)
        if record is None:
            self._succeeded(task, now)
        return _Staged(record, taken.messages, more=taken.more)

    def _is_ready(self, task: int, now: datetime) -> bool:
        """Open the task if need be; False: it has stopped or waits."""
        if task not in self._known:
            found = self._statuses.read(self._job.name, task_name(task))
            known = found or JobStatus(self._job.name, task_name(task))
            reads = (*self._job.tables, *self._job.topics)
            known = replace(
                known,
                reads=reads,
                retention_s=self._settings.retention_s,
                installed_as=self._settings.installed_as,
                package=self._settings.package.name,
                build=self._settings.package.build,
            )
            self._known[task] = replace(known, state=STARTING) if known.is_due(now) else known
        if task in self._open:
            return True
        paused = not has_passed(KEPT_BACK_PAUSE, self._paused.get(task, LONG_AGO), now)
        if self._known[task].state == STOPPED or paused:
            return False
        self._open_task(task)
        return True

    def _open_task(self, task: int) -> None:
        self._checkpoint.open(task)
        self._open.add(task)

    def _commit(self, staged: dict[int, CommitRecord], originals: Sequence[RawMessage]) -> None:
        if not staged:
            return
        try:
            lost = self._checkpoint.commit(staged, originals)
        except (PipelineError, OSError) as exc:
            for task in staged:
                self._keep_back(task, exc, self._clock())
            return
        for task, record in staged.items():
            if task in lost:
                log.warning("another process committed %s; opening it again", record.task)
                self._close(task)
                self._paused[task] = self._clock()
            else:
                self._succeeded(task, self._clock())

    def _show(self) -> None:
        try:
            self._checkpoint.show_progress()
        except (PipelineError, OSError) as exc:  # a later round shows it
            log.warning("no cut shows the progress of job %s yet: %s", self._job.name, exc)

    def _succeeded(self, task: int, now: datetime) -> None:
        before = self._known[task]
        self._known[task] = before.works(self._checkpoint.position(task))
        is_news = before.state != RUNNING or before.error is not None
        if is_news or has_passed(STATUS_EVERY, self._written.get(task, LONG_AGO), now):
            self._write(task, now)

    def _fail(self, task: int, error: Exception, now: datetime) -> None:
        self._close(task)
        text = str(error)
        trace = "".join(traceback.format_exception(error.__cause__ or error))[-_LONGEST_TRACE:]
        log.error("job %s has stopped on %s: %s\n%s", self._job.name, task_name(task), text, trace)
        self._known[task] = self._known[task].failed(text, trace, now)
        self._write(task, now, durable=True)

    def _keep_back(self, task: int, error: Exception, now: datetime, what: str = "") -> None:
        self._close(task)
        before = self._known[task]
        self._known[task] = after = before.kept_back(f"{what}{type(error).__name__}: {error}", now)
        if after.error != before.error:
            trace = error if what else None
            log.warning(
                "job %s waits on %s: %s", self._job.name, task_name(task), after.error, exc_info=trace
            )
        self._paused[task] = now
        self._write(task, now)

    def _write(self, task: int, now: datetime, *, durable: bool = False) -> None:
        try:
            self._statuses.write(self._known[task], now, durable=durable)
            self._written[task] = now
        except OSError as exc:  # a full disk: the next write says it
            log.warning("cannot write the status of job %s: %s", self._job.name, exc)

    def _close(self, task: int) -> None:
        self._checkpoint.close(task)
        self._open.discard(task)

    def _drop(self, task: int) -> None:
        """Forget a task that another process owns now."""
        self._close(task)
        del self._known[task]
        self._paused.pop(task, None)
        self._ticked.pop(task, None)
