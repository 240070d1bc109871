"""The checkpoint: from messages of a task to rows in the lake, each exactly once.

The order of the steps is the whole point:

Step 1 *Stage*: Parquet files, uniquely named, synced. A crash after it leaves files that no commit names.
Step 2 *Decide*: the record n of the task, put if absent. The only commit point. A crash before it loses
    nothing (the messages are read again); after it, recovery does steps 3 and 4 from the record.
    If n exists already, another worker owns the task.
Step 3 *Apply*: the record's files into each table, skipped where the table has n already.
Step 4 *Conclude*: record the cut, publish derived messages, mark n applied. A crash within it makes
    recovery do it again: a cut more, and messages whose ids make the repeat recognisable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake, TableCommit
from feature_store.lake_moments import TaskMoments, compare
from schemas.errors import DamagedLakeError, OperatorError, TaskLostError, TasksStoppedError
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import CommitRecord, LogIdentity, TaskState
from stream_processors.engine.task_loading import LoadedTask, load_task, read_record
from stream_processors.job import Job, RawMessage

log = logging.getLogger(__name__)

SNAPSHOT_EVERY = 32


class DerivedPublisher(Protocol):
    """Publishes derived messages; ``KafkaLog`` is one."""

    def publish(self, record: CommitRecord, originals: Mapping[tuple[str, int, int], RawMessage]) -> None:
        """Publish the record's messages and return once the log has them.

        Args:
            record: The applied record.
            originals: Messages of the batch by (topic, partition, offset); others are read from the log.

        Raises:
            BrokerUnavailableError: Not acknowledged in time.
        """
        ...


@dataclass(frozen=True)
class CheckpointParts:
    """What a checkpoint works with.

    Attributes:
        jobs: In the order of ``pipeline.in_order``.
        log_identity: Asks the broker which log this is; called once per assignment.
        clock: UTC now. The only clock of the jobs: its value is recorded with each commit.
        code: Versions recorded with each commit.
    """

    lake: Lake
    commits: CommitLog
    cuts: CutStore
    jobs: Sequence[Job]
    publisher: DerivedPublisher
    log_identity: Callable[[], LogIdentity]
    clock: Callable[[], datetime]
    code: Mapping[str, str]


def task_name(partition: int) -> str:
    """Name of the task that owns this partition of all task topics."""
    return f"task-{partition:02d}"


class Checkpoint:
    """Owns the state of this worker's tasks. Called from one thread, never two calls at a time."""

    def __init__(self, parts: CheckpointParts) -> None:
        self._parts = parts
        self._tasks: dict[int, TaskState] = {}

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
        self._redo(loaded, moments.redo)
        # State of release 0.2.0 names no tables: what they hold now is what they must hold from now on.
        self._tasks[task] = replace(loaded.state, named={**moments.held, **loaded.state.named})
        for n in loaded.unreadable[:1]:  # two readable ones must stay, for one may be damaged next
            self._parts.commits.write_snapshot(loaded.state.task, n, loaded.state_at(n).to_bytes())
        return dict(loaded.state.offsets)

    def close(self, task: int) -> None:
        """Forget a task."""
        self._tasks.pop(task, None)

    def process(self, batches: Mapping[int, Sequence[RawMessage]]) -> None:
        """Commit one batch of each task; an empty batch is a tick.

        Raises:
            TaskLostError: Another worker owns at least one of the tasks; the others are committed.
            TasksStoppedError: A damaged table stops at least one of the tasks; the others are committed.
        """
        now = self._parts.clock()
        stopped: dict[int, str] = {}
        staged = self._stage_each(batches, now, stopped)
        won = {task: record for task, record in staged.items() if self.decide(record)}
        applied = self._apply_each(won, stopped)
        self.conclude(applied, {(m.topic, m.partition, m.offset): m for b in batches.values() for m in b})
        for task in batches:
            self._advance(task, applied)
        for task in stopped:
            self.close(task)
        lost = sorted(staged[task].task for task in staged.keys() - won.keys())
        if lost:
            raise TaskLostError(f"another worker committed {', '.join(lost)}")
        if stopped:
            raise TasksStoppedError(stopped)

    def _stage_each(
        self, batches: Mapping[int, Sequence[RawMessage]], now: datetime, stopped: dict[int, str]
    ) -> dict[int, CommitRecord]:
        staged = {}
        for task, messages in batches.items():
            try:
                if record := self.stage(task, messages, now):
                    staged[task] = record
            except DamagedLakeError as exc:
                stopped[task] = f"{task_name(task)} is stopped: {exc}"
        return staged

    def _apply_each(self, won: Mapping[int, CommitRecord], stopped: dict[int, str]) -> list[CommitRecord]:
        """Step 3 for all records at once; where a table is damaged, for each that does without it."""
        try:
            self.apply(list(won.values()))
            return list(won.values())
        except DamagedLakeError:
            applied = []
        for task, record in won.items():
            try:
                self.apply([record])
                applied.append(record)
            except DamagedLakeError as exc:
                stopped[task] = f"{record.task} is stopped: {exc}"
        return applied

    def stage(self, task: int, messages: Sequence[RawMessage], now: datetime) -> CommitRecord | None:
        """Step 1: run the jobs and write their rows to files that no commit names yet.

        Returns:
            The record to decide on; None where no message came and no job did anything.
        """
        state = self._tasks[task]
        outcome = run_jobs(self._parts.jobs, messages, state, now)
        if not outcome and not messages:
            return None
        n = state.n + 1
        files = {
            table: tuple(self._parts.lake.stage(table, rows, state.task, n))
            for table, rows in outcome.rows.items()
        }
        return CommitRecord(
            task=state.task,
            n=n,
            clock=now.isoformat(),
            log=self._identity(state),
            offsets=_spans(state, messages),
            files=files,
            state=outcome.state,
            counters=outcome.counters,
            messages=outcome.messages,
            code=self._parts.code,
        )

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
            if record.messages:
                self._parts.publisher.publish(record, originals)
            self._parts.commits.mark_applied(record.task, record.n)

    def _identity(self, state: TaskState) -> LogIdentity:
        return state.log or self._parts.log_identity()

    def _advance(self, task: int, won: Sequence[CommitRecord]) -> None:
        state = self._tasks[task]
        for record in won:
            if record.task == state.task:
                state = self._tasks[task] = state.after(record)
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


def _spans(state: TaskState, messages: Sequence[RawMessage]) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    for m in messages:
        start, _ = spans.get(m.topic, (state.offsets.get(m.topic, m.offset), 0))
        spans[m.topic] = (start, m.offset + 1)
    return spans


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
