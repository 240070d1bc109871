"""Observes a running line from outside: reads spools, log, cuts and lake beside their writers."""

from __future__ import annotations

import contextlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime

from edge_producer.spool.spool_file import reading
from feature_store import connect
from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from infra.audit import SpoolCount, count_spools
from infra.job_report import commits_to_read
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.lag import lags
from infra.stack.edge_processes import EdgeProcess
from schemas.errors import DamagedLakeError, QueryError, SpoolError
from schemas.instants import utc_now
from schemas.topics import DEVICE_TOPICS, LANES_OF, TELEMETRY, Topic, partition_for
from stream_processors.engine.records import CommitRecord
from stream_processors.engine.task_loading import task_name

_COUNTS = """
    SELECT (SELECT count(*) FROM alerts WHERE known_at >= $1),
           (SELECT count(*) FROM drift WHERE known_at >= $1)
"""
_TASK = re.compile(r"task-(\d+)")


@dataclass(frozen=True)
class LineView:
    """The line at one moment.

    Attributes:
        spools: Books by edge process.
        meters: Counters of all edge processes: windows, raw_bytes, feature_bytes, bytes_sent.
        lag: Messages in the log that no commit has passed yet.
        alarms: Alarms in the lake since the start.
        drift: Drift verdicts in the lake since the start.
    """

    spools: Mapping[str, SpoolCount]
    meters: Mapping[str, int]
    lag: int
    alarms: int
    drift: int

    @property
    def total(self) -> SpoolCount:
        """Books of all edge processes."""
        names = SpoolCount.__dataclass_fields__
        return SpoolCount(**{n: sum(getattr(s, n) for s in self.spools.values()) for n in names})


class QueryableFrontier:
    """Since when each offset of the log can be queried; noted cut by cut while the pipeline runs."""

    def __init__(self) -> None:
        self._offsets: dict[int, list[int]] = {}
        self._times: dict[int, list[float]] = {}

    def note(self, partition: int, next_offset: int, at: datetime) -> None:
        """Note that offsets below ``next_offset`` can be queried from this instant on."""
        offsets = self._offsets.setdefault(partition, [])
        if not offsets or next_offset > offsets[-1]:
            offsets.append(next_offset)
            self._times.setdefault(partition, []).append(at.timestamp())

    def when(self, partition: int, offset: int) -> float | None:
        """When the offset became queryable, seconds since 1970; None: it is not known."""
        offsets = self._offsets.get(partition, [])
        at = bisect_right(offsets, offset)
        return self._times[partition][at] if at < len(offsets) else None


@dataclass
class SentSoFar:
    """How far the log went at one moment, where the watched edge processes have written.

    Attributes:
        ends: Offset that the next message got, by task and topic.
        commits: Commit that took the last of them in, as soon as it is known.
    """

    ends: Mapping[tuple[str, str], int]
    commits: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass
class LineWatcher:
    """Polls a line, and notes since when each offset can be queried."""

    lake: Lake
    admin: KafkaAdmin
    namespace: str
    edges: Sequence[EdgeProcess]
    since: datetime
    frontier: QueryableFrontier = field(default_factory=QueryableFrontier)
    _cut: int = 0
    _marks: dict[str, int] = field(default_factory=dict)

    def poll(self) -> LineView:
        """The line as it is now."""
        alarms, drift = self._lake_counts()
        spools, meters = {}, Counter[str]()
        for edge in self.edges:
            with contextlib.suppress(SpoolError):  # the process has not made it yet
                spools[edge.spec.name] = count_spools([edge.spool])
                meters.update(read_meters(edge))
        return LineView(spools, dict(meters), self.lag(), alarms, drift)

    def lag(self) -> int:
        """How much is on its way: messages that queries do not show yet, and commits that are not finished.

        Those are decided and not applied, or a user's job that runs has yet to read them.
        """
        behind = sum(lag.lag for lag in lags(self.lake.root, self.admin, self.namespace))
        commits = CommitLog(self.lake.root)
        unfinished = [t for t in commits.tasks() if commits.applied(t) != commits.latest(t)]
        self.follow_cuts()
        unread = commits_to_read(self.lake.root, utc_now())
        return behind + len([t for t in unfinished if _TASK.fullmatch(t)]) + unread

    def sent(self) -> SentSoFar:
        """What to wait for: how far our own messages go, whatever others have written before or behind them.

        The broker said where each of them is. Where it did not, all that stands there now is waited for.
        """
        ends, unknown = dict[tuple[str, str], int](), set[tuple[str, str]]()
        counts = self.admin.topics()
        for edge in self.edges:
            said = _acknowledged(edge)
            if said is None:
                unknown |= {
                    (task_name(partition_for(producer, partitions)), topic.base)
                    for topic, producer in _written(edge)
                    if (partitions := counts.get(topic.named(self.namespace)))
                }
                continue
            unknown |= {place for place, end in said.items() if end < 0}
            ends |= {place: max(end, ends.get(place, 0)) for place, end in said.items() if end >= 0}
        if unknown:
            found = lags(self.lake.root, self.admin, self.namespace, only={task for task, _ in unknown})
            ends |= {(lag.task, lag.topic): lag.end for lag in found if (lag.task, lag.topic) in unknown}
        return SentSoFar(ends)

    def behind(self, sent: SentSoFar) -> int:
        """How many of those messages queries do not show yet, and how many tasks have not applied them."""
        missing = 0
        for lag in lags(self.lake.root, self.admin, self.namespace, only={task for task, _ in sent.ends}):
            if (lag.task, lag.topic) not in sent.ends:
                continue
            short = sent.ends[lag.task, lag.topic] - lag.next
            missing += max(0, short)
            if short <= 0:
                sent.commits.setdefault((lag.task, lag.topic), lag.commit)
        # A commit is marked applied after the cut that shows it was recorded.
        marked = {task: CommitLog(self.lake.root).applied(task) for task, _ in sent.commits}
        applied = {task: -1 if n is None else n for task, n in marked.items()}
        unseen = {task for (task, _), n in sent.commits.items() if applied[task] < n}
        self.follow_cuts()
        return missing + len(unseen)

    def follow_cuts(self) -> None:
        """Note what the cuts since the last call made queryable."""
        cuts, commits = CutStore(self.lake), CommitLog(self.lake.root)
        for cut_id in sorted(i for i in cuts.ids() if i > self._cut):
            try:
                cut = cuts.read(cut_id)
            except (QueryError, DamagedLakeError):  # removed meanwhile, or damaged: a later cut covers it
                continue
            for task, n in cut.marks.items():
                if self._marks.get(task, -1) < n:
                    self._note(commits, task, n, cut.created)
            self._cut, self._marks = cut_id, dict(cut.marks)

    def _note(self, commits: CommitLog, task: str, n: int, at: datetime) -> None:
        match = _TASK.fullmatch(task)
        if match is None:
            return
        with contextlib.suppress(FileNotFoundError, DamagedLakeError):  # pruned: a later record covers it
            record = CommitRecord.from_bytes(commits.read(task, n))
            partition = int(match[1])
            if TELEMETRY.base in record.offsets:
                self.frontier.note(partition, record.offsets[TELEMETRY.base][1], at)

    def _lake_counts(self) -> tuple[int, int]:
        if CutStore(self.lake).latest() is None:
            return 0, 0
        with closing(connect(self.lake.root, comments=False)) as connection:
            row = connection.execute(_COUNTS, [self.since]).fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)


def _acknowledged(edge: EdgeProcess) -> dict[tuple[str, str], int] | None:
    """By task and topic the offset behind the last message that an edge process which has ended got through.

    -1: the broker did not say. None: the process runs, or is of an earlier release.
    """
    status = edge.status()
    if status.get("phase") != "stopped" or "log_ends" not in status:
        return None
    return {
        (task_name(int(partition)), topic): int(end)
        for topic, ends in status["log_ends"].items()
        for partition, end in ends.items()
    }


def _written(edge: EdgeProcess) -> list[tuple[Topic, str]]:
    """Topics that an edge process has sealed messages for, each with the key that they have there."""
    with reading(edge.spool) as connection:
        lanes = connection.execute(
            "SELECT l.lane, d.device_id FROM lanes l JOIN devices d ON d.no = l.device"
        )
        return [
            (topic, key) for lane, key in lanes for topic in DEVICE_TOPICS if lane in LANES_OF[topic.base]
        ]


def read_meters(edge: EdgeProcess) -> dict[str, int]:
    """Counters of one edge process, from its spool."""
    with reading(edge.spool) as connection:
        return {name: int(value) for name, value in connection.execute("SELECT name, value FROM counters")}
