"""The checkpoint: from messages of a task to rows in the lake, each exactly once.

The order of the steps is the whole point:

Step 1 *Stage*: Parquet files, uniquely named, synced. A crash after it leaves files that no commit names.
    What makes a job fail is set aside here (``staging``), so it stands in the record.
Step 2 *Decide*: the record n of the task, put if absent. The only commit point. A crash before it loses
    nothing (the messages are read again); after it, recovery does steps 3 and 4 from the record.
    If n exists already, another worker owns the task.
Step 3 *Apply*: the record's files into each table, skipped where the table has n already.
Step 4 *Conclude*: record the cut, publish derived messages, mark n applied. A crash within it makes
    recovery do it again: a cut more, and messages whose ids make the repeat recognisable.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake, TableCommit
from feature_store.lake_moments import TaskMoments, compare
from schemas.errors import DamagedLakeError, OperatorError, TaskLostError, TasksStoppedError
from stream_processors.engine.attempts import AttemptMarks
from stream_processors.engine.catch_up import CatchUp, LogReads
from stream_processors.engine.job_trials import JobFactory, TrialLimits
from stream_processors.engine.letters import Unpublished
from stream_processors.engine.poison import SenderOf, VerifiedSender
from stream_processors.engine.poison_store import DERIVED, PoisonStore, unpublished_entries
from stream_processors.engine.portions import portions
from stream_processors.engine.records import CommitRecord, LogIdentity, TaskState
from stream_processors.engine.restores import RestoreRequests
from stream_processors.engine.staging import Begun, CommitDraft, Staging, StagingParts
from stream_processors.engine.stopped import StoppedFiles
from stream_processors.engine.task_loading import LoadedTask, load_task, read_record, task_name
from stream_processors.job import Job, RawMessage

log = logging.getLogger(__name__)

SNAPSHOT_EVERY = 32
_REFUSED = f"{DERIVED}/set_aside_messages"
CATCH_UP_COMMITS = 8
"""Commits of a stopped job in one call: it must not hold up what lands meanwhile."""


class DerivedPublisher(Protocol):
    """Publishes derived messages; ``KafkaLog`` is one."""

    def publish(
        self, record: CommitRecord, originals: Mapping[tuple[str, int, int], RawMessage]
    ) -> Sequence[Unpublished]:
        """Publish the record's messages and return once the log has them, but for those that it never takes.

        Args:
            record: The applied record.
            originals: Messages of the batch by (topic, partition, offset); others are read from the log.

        Raises:
            BrokerUnavailableError: Not acknowledged in time.
        """
        ...


def _by_key(message: RawMessage) -> VerifiedSender | None:
    return None if message.key is None else VerifiedSender(message.key.decode("utf-8", "replace"), 0)


@dataclass(frozen=True)
class CheckpointParts:
    """What a checkpoint works with.

    Attributes:
        jobs: In the order of ``pipeline.in_order``.
        log_identity: Asks the broker which log this is; called once per assignment.
        clock: UTC now. The only clock of the jobs: its value is recorded with each commit.
        code: Versions recorded with each commit.
        sender_of: Who signed a message; by default its key is taken for the sender.
        trial_jobs: Builds the jobs in a child, to try what processes died over; None: nothing is tried there.
        trial_limits: What such a trial may take.
        reads: The log, for jobs that catch up; None: they cannot.
        progress: Called while a long call goes on as it should.
    """

    lake: Lake
    commits: CommitLog
    cuts: CutStore
    jobs: Sequence[Job]
    publisher: DerivedPublisher
    log_identity: Callable[[], LogIdentity]
    clock: Callable[[], datetime]
    code: Mapping[str, str]
    sender_of: SenderOf = _by_key
    trial_jobs: JobFactory | None = None
    trial_limits: TrialLimits = TrialLimits()  # noqa: RUF009  (immutable)
    reads: LogReads | None = None
    progress: Callable[[], None] = lambda: None


class Checkpoint:
    """Owns the state of this worker's tasks. Called from one thread, never two calls at a time."""

    def __init__(self, parts: CheckpointParts) -> None:
        self._parts = parts
        self._tasks: dict[int, TaskState] = {}
        self._marks = AttemptMarks(parts.lake.root)
        staging = StagingParts(
            parts.lake, parts.jobs, parts.log_identity, parts.code, parts.sender_of, parts.trial_jobs,
            parts.trial_limits, parts.progress,
        )  # fmt: skip
        self._staging = Staging(staging, self._marks)
        self._catch_up = CatchUp(staging, self._marks, parts.reads)
        self._set_aside, self._requests = PoisonStore(parts.lake.root), RestoreRequests(parts.lake.root)
        self._stopped = StoppedFiles(parts.lake.root)

    def open(self, task: int) -> dict[str, int]:
        """Recover a task and return its next offset by topic.

        Loads the newest snapshot and the records after it; redoes steps 3 and 4 for what a table lacks or is
        not marked applied. Never recomputes.

        Raises:
            OperatorError: The log is not the one that the checkpoint was made from.
            DamagedLakeError: Files that the task needs are damaged, or of another moment than the rest.
        """
        loaded, moments = self._load(task_name(task))
        _check_identity(loaded.state, self._parts.log_identity())
        self._recover(task, loaded, moments)
        return dict(loaded.state.offsets)

    def _recover(self, task: int, loaded: LoadedTask, moments: TaskMoments) -> None:
        """Finish what a crash left of a loaded task, and own it from then on."""
        self._redo(loaded, moments.redo)
        # State of release 0.2.0 names no tables: what they hold now is what they must hold from now on.
        state = self._tasks[task] = replace(loaded.state, named={**moments.held, **loaded.state.named})
        for n in loaded.unreadable[:1]:  # two readable ones must stay, for one may be damaged next
            self._parts.commits.write_snapshot(state.task, n, loaded.state_at(n).to_bytes())
        self._marks.opened(state)
        self._stopped.note(state)

    def close(self, task: int) -> None:
        """Forget a task."""
        self._tasks.pop(task, None)

    def state(self, task: int) -> TaskState:
        """State of an open task after its last commit."""
        return self._tasks[task]

    def process(self, batches: Mapping[int, Sequence[RawMessage]]) -> None:
        """Commit the batch of each task; an empty batch is a tick.

        A batch is one commit, unless it unpacks to too much at once or something has to be set aside.

        Raises:
            TaskLostError: Another worker owns at least one of the tasks; the others are committed.
            TasksStoppedError: Some tasks cannot go on, by damage or our own fault; the others are committed.
        """
        now = self._parts.clock()
        left = {task: portions(messages) for task, messages in batches.items()}
        originals = {(m.topic, m.partition, m.offset): m for batch in batches.values() for m in batch}
        lost, stopped = set[str](), dict[int, str]()
        while left:
            staged = self._stage_next(left, stopped, now)
            won = self._commit(staged, originals, stopped)
            lost |= {r.task for r in staged} - {r.task for r in won}
            left = {
                t: parts
                for t, parts in left.items()
                if parts and t not in stopped and task_name(t) not in lost
            }
        for task in batches:
            if task_name(task) not in lost and task not in stopped:
                self._stopped.note(self._tasks[task])
                self._restore(task, now, stopped)
                self._let_catch_up(task, now, stopped)
        for task in stopped:
            self.close(task)
        if lost:
            raise TaskLostError(f"another worker committed {', '.join(sorted(lost))}")
        if stopped:
            raise TasksStoppedError(stopped)

    def _stage_next(
        self, left: dict[int, list[Sequence[RawMessage]]], stopped: dict[int, str], now: datetime
    ) -> list[CommitRecord]:
        """Stage the next portion of each task; what its record does not take becomes the portion after it.

        Jobs of a task run while the files of the one before are written.
        """
        staged = []
        given = {task: parts.pop(0) for task, parts in left.items()}
        try:
            for task, outcome in self._begun(given, now):
                try:
                    record = self.stage(task, given[task], now, outcome)
                except (DamagedLakeError, TasksStoppedError) as exc:
                    stopped[task] = f"{task_name(task)} is stopped: {exc}"
                    continue
                if record is not None:
                    staged.append(record)
                    ends = {topic: end for topic, (_, end) in record.offsets.items()}
                    if rest := [m for m in given[task] if m.offset >= ends.get(m.topic, 0)]:
                        left[task].insert(0, rest)
        finally:
            self._staging.abandon()
        return staged

    def _begun(self, given: Mapping[int, Sequence[RawMessage]], now: datetime) -> Iterator[tuple[int, Begun]]:
        """What is begun of each task, one behind the newest: memory holds the rows of two at most."""
        behind: tuple[int, Begun] | None = None
        for task, portion in given.items():
            newest = task, self._staging.begin(self._tasks[task], portion, now)
            if behind is not None:
                yield behind
            behind = newest
        if behind is not None:
            yield behind

    def _commit(
        self,
        staged: Sequence[CommitRecord],
        originals: Mapping[tuple[str, int, int], RawMessage],
        stopped: dict[int, str],
    ) -> list[CommitRecord]:
        """Steps 2 to 4; returns the records that were decided. A damaged table stops its tasks alone."""
        won = [record for record in staged if self.decide(record)]
        applied = self._apply_each(won, stopped)
        self.conclude(applied, originals)
        for record in applied:
            self._advance(record)
        return won

    def _apply_each(self, won: Sequence[CommitRecord], stopped: dict[int, str]) -> list[CommitRecord]:
        """Step 3 for all records at once; where a table is damaged, for each that does without it."""
        try:
            self.apply(won)
            return list(won)
        except DamagedLakeError:
            applied = []
        for record in won:
            try:
                self.apply([record])
                applied.append(record)
            except DamagedLakeError as exc:
                stopped[self._number(record)] = f"{record.task} is stopped: {exc}"
        return applied

    def _restore(self, task: int, now: datetime, stopped: dict[int, str]) -> None:
        """Commit what a person asked to have back of what was set aside."""
        state = self._tasks[task]
        restored = self._requests.take(state)
        if restored is not None and (output := restored.output()):
            record = self._staging.writer.record(state, now, CommitDraft(output))
            if not self._commit([record], {}, stopped):
                raise TaskLostError(f"another worker committed {state.task}")

    def _let_catch_up(self, task: int, now: datetime, stopped: dict[int, str]) -> None:
        """Commit the next pieces of what stopped jobs missed."""
        for _ in range(CATCH_UP_COMMITS):
            state = self._tasks[task]
            due = self._catch_up.due(state, now) if state.stopped else []
            if not due or task in stopped:
                return
            try:
                record = self._catch_up.stage(state, due[0], now)
            except Exception:  # whatever it is, only the stopped job waits for it
                log.exception("job %s of %s cannot catch up now", due[0], state.task)
                self._catch_up.postpone(state, due[0], now)
                continue
            if record is not None and not self._commit([record], {}, stopped):
                raise TaskLostError(f"another worker committed {state.task}")
            self._stopped.note(self._tasks[task])

    def stage(
        self, task: int, messages: Sequence[RawMessage], now: datetime, begun: Begun | None = None
    ) -> CommitRecord | None:
        """Step 1: run the jobs and write their rows to files that no commit names yet.

        Args:
            task: Number of an open task.
            messages: Those of the next commit.
            now: The commit's clock.
            begun: The same step, begun before (``Staging.begin``).

        Returns:
            The record to decide on, of all messages or the first of them; None where no message came and no
            job did anything.

        Raises:
            TasksStoppedError: The job that lands messages fails through our own fault.
        """
        return (begun or self._staging.begin(self._tasks[task], messages, now))()

    def decide(self, record: CommitRecord) -> bool:
        """Step 2: put the record if absent; False: the number is taken, so another worker owns the task."""
        return self._parts.commits.put_if_absent(record.task, record.n, record.to_bytes())

    def apply(self, records: Sequence[CommitRecord]) -> None:
        """Step 3: commit the files of all records, one commit per table."""
        for table in sorted({t for r in records for t in r.files}):
            commits = [TableCommit(r.task, r.n, r.files[table]) for r in records if table in r.files]
            self._parts.lake.apply(table, commits)

    def conclude(
        self, records: Sequence[CommitRecord], originals: Mapping[tuple[str, int, int], RawMessage]
    ) -> None:
        """Step 4: record the cut, publish derived messages, mark applied."""
        if not records:
            return
        if any(r.files for r in records):
            self._parts.cuts.record({r.task: r.n for r in records})
        for record in records:
            refused = self._parts.publisher.publish(record, originals) if record.messages else ()
            self._set_aside.keep(record, unpublished_entries(record, refused or ()))
            if refused:  # known only now: the next commit counts them
                self._staging.late.setdefault(record.task, Counter())[_REFUSED] += len(refused)
            self._parts.commits.mark_applied(record.task, record.n)

    def _number(self, record: CommitRecord) -> int:
        return next(t for t, state in self._tasks.items() if state.task == record.task)

    def _advance(self, record: CommitRecord) -> None:
        task = self._number(record)
        state = self._tasks[task] = self._tasks[task].after(record)
        self._marks.decided(state)
        if (record.n + 1) % SNAPSHOT_EVERY == 0:
            self._parts.commits.write_snapshot(state.task, state.n, state.to_bytes())

    def _load(self, name: str) -> tuple[LoadedTask, TaskMoments]:
        """The task, and what the tables hold of it; refused where they are of different moments."""
        commits, lake = self._parts.commits, self._parts.lake
        while True:
            loaded = load_task(commits, name)
            cut = self._parts.cuts.latest()
            mark = cut.marks.get(name) if cut else None
            moments = compare(lake, loaded.history(commits), mark, lake.tables())
            refusal = moments.refusal()
            if refusal is None:
                return loaded, moments
            if commits.newest(name) == loaded.state.n:  # else the earlier owner went on meanwhile
                raise DamagedLakeError(refusal)

    def _redo(self, loaded: LoadedTask, lacking: Sequence[int]) -> None:
        """Steps 3 and 4 of commits that a table lacks or that are not marked applied."""
        name, commits = loaded.state.task, self._parts.commits
        applied = commits.applied(name)
        unmarked = [n for n in loaded.records if applied is None or n > applied]
        for n in sorted({*unmarked, *lacking}):
            record = loaded.records.get(n) or read_record(commits, name, n)
            if record is not None:  # None: pruned, so another worker has finished it
                log.info("finishing commit %s/%d after a crash", name, n)
                self.apply([record])
                self.conclude([record], {})
                self._parts.progress()


def _check_identity(state: TaskState, identity: LogIdentity) -> None:
    if state.log is None:
        return
    changed = [
        t for t in state.offsets if state.log.topic_ids.get(t) not in (None, identity.topic_ids.get(t))
    ]
    if state.log.cluster_id != identity.cluster_id or changed:
        raise OperatorError(
            f"{state.task}: its checkpoint was made from cluster {state.log.cluster_id}, topics "
            f"{sorted(changed) or 'unchanged'}; the broker is {identity.cluster_id}. The log was made anew: "
            "use its old data, or start with another lake (docs/runbook.md#log-made-anew)"
        )
