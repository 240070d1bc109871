"""Step 1 of a commit: jobs run, their rows are staged, and what makes a job fail is set aside.

The order where a batch fails:

* Two processes died over it: it is tried in a child with limits before it is touched here.
* A job raised: the batch is tried in parts. The outcome is a commit of its own: guilty state keys, a job that
  stops, or the messages that pass with the guilty ones quarantined.
* The job that lands messages fails through our own fault: ``TasksStoppedError``, and nothing is committed.

What is set aside stands in the commit record, so recovery never decides it again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import groupby
from operator import attrgetter

import pyarrow as pa

from feature_store.lake import Lake
from schemas.errors import RetryableError, TasksStoppedError
from schemas.tables import QUARANTINE
from stream_processors.engine.attempts import AttemptMarks
from stream_processors.engine.bisecting import Isolated, Trial, isolate
from stream_processors.engine.bounded_child import ChildTrials
from stream_processors.engine.job_trials import JobFactory, TrialLimits, TrialPlan, TrialRun
from stream_processors.engine.pipeline import CommitOutput, run_jobs
from stream_processors.engine.poison import (
    GuiltyMessage,
    JobFailure,
    RecentMessages,
    SenderOf,
    blames_input,
)
from stream_processors.engine.poison_store import (
    DERIVED,
    NOTHING,
    derived_entry,
    key_counters,
    key_entries,
    quarantine,
    split_publishable,
)
from stream_processors.engine.records import (
    CommitRecord,
    LogIdentity,
    SetAside,
    StoppedJob,
    TaskState,
    event_id,
)
from stream_processors.job import Job, RawMessage

log = logging.getLogger(__name__)

_NAMED = 3  # in the log; the table `quarantine` names all


@dataclass(frozen=True)
class StagingParts:
    """What staging works with.

    Attributes:
        jobs: In order.
        log_identity: Asks the broker which log this is.
        code: Versions recorded with each commit.
        sender_of: Who signed a message.
        trial_jobs: Builds the jobs in a child process; None: nothing is tried in a child.
        trial_limits: What a trial in a child may take.
        progress: Called while a long call goes on as it should.
    """

    lake: Lake
    jobs: Sequence[Job]
    log_identity: Callable[[], LogIdentity]
    code: Mapping[str, str]
    sender_of: SenderOf
    trial_jobs: JobFactory | None
    trial_limits: TrialLimits
    progress: Callable[[], None]


@dataclass(frozen=True)
class CommitDraft:
    """What a commit consists of before its rows are staged.

    Attributes:
        messages: All messages that it decides on, guilty ones included.
        late: Counters of earlier commits that became known only after they were decided.
    """

    output: CommitOutput = field(default_factory=lambda: CommitOutput({}, {}, (), {}))
    messages: Sequence[RawMessage] = ()
    guilty: Sequence[GuiltyMessage] = ()
    set_aside: tuple[SetAside, ...] = ()
    stopped: Mapping[str, StoppedJob | None] = field(default_factory=dict)
    late: Mapping[str, int] = field(default_factory=dict)


def active(jobs: Sequence[Job], state: TaskState) -> list[Job]:
    """Jobs that are not stopped in this task."""
    return [job for job in jobs if job.name not in state.stopped]


def is_essential(jobs: Sequence[Job], name: str) -> bool:
    """Whether a task cannot go on without this job: it lands the messages that all others live on."""
    return any(getattr(job, "essential", False) for job in jobs if job.name == name)


Begun = Callable[[], CommitRecord | None]
"""Waits for what was begun, and returns the record to decide on; None: there is nothing to commit."""


class RecordWriter:
    """Turns a draft into a record whose files are on disk and that no commit names yet."""

    def __init__(self, parts: StagingParts) -> None:
        self._parts = parts
        self._files = ThreadPoolExecutor(1, "files")

    def record(self, state: TaskState, now: datetime, draft: CommitDraft) -> CommitRecord:
        """The record to decide on."""
        return self.begin(state, now, draft)()

    def begin(self, state: TaskState, now: datetime, draft: CommitDraft) -> Callable[[], CommitRecord]:
        """Have a thread write the files, while jobs of other tasks run; the outcome waits for them."""
        n, apart = state.n + 1, quarantine(draft.guilty) if draft.guilty else NOTHING
        messages, large = split_publishable((*draft.output.messages, *apart.letters))
        entries = [*draft.set_aside, *apart.entries]
        entries += [
            derived_entry(derived, f"{event_id(state.task, n, i)} (never sent)", reason)
            for i, (derived, reason) in enumerate(large)
        ]
        counters = Counter[str]()  # update(), not "+": an increment may be negative, as where a gap heals
        for part in (draft.output.counters, apart.counters, draft.late):
            counters.update(part)
        if large:
            counters[f"{DERIVED}/set_aside_messages"] += len(large)
        rows = dict(draft.output.rows)
        if apart.rows.num_rows:
            known = [rows[QUARANTINE.name]] if QUARANTINE.name in rows else []
            rows[QUARANTINE.name] = pa.concat_tables([*known, apart.rows])
        files = {
            t: self._files.submit(self._parts.lake.stage, t, part, state.task, n) for t, part in rows.items()
        }
        record = CommitRecord(
            task=state.task,
            n=n,
            clock=now.isoformat(),
            log=state.log or self._parts.log_identity(),
            offsets=_spans(state, draft.messages),
            files={},
            state=draft.output.state,
            counters=dict(counters),
            messages=messages,
            code=self._parts.code,
            set_aside=tuple(entries),
            stopped=draft.stopped,
        )

        def written() -> CommitRecord:
            whole = replace(record, files={table: tuple(file.result()) for table, file in files.items()})
            whole.to_bytes()  # what cannot be written is a fault of the jobs' output, and shows here
            return whole

        return written


class Staging:
    """Stages batches of this worker's tasks."""

    def __init__(self, parts: StagingParts, marks: AttemptMarks) -> None:
        self._parts, self._marks = parts, marks
        self.writer = RecordWriter(parts)
        self._recent: dict[str, RecentMessages] = {}
        self.late: dict[str, Counter[str]] = {}
        self._open: dict[str, TaskState] = {}  # tasks whose batches are marked as being worked on

    def begin(self, state: TaskState, messages: Sequence[RawMessage], now: datetime) -> Begun:
        """Run the jobs over the next commit's messages, and have a thread write their rows.

        Returns:
            To be called once: waits for the files and returns the record of the next commit, of all messages
            or of the first of them; None where no message came and no job did anything. Until it is called,
            or ``abandon`` is, the batch counts as being worked on. What was raised here is raised there:
            ``TasksStoppedError`` where the landing job fails through our own fault.
        """
        isolated = self._tried_in_child(state, messages, now)
        if isolated is not None:
            return partial(self._outcome, state, messages, isolated, now)
        try:
            record = self._begun_record(state, messages, (), now)
        except Exception as exc:  # noqa: BLE001  (raised, or judged, in its turn)
            return partial(self._set_cause_apart, state, messages, now, exc)

        def finished() -> CommitRecord | None:
            try:
                return record()
            except Exception as exc:  # noqa: BLE001  (likewise)
                return self._set_cause_apart(state, messages, now, exc)

        return finished

    def abandon(self) -> None:
        """Forget what was begun and not finished; its files are named by no commit."""
        for state in list(self._open.values()):
            self._end(state)

    def _set_cause_apart(
        self, state: TaskState, messages: Sequence[RawMessage], now: datetime, error: Exception
    ) -> CommitRecord | None:
        """The record of a batch that fails: what makes it fail is looked for, and set aside."""
        if not blames_input(error):
            raise error
        log.warning("a job of %s fails; looking for the cause", state.task, exc_info=error)
        trial = TrialRun(active(self._parts.jobs, state), now, self._parts.lake.check, self._parts.progress)
        isolated = self._isolate(trial, state, messages)
        if _passes(isolated) and isolated.taken == len(messages):
            raise error  # it does not fail on trial: the fault is not in the jobs
        return self._outcome(state, messages, isolated, now)

    def _record(
        self, state: TaskState, kept: Sequence[RawMessage], guilty: Sequence[GuiltyMessage], now: datetime
    ) -> CommitRecord | None:
        return self._begun_record(state, kept, guilty, now)()

    def _begun_record(
        self, state: TaskState, kept: Sequence[RawMessage], guilty: Sequence[GuiltyMessage], now: datetime
    ) -> Begun:
        """The commit of some messages, with others set aside; marked while it is worked on."""
        self._begin(state, kept)
        try:
            output = run_jobs(active(self._parts.jobs, state), kept, state, now)
            decided = [*kept, *(g.message for g in guilty)]
            late = self.late.get(state.task, Counter())
            if not output and not decided and not late:
                self._end(state)
                return lambda: None
            draft = CommitDraft(output, decided, guilty, late=late)
            written = self.writer.begin(state, now, draft)
        except BaseException:
            self._end(state)
            raise

        def finished() -> CommitRecord:
            try:
                record = written()
            finally:
                self._end(state)
            self.late.pop(state.task, None)
            self._recent.setdefault(state.task, RecentMessages()).note(len(decided), guilty)
            return record

        return finished

    def _begin(self, state: TaskState, messages: Sequence[RawMessage]) -> None:
        self._open[state.task] = state
        self._marks.begin(state, messages)

    def _end(self, state: TaskState) -> None:
        self._open.pop(state.task, None)
        self._marks.end(state)

    def _tried_in_child(
        self, state: TaskState, messages: Sequence[RawMessage], now: datetime
    ) -> Isolated | None:
        """The outcome for a batch over which processes died; None: there is nothing to do about it."""
        attempt, factory = self._marks.of(state), self._parts.trial_jobs
        if factory is None or not self._marks.to_be_tried(state):
            return None
        suspects = attempt.suspects(messages)
        if attempt.common and not suspects:
            return None  # they have not come yet
        log.warning(
            "%d processes died over commit %s/%d; trying it apart", attempt.deaths, state.task, attempt.n
        )
        limits = self._parts.trial_limits.after_deaths(attempt.deaths)
        plan = TrialPlan.of(factory, active(self._parts.jobs, state), now, limits)
        try:
            with ChildTrials(plan, self._parts.progress) as trial:
                isolated = self._isolate(trial, state, messages[:suspects], ChildTrials.WAYS)
        except RetryableError as exc:  # rather a third death than a line that waits for ever
            log.warning("%s; going on as usual", exc)
            self._marks.tried(state)
            return None
        if _passes(isolated) and isolated.taken == suspects:
            log.warning("%s/%d: nothing fails apart; going on as usual", state.task, attempt.n)
            self._marks.tried(state)
            return None
        return isolated

    def _isolate(
        self, trial: Trial, state: TaskState, messages: Sequence[RawMessage], ways: int = 2
    ) -> Isolated:
        recent = self._recent.setdefault(state.task, RecentMessages())
        return isolate(trial, messages, state, self._parts.sender_of, recent, ways)

    def _outcome(
        self, state: TaskState, messages: Sequence[RawMessage], isolated: Isolated, now: datetime
    ) -> CommitRecord | None:
        failure = isolated.failure
        if isolated.ours and failure is not None:
            return self._stop(state, messages, failure, now)
        if isolated.keys and failure is not None:
            return self.without_keys(state, isolated.keys, failure, now)
        for one in isolated.guilty[:_NAMED]:
            place = f"{one.message.topic}[{one.message.partition}]@{one.message.offset}"
            log.error("%s is set aside: %s", place, one.failure)
        if len(isolated.guilty) > _NAMED:
            log.error("%d more messages are set aside", len(isolated.guilty) - _NAMED)
        return self._record(state, isolated.kept, isolated.guilty, now)

    def without_keys(
        self, state: TaskState, keys: Sequence[str], failure: JobFailure, now: datetime
    ) -> CommitRecord:
        """A commit that sets state keys aside and takes no message."""
        log.error("state of %s is set aside: %s; %s", state.task, list(keys), failure)
        output = CommitOutput({}, dict.fromkeys(keys), (), key_counters(keys))
        draft = CommitDraft(output, set_aside=key_entries(keys, state.state, failure))
        return self.writer.record(state, now, draft)

    def _stop(
        self, state: TaskState, messages: Sequence[RawMessage], failure: JobFailure, now: datetime
    ) -> CommitRecord:
        """A commit from which on a job does not run, and takes no message."""
        log.critical("job %s of %s stops, nothing is set aside: %s", failure.job, state.task, failure)
        if not failure.job or is_essential(self._parts.jobs, failure.job):
            raise TasksStoppedError({state.number: str(failure)})
        first = {m.topic: m.offset for m in reversed(messages)}
        offsets = {**first, **state.offsets}
        stop = StoppedJob(failure.error, failure.reason, now.isoformat(), offsets, failure.how)
        return self.writer.record(state, now, CommitDraft(stopped={failure.job: stop}))


def _passes(isolated: Isolated) -> bool:
    return not (isolated.guilty or isolated.keys or isolated.ours)


def _spans(state: TaskState, messages: Sequence[RawMessage]) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    for topic, run in groupby(messages, attrgetter("topic")):
        offsets = [m.offset for m in run]
        start, end = spans.get(topic, (state.offsets.get(topic, offsets[0]), 0))
        spans[topic] = (min(start, *offsets), max(end, 1 + max(offsets)))
    return spans
