"""The checkpoint of a user job: the same four steps, over a task of the job's own.

What the built-in jobs' checkpoint takes from the log, this one takes from the commits of a task
(``job_source``). Its records say how far it has read: beside the topics' offsets stands the number of the
task's next commit, as the offset of a stream named after the task.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from feature_store.commit_feed import CommitFeed
from feature_store.cut import Cut, JobReach, Reached
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from schemas.errors import OperatorError, PipelineError
from schemas.instants import has_passed
from stream_processors.engine.checkpoint import Checkpoint, CheckpointParts
from stream_processors.engine.records import CommitRecord, LogIdentity, TaskState
from stream_processors.engine.task_loading import task_name
from stream_processors.job import Batch, Output, RawMessage
from stream_processors.user_jobs.declaration import UserJob
from stream_processors.user_jobs.job_input import JobInput, Position
from stream_processors.user_jobs.job_source import JobSource
from stream_processors.user_jobs.job_start import begin, job_task_name

log = logging.getLogger(__name__)

SETTLE = timedelta(seconds=10)
"""Longest time for which progress without rows is kept in memory alone."""
SHOW = timedelta(seconds=5)
"""Least time between two cuts that show nothing of a job but its progress."""
_NO_LOG = LogIdentity("", {})


class JobFailedError(Exception):
    """The user's code raised, or gave what cannot be landed; the cause is ``__cause__``."""


@dataclass(frozen=True)
class _Carried:
    """Progress that no record says yet."""

    reached: Position = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    since: datetime | None = None

    def and_then(self, given: JobInput, now: datetime) -> _Carried:
        counters = Counter(self.counters)
        counters.update(given.counters)
        return _Carried({**self.reached, **given.reached}, counters, self.since or now)


class JobCuts(CutStore):
    """The cuts of the lake, as one job's process records them: with what the job has reached.

    Args:
        lake: Its tables are cut.
        clock: UTC now.
        job: Name of the job.
    """

    def __init__(self, lake: Lake, clock: Callable[[], datetime], job: str) -> None:
        super().__init__(lake, clock)
        self._root, self._now, self._job = lake.root, clock, job
        self._reach: dict[str, JobReach] = {}
        self._pending: dict[str, int] = {}
        self._shown_at: datetime | None = None

    def reached(self, source: str, n: int) -> None:
        """The job has taken commit n of this task into account, and its tables hold what came of it."""
        clock = next((e.clock for e in CommitFeed(self._root, source).entries(n, n)), "")
        self._reach[source] = JobReach(n, clock)

    def record(self, marks: Mapping[str, int], jobs: Reached | None = None) -> Cut:
        """Record a cut that holds these commits, and what the job has reached with them."""
        own = {task: r for task, r in self._reach.items() if job_task_name(self._job, task) in marks}
        return super().record(marks, {**(jobs or {}), self._job: own})

    def show(self, marks: Mapping[str, int]) -> None:
        """Record a cut for these commits without rows; where one was a moment ago, with a later call."""
        self._pending |= marks
        now = self._now()
        if self._pending and (self._shown_at is None or has_passed(SHOW, self._shown_at, now)):
            self._shown_at = now
            self.record(self._pending)
            self._pending = {}


class JobCheckpoint(Checkpoint):
    """Owns one job's state on the tasks that this process reads.

    Args:
        parts: As of the worker's checkpoint; its jobs are not used.
        job: The job.
        installed_as: Name of its entry point.
        source: Makes the input of one task, by name.
        calling: Called with task number and input right before the user's code runs, and with None after.
    """

    def __init__(
        self,
        parts: CheckpointParts,
        job: UserJob,
        installed_as: str,
        source: Callable[[str], JobSource],
        calling: Callable[[int | None, JobInput], None] = lambda _task, _given: None,
    ) -> None:
        self._cuts = JobCuts(parts.lake, parts.clock, job.name)
        super().__init__(replace(parts, cuts=self._cuts))
        self._job, self._installed_as, self._source_of, self._calling = job, installed_as, source, calling
        self._sources: dict[int, JobSource] = {}
        self._carried: dict[int, _Carried] = {}

    def open(self, task: int) -> dict[str, int]:
        """Recover the job on a task; returns what it reads next.

        Raises:
            OperatorError: Its tables hold commits that its records do not, or a record is damaged.
        """
        begin(self._parts.lake, self._parts.commits, self._job, self._installed_as, task_name(task))
        loaded, moments = self._load(job_task_name(self._job.name, task_name(task)))
        self._check_moment(loaded.state, task_name(task))
        self._recover(task, loaded, moments)
        self._sources[task] = self._source_of(task_name(task))
        self._carried[task] = _Carried()
        return dict(self._tasks[task].offsets)

    def close(self, task: int) -> None:
        """Forget a task."""
        super().close(task)
        self._sources.pop(task, None)
        self._carried.pop(task, None)

    def position(self, task: int) -> int:
        """Newest commit of the task that the job has taken into account; -1: none."""
        return self._position(task).get(task_name(task), 0) - 1

    def next_input(self, task: int) -> JobInput | None:
        """What the job gets next on this task; None: nothing is new.

        Raises:
            OperatorError: Some of it is gone from the log, or a record is damaged.
            RetryableError: Broker or lake do not answer, or something moved meanwhile.
        """
        prefix = f"{self._job.name}/"
        totals = Counter({k[len(prefix) :]: n for k, n in self._tasks[task].counters.items()})
        return self._sources[task].next(self._position(task), totals + self._carried[task].counters)

    def stage_input(
        self, task: int, given: JobInput, now: datetime, *, tick: bool = False
    ) -> CommitRecord | None:
        """Step 1: call the job and write its rows to files that no commit names yet.

        Where it raises, nothing has changed: the same input comes again.

        Args:
            task: Number of the task.
            given: Its input; without rows and messages the job is not called.
            now: The commit's clock, UTC.
            tick: Call the job even so.

        Returns:
            The record to decide on; None where nothing happened that must be on record now.

        Raises:
            JobFailedError: The job is at fault.
        """
        carried = self._carried[task].and_then(given, now)
        output = Output(state=given.state or {})
        if given.state is None and (given.has_content or tick):
            output = self._call(task, given, now)
        moved = bool(carried.reached) and (given.has_content or has_passed(SETTLE, carried.since or now, now))
        try:
            record = self._record(task, output, carried, now) if moved or _says_anything(output) else None
        except PipelineError:
            raise
        except (ValueError, TypeError, AttributeError, KeyError) as exc:
            raise JobFailedError(f"its output cannot be landed: {_in_words(exc)}") from exc
        self._carried[task] = carried
        return record

    def commit(self, records: Mapping[int, CommitRecord], originals: Sequence[RawMessage]) -> set[int]:
        """Steps 2 to 4 for what was staged. Where it raises, open the tasks again before anything else.

        Returns:
            Tasks on which another process was first: they must be opened again.
        """
        won = {task: record for task, record in records.items() if self.decide(record)}
        self.apply(list(won.values()))
        self.conclude(list(won.values()), {(m.topic, m.partition, m.offset): m for m in originals})
        for task, record in won.items():
            self._advance(record)
            self._carried[task] = _Carried()
        return records.keys() - won.keys()

    def conclude(
        self, records: Sequence[CommitRecord], originals: Mapping[tuple[str, int, int], RawMessage]
    ) -> None:
        """Step 4, with what the job has reached in the cut; now and then also where it landed no row."""
        for record in records:
            source = task_name(int(record.task.rpartition("-")[2]))
            if source in record.offsets:
                self._cuts.reached(source, record.offsets[source][1] - 1)
        super().conclude(records, originals)
        if not any(r.files for r in records):
            self._cuts.show({r.task: r.n for r in records})

    def show_progress(self) -> None:
        """Show in a cut what commits without rows have reached, if none has shown it yet."""
        self._cuts.show({})

    def _position(self, task: int) -> Position:
        return {**self._tasks[task].offsets, **self._carried[task].reached}

    def _call(self, task: int, given: JobInput, now: datetime) -> Output:
        state = self._tasks[task]
        batch = Batch(state.task, state.n + 1, given.messages, given.rows)
        self._calling(task, given)
        try:
            output = self._job.job.process(batch, state.of_job(self._job.name), now)
        except BaseException as exc:  # SystemExit and KeyboardInterrupt of user code end the job alone
            raise JobFailedError(_in_words(exc)) from exc
        finally:
            self._calling(None, given)
        if not isinstance(output, Output):
            raise JobFailedError(f"process() returned {type(output).__name__}, not Output")
        undeclared = sorted(t for t in output.rows if not self._job.may_write(t))
        if undeclared:
            raise JobFailedError(
                f"it landed rows in {undeclared}, which neither its `tables` nor its `writes` name"
            )
        return output

    def _record(self, task: int, output: Output, carried: _Carried, now: datetime) -> CommitRecord:
        state, name = self._tasks[task], self._job.name
        n = state.n + 1
        counters = Counter(carried.counters)
        counters.update(output.counters)
        record = CommitRecord(
            task=state.task,
            n=n,
            clock=now.isoformat(),
            log=state.log or _NO_LOG,
            offsets={s: (state.offsets.get(s, 0), end) for s, end in carried.reached.items()},
            files={
                table: tuple(self._parts.lake.stage(table, rows, state.task, n))
                for table, rows in output.rows.items()
                if rows.num_rows
            },
            state={f"{name}/{key}": value for key, value in output.state.items()},
            counters={f"{name}/{key}": count for key, count in counters.items() if count},
            messages=tuple(output.messages),
            code=self._parts.code,
        )
        record.to_bytes()  # what is no JSON value must fail here, where the job is to blame
        return record

    def _check_moment(self, state: TaskState, source: str) -> None:
        """Refuse to skip commits of the source that had other numbers when the job read them."""
        newest = self._parts.commits.latest(source) or 0
        reached = state.offsets.get(source, 0) - 1
        if reached > newest:
            raise OperatorError(
                f"job {self._job.name} has commit {reached} of {source}, whose records end at {newest}: "
                "these parts of the lake are from different moments"
            )


def _in_words(error: BaseException) -> str:
    """The error in one line; also where its own ``__str__`` fails."""
    return "".join(traceback.format_exception_only(error)).strip()


def _says_anything(output: Output) -> bool:
    rows = any(table.num_rows for table in output.rows.values())
    return rows or bool(output.state or output.messages or any(output.counters.values()))
