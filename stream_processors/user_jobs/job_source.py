"""Where a user job's next input comes from: staged files, then the tables; raw messages from the log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import closing
from itertools import islice, takewhile
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from feature_store import parquet
from feature_store.commit_feed import CommitFeed, FeedEntry, FeedStart
from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from schemas.errors import LakeConflictError, OperatorError
from stream_processors.job import RawMessage
from stream_processors.user_jobs.declaration import UserJob
from stream_processors.user_jobs.job_input import (
    InputLimits,
    JobInput,
    Position,
    StreamRows,
    advance,
    counted,
    derived,
    group,
    reached_after,
)
from stream_processors.user_jobs.job_start import seen
from stream_processors.user_jobs.older_input import OlderRows, spans_between

_ENTRIES_AT_ONCE = 256
MIGRATE = "docs/writing-a-job.md#from-messages-to-rows"
GONE = "input/gone_rows"
"""Counter of rows that had landed and were deleted from the tables before the job could read them."""


class MessageLog(Protocol):
    """Reads raw messages; ``KafkaLog`` is one."""

    def log_range(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset of a partition, and the offset after its last."""
        ...

    def read(self, topic: str, partition: int, start: int, end: int) -> tuple[list[RawMessage], int]:
        """Messages in [start, end), and up to where the range is known now."""
        ...


class JobSource:
    """Input of one job from one task.

    Args:
        lake: Holds the files.
        cuts: Of the same lake.
        job: What it reads.
        task: Such as ``task-03``.
        limits: Bounds of one call.
        log: Opens the log; called only for a job that reads raw messages.
        memory_mb: What reading from tables may take, MiB.
    """

    def __init__(
        self,
        lake: Lake,
        cuts: CutStore,
        job: UserJob,
        task: str,
        limits: InputLimits,
        log: Callable[[], MessageLog],
        memory_mb: int = 512,
    ) -> None:
        self._lake, self._cuts, self._job, self._task = lake, cuts, job, task
        self._limits, self._log, self._memory_mb = limits, log, memory_mb
        self._partition = int(task.rpartition("-")[2])
        self._commits = CommitLog(lake.root)
        self._feed = CommitFeed(lake.root, task)

    def next(self, position: Position, counters: Mapping[str, int]) -> JobInput | None:
        """The input after this position; None: nothing new is in every table yet.

        Args:
            position: Of the job.
            counters: The job's totals; ``seen`` says how many rows of a topic it has had.

        Raises:
            OperatorError: Messages that the job wants have left the log, or a record is damaged.
            BrokerUnavailableError: The log does not answer.
            LakeConflictError: What to read moved meanwhile, or is in no cut yet.
        """
        first, newest = position.get(self._task, 0), self._newest()
        if newest < first:
            return None
        entries = list(islice(self._feed.entries(first, newest), _ENTRIES_AT_ONCE))
        if not entries:
            return self._from_tables(position, counters, self._feed.start())
        name = self._job.name
        if name in entries[0].inside:
            return _already_done(self._task, entries[0], name)
        own = list(takewhile(lambda e: name not in e.inside, entries))
        taken = group(own, self._job.topics, self._job.reads_table, self._limits)
        return self._from_files(position, taken, more=taken[-1].n < newest)

    def _newest(self) -> int:
        """Newest commit that a cut shows: so a job's rows are never shown before the rows they come from."""
        applied = self._commits.applied(self._task)
        if applied is not None:
            return applied
        cut = self._cuts.latest()
        return -1 if cut is None else cut.marks.get(self._task, -1)

    def _from_files(self, position: Position, entries: Sequence[FeedEntry], *, more: bool) -> JobInput:
        """Input of whole commits whose records or chunks are known."""
        task = self._task
        reached = reached_after(task, entries)
        rows = self._staged(entries)
        if rows is None:
            here = {**position, derived(task): entries[0].n}
            with self._older(entries[-1].n) as older:
                rows = older.rows(spans_between(here, {**reached, derived(task): reached[task]}))
        messages = [m for t in self._job.topics for m in self._messages(t, position, reached.get(t, 0))[0]]
        return JobInput(reached, rows, tuple(messages), counted(entries), more=more)

    def _staged(self, entries: Sequence[FeedEntry]) -> dict[str, pa.Table] | None:
        """Rows of the commits from their own files; None: a file is gone, its rows are in another.

        Raises:
            DamagedLakeError: A file is not as it was written: the job must not read other rows from it.
        """
        paths: dict[str, list[Path]] = defaultdict(list)
        for entry in entries:
            for table, files in entry.files.items():
                if self._job.reads_table(table):
                    paths[table] += [self._lake.root / table / f.path for f in files]
        if not all(path.exists() for found in paths.values() for path in found):
            return None
        return {t: self._rows(t, found) for t, found in paths.items()}

    def _rows(self, table: str, files: Sequence[Path]) -> pa.Table:
        columns = self._lake.snapshot(table).columns
        return parquet.concat([parquet.read(file, columns) for file in files], columns)

    def _from_tables(self, position: Position, counters: Mapping[str, int], start: FeedStart) -> JobInput:
        """Input up to where the known commits begin: rows from the tables, messages from the log."""
        task, limit = self._task, self._limits.rows
        if start.n < position.get(task, 0):
            raise LakeConflictError(f"{task}: its records were pruned while they were read")
        ends = {**start.offsets, derived(task): start.n + 1}
        here = {**position, derived(task): max(position.get(derived(task), 0), position.get(task, 0))}
        with self._older(start.n) as older:
            tables = older.streams()
            spans = {s: span for s, span in spans_between(here, ends).items() if s in tables}
            found = older.counted(tables, spans, limit)
            reached = advance(found, limit)
            rows = older.rows({s: (here.get(s, 0), end) for s, end in reached.items()})
        messages: list[RawMessage] = []
        for topic in self._job.topics:
            read, reached[topic] = self._messages(topic, here, ends.get(topic, 0), limit)
            messages += read
        had = Counter({seen(s): _landed_before(found[s], end) for s, end in reached.items() if s in found})
        wanted = {*spans, *self._job.topics}
        more = any({**here, **reached}.get(s, 0) < ends.get(s, 0) for s in wanted)
        if not more:
            reached = {**ends, task: start.n + 1}
            had.update(_missing(start, Counter(counters) + had, tables))
        del had[seen(derived(task))]
        return JobInput(reached, rows, tuple(messages), dict(had), more=True)

    def _messages(
        self, topic: str, position: Position, end: int, limit: int | None = None
    ) -> tuple[list[RawMessage], int]:
        """Raw messages of a topic up to ``end``, at most about ``limit``; and the offset that comes next."""
        start = position.get(topic)
        if end <= (start or 0):
            return [], start or 0
        log = self._log()
        at = log.log_range(topic, self._partition)[0] if start is None else start
        found: list[RawMessage] = []
        try:
            while at < end and (limit is None or len(found) < limit):
                part, at = log.read(topic, self._partition, at, end)
                found += part
        except OperatorError as exc:
            raise OperatorError(
                f"job '{self._job.name}' wants messages that the log does not keep any more ({exc}): "
                f"let it read the tables, which do ({MIGRATE})"
            ) from exc
        return found, at

    def _older(self, n: int) -> closing[OlderRows]:
        """The rows of the newest cut, which must show commit ``n``."""
        cut = self._cuts.latest()
        if cut is None or cut.marks.get(self._task, -1) < n:
            raise LakeConflictError(f"{self._task}: no cut shows commit {n} yet")
        return closing(OlderRows(self._lake, cut, self._task, self._job.reads_table, self._memory_mb))


def _already_done(task: str, entry: FeedEntry, job: str) -> JobInput:
    """A commit in which a worker of release 0.2.0 ran the job itself: its rows stand, its state is taken."""
    reached = reached_after(task, [entry])
    return JobInput(reached, counters=counted([entry]), state=entry.inside[job], more=True)


def _landed_before(stream: StreamRows, end: int) -> int:
    return sum(row.landed for row in stream.found if row.offset < end)


def _missing(start: FeedStart, had: Mapping[str, int], read: Container[str]) -> Counter[str]:
    """Rows that landed and that the job has not had; of a topic that it reads, they are gone."""
    missing: Counter[str] = Counter()
    for topic, landed in start.landed.items():
        lacking = landed - had.get(seen(topic), 0)
        missing[seen(topic)] = lacking
        if topic in read and lacking > 0:
            missing[GONE] += lacking
    return missing
