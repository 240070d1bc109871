"""Lets a stopped job go on from where it stopped, once it works again.

The job gets what it missed in pieces, each a commit of its own: messages from the log, and rows that landed
meanwhile from the lake, found by ``_partition`` and ``_offset``. The commit moves the job's offsets, so a
crash repeats nothing. When they have reached the task's, the job runs with the others again. What the log
does not hold any more is on record as a gap.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from feature_store.commit_feed import names_table
from feature_store.data_file import COMPACTED, origin
from feature_store.lake import Lake
from schemas.errors import OperatorError
from schemas.tables import ALERTS, BOOKS, DEVICE_STATES, LABELS, SUMMARIES
from schemas.topics import ALERT, DEVICE_STATE, LABEL, SUMMARY, TELEMETRY
from schemas.topics import BOOKS as BOOKS_TOPIC
from stream_processors.engine.attempts import AttemptMarks
from stream_processors.engine.bisecting import Isolated, Passed, Trial, isolate
from stream_processors.engine.bounded_child import ChildTrials
from stream_processors.engine.job_trials import TrialPlan, TrialRun
from stream_processors.engine.pipeline import CommitOutput, run_jobs
from stream_processors.engine.poison import GuiltyMessage, JobFailure, RecentMessages, VerifiedSender
from stream_processors.engine.poison_store import key_counters, key_entries
from stream_processors.engine.records import CommitRecord, SetAside, StoppedJob, TaskState
from stream_processors.engine.staging import CommitDraft, RecordWriter, StagingParts
from stream_processors.job import Job, RawMessage

log = logging.getLogger(__name__)

PIECE_OFFSETS = 2_000
"""Offsets of a topic that a job gets at a time."""
RETRY_S = 300.0
"""How long a job that failed again waits, beside the start of a worker."""

SOURCES = {
    SUMMARIES.name: SUMMARY.base,
    BOOKS.name: BOOKS_TOPIC.base,
    ALERTS.name: ALERT.base,
    LABELS.name: LABEL.base,
    DEVICE_STATES.name: DEVICE_STATE.base,
}
"""Topic whose offsets the rows of a table carry; telemetry tables have one too."""
_TELEMETRY_TABLE = "telemetry_"


class LogReads(Protocol):
    """Reads spans of the log; ``KafkaLog`` does."""

    def read(self, topic: str, partition: int, start: int, end: int) -> tuple[list[RawMessage], int]:
        """Messages of the span, a bounded number, and how far they reach.

        Raises:
            OperatorError: The log does not hold the span any more.
        """
        ...

    def log_range(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset, and the one after the last."""
        ...


@dataclass(frozen=True)
class MissedPiece:
    """A part of what a job missed.

    Attributes:
        messages: Messages of the log, and for each message whose rows the job reads a stand-in without
        content. rows: Landed rows by table. offsets: By topic, up to where this reaches. gaps: Offsets that
        cannot be had any more.
    """

    messages: tuple[RawMessage, ...] = ()
    rows: Mapping[str, pa.Table] = field(default_factory=dict)
    offsets: Mapping[str, int] = field(default_factory=dict)
    gaps: tuple[SetAside, ...] = ()

    def landed_for(self, messages: Sequence[RawMessage]) -> Mapping[str, pa.Table]:
        """Rows of these messages only."""
        offsets: dict[str, list[int]] = {}
        for m in messages:
            offsets.setdefault(m.topic, []).append(m.offset)
        chosen = {
            name: rows.filter(
                pc.is_in(rows["_offset"], pa.array(offsets.get(source_of(name) or "", []), pa.int64()))
            )
            for name, rows in self.rows.items()
        }
        return {name: rows for name, rows in chosen.items() if rows.num_rows}


def source_of(table: str) -> str | None:
    """Topic whose offsets the table's rows carry; None: they carry those of commits."""
    return TELEMETRY.base if table.startswith(_TELEMETRY_TABLE) else SOURCES.get(table)


class CatchUp:
    """Commits of stopped jobs."""

    def __init__(self, parts: StagingParts, marks: AttemptMarks, reads: LogReads | None) -> None:
        self._parts, self._marks, self._reads = parts, marks, reads
        self._writer = RecordWriter(parts)
        self._later: dict[tuple[str, str], datetime] = {}

    def due(self, state: TaskState, now: datetime) -> list[str]:
        """Stopped jobs that may be tried now."""
        known = {job.name for job in self._parts.jobs}
        earliest = datetime.min.replace(tzinfo=now.tzinfo)
        return [j for j in state.stopped if j in known and self._later.get((state.task, j), earliest) <= now]

    def postpone(self, state: TaskState, name: str, now: datetime) -> None:
        """Try a job again only after a while."""
        self._later[state.task, name] = now + timedelta(seconds=RETRY_S)

    def stage(self, state: TaskState, name: str, now: datetime) -> CommitRecord | None:
        """The commit of the next piece; None: the job fails still, and is tried later."""
        stop = state.stopped[name]
        job = next(j for j in self._parts.jobs if j.name == name)
        piece = self._piece(job, state, stop)
        self._marks.begin(state, ())
        try:
            isolated = self._tried(job, piece, state, stop, now)
            if isolated.ours or isolated.keys:
                return self._spoilt(state, name, isolated, now)
            return self._commit(job, piece, isolated, state, now)
        finally:
            self._marks.end(state)

    def _tried(
        self, job: Job, piece: MissedPiece, state: TaskState, stop: StoppedJob, now: datetime
    ) -> Isolated:
        """Which of the piece passes; in a child first, where the job had ended the whole process."""
        factory = self._parts.trial_jobs
        harmless = stop.how == "raised" and not self._marks.of(state).suspected
        if harmless or factory is None:
            trial = TrialRun([job], now, self._parts.lake.check, self._parts.progress, piece.landed_for)
            return self._isolate(trial, piece, state)
        plan = TrialPlan.of(factory, [job], now, self._parts.trial_limits)
        with ChildTrials(plan, self._parts.progress, piece.landed_for) as child:
            return self._isolate(child, piece, state, ChildTrials.WAYS)

    def _isolate(self, trial: Trial, piece: MissedPiece, state: TaskState, ways: int = 2) -> Isolated:
        if isinstance(trial(piece.messages, state), Passed):
            return Isolated(len(piece.messages), piece.messages)
        return isolate(trial, piece.messages, state, self._sender_of, RecentMessages(), ways)

    def _sender_of(self, message: RawMessage) -> VerifiedSender | None:
        if message.value or message.key is None:
            return self._parts.sender_of(message)
        return VerifiedSender(message.key.decode(), 0)  # its rows have landed, so it was verified

    def _spoilt(self, state: TaskState, name: str, isolated: Isolated, now: datetime) -> CommitRecord | None:
        failure = isolated.failure or JobFailure(name, "", "")
        if isolated.keys:
            entries = key_entries(isolated.keys, state.state, failure)
            output = CommitOutput({}, dict.fromkeys(isolated.keys), (), key_counters(isolated.keys))
            return self._writer.record(state, now, CommitDraft(output, set_aside=entries))
        log.warning("job %s of %s stays stopped: %s", name, state.task, failure)
        self.postpone(state, name, now)
        before = state.stopped[name]
        if failure.how == before.how:
            return None
        # From now on it is tried in a child first, or no longer.
        stop = replace(before, error=failure.error, reason=failure.reason, how=failure.how)
        return self._writer.record(state, now, CommitDraft(stopped={name: stop}))

    def _commit(
        self, job: Job, piece: MissedPiece, isolated: Isolated, state: TaskState, now: datetime
    ) -> CommitRecord:
        output = run_jobs([job], isolated.kept, state, now, None, piece.landed_for(isolated.kept))
        real = [g for g in isolated.guilty if g.message.value]
        rows = tuple(_rows_entry(g) for g in isolated.guilty if not g.message.value)
        late = Counter({f"{job.name}/set_aside_messages": len(rows)} if rows else {})
        for gap in piece.gaps:
            late[f"{job.name}/missed_messages"] += gap.detail["messages"]
        offsets = dict(piece.offsets)
        if isolated.taken < len(piece.messages):  # the rest is the next piece
            for message in reversed(piece.messages[isolated.taken :]):
                offsets[message.topic] = message.offset
        before = state.stopped[job.name]
        reached = {**before.offsets, **offsets}
        done = all(reached.get(t, 0) >= end for t, end in state.offsets.items())
        if done:
            log.warning("job %s of %s has caught up", job.name, state.task)
        stopped = {job.name: None if done else replace(before, offsets=reached)}
        draft = CommitDraft(output, (), real, (*rows, *piece.gaps), stopped, late)
        return self._writer.record(state, now, draft)

    def _piece(self, job: Job, state: TaskState, stop: StoppedJob) -> MissedPiece:
        """The next part of what the job missed; topics that it does not read count as read."""
        tables = [
            t for t in self._parts.lake.tables() if source_of(t) and any(names_table(r, t) for r in job.reads)
        ]
        messages, rows, gaps = list[RawMessage](), dict[str, pa.Table](), list[SetAside]()
        offsets = dict(state.offsets)
        for topic in sorted({*job.reads, *(source_of(t) or "" for t in tables)} & set(state.offsets)):
            start = self._start(stop, topic, state)
            end = min(state.offsets[topic], start + PIECE_OFFSETS)
            if topic in job.reads:
                found, end, gap = self._from_log(job.name, topic, state, start, end)
                messages += found
                gaps += gap
            for table in tables:
                if source_of(table) == topic:
                    rows[table] = landed_rows(self._parts.lake, table, state.task, start, end)
                    messages += _stand_ins(
                        topic, rows[table], {m.offset for m in messages if m.topic == topic}
                    )
            offsets[topic] = end
        return MissedPiece(tuple(messages), rows, offsets, tuple(gaps))

    def _start(self, stop: StoppedJob, topic: str, state: TaskState) -> int:
        """First offset that the job has not had; where the task had read nothing yet, the log's first."""
        if topic in stop.offsets or self._reads is None:
            return stop.offsets.get(topic, 0)
        return min(self._reads.log_range(topic, state.number)[0], state.offsets[topic])

    def _from_log(
        self, job: str, topic: str, state: TaskState, start: int, end: int
    ) -> tuple[list[RawMessage], int, list[SetAside]]:
        if self._reads is None:
            return [], start, []
        try:
            found, reached = self._reads.read(topic, state.number, start, end)
        except OperatorError as exc:
            low = min(max(self._reads.log_range(topic, state.number)[0], start + 1), state.offsets[topic])
            what = f"{topic}[{state.number}] offsets {start}..{low}"
            log.exception("job %s of %s cannot catch up on %s", job, state.task, what)
            gap = SetAside(
                "gap", job, what, type(exc).__name__, str(exc), "raised", {"messages": low - start}
            )
            return [], low, [gap]
        return found, reached, []


def landed_rows(lake: Lake, table: str, task: str, start: int, end: int) -> pa.Table:
    """Rows of a task's messages ``start`` to ``end`` (exclusive) in a table, in their order."""
    import pyarrow.dataset as ds  # noqa: PLC0415  (it loads pandas, a third of a second that few processes need)

    snapshot = lake.snapshot(table)
    own = [path for path in snapshot.sizes if (o := origin(path)) is None or o.task in (task, COMPACTED)]
    if not own:
        return snapshot.columns.empty_table()
    partition = int(task.rpartition("-")[2])
    wanted = (
        (ds.field("_partition") == partition) & (ds.field("_offset") >= start) & (ds.field("_offset") < end)
    )
    verified = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    files = ds.dataset(
        [str(lake.root / table / path) for path in own], schema=snapshot.columns, format=verified
    )
    return files.to_table(filter=wanted).sort_by([("_offset", "ascending"), ("_row", "ascending")])


def _stand_ins(topic: str, rows: pa.Table, known: set[int]) -> list[RawMessage]:
    """One message without content for each message that these rows came from."""
    found: dict[int, RawMessage] = {}
    columns = (rows[c].to_pylist() for c in ("_offset", "_partition", "device_id"))
    times = rows["known_at"].cast(pa.int64()).to_pylist()
    for offset, partition, device, at_us in zip(*columns, times, strict=True):
        if offset not in known and offset not in found:
            found[offset] = RawMessage(topic, partition, offset, at_us // 1000, device.encode(), [], b"")
    return list(found.values())


def _rows_entry(one: GuiltyMessage) -> SetAside:
    message, failure = one.message, one.failure
    place = f"{message.topic}[{message.partition}]@{message.offset}"
    return SetAside("rows", failure.job, place, failure.error, failure.reason, failure.how)
