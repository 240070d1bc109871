"""A task, its commits, and a user's job that reads them: all in one process, with a real lake."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import count

import pyarrow as pa

from feature_store import connect
from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.job_status import JobStatusFiles
from feature_store.lake import Lake
from schemas.errors import OperatorError
from schemas.tables import PROVENANCE, TableSpec
from stream_processors.derived_provenance import derived_provenance
from stream_processors.engine.checkpoint import Checkpoint, CheckpointParts
from stream_processors.engine.task_loading import task_name
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.job import Batch, Output, State
from stream_processors.user_jobs.declaration import declared, make_tables
from stream_processors.user_jobs.feed_log import FeedLog
from stream_processors.user_jobs.job_checkpoint import JobCheckpoint
from stream_processors.user_jobs.job_input import InputLimits
from stream_processors.user_jobs.job_loop import JobLoop, LoopSettings
from stream_processors.user_jobs.job_source import JobSource
from stream_processors.user_jobs.job_start import put_starts
from tests.simulators.line import IDENTITY, TASK, Recorder, make_lake, on_task
from tests.simulators.messages import T0, SimDevice, SimDirectory, SimLog

NUMBERED = TableSpec(
    "numbered",
    "Every row of telemetry with its number within the device.",
    pa.schema(
        [
            pa.field("device_id", pa.string(), False),
            pa.field("seq", pa.int64(), False),
            pa.field("number", pa.int64(), False),
            *PROVENANCE,
        ]
    ),
)


class Numbering:
    """Numbers the rows of each device: a row read twice, left out or out of order shows in all later ones."""

    name, version, state_version = "numbering", 1, 1
    reads = ("telemetry_*",)
    tables = (NUMBERED,)

    def __init__(self, context=None) -> None:
        self._context = context

    def process(self, batch: Batch, state: State, now) -> Output:
        numbers: dict[str, int] = {}
        found = []
        for table in batch.rows.values():
            for row in table.select(["device_id", "seq"]).to_pylist():
                device = row["device_id"]
                numbers[device] = numbers.get(device, state.get(device, 0)) + 1
                found.append(
                    row | {"number": numbers[device], "_row": len(found)} | derived_provenance(batch, now)
                )
        rows = {NUMBERED.name: pa.Table.from_pylist(found, schema=NUMBERED.schema)} if found else {}
        return Output(rows=rows, state=numbers, counters=Counter(numbered=len(found)))


class HeldMessages:
    """The log of ``SimLog``, of which ``low`` offsets are gone."""

    def __init__(self, log: SimLog) -> None:
        self._log, self.low = log, 0

    def log_range(self, topic, partition):
        return self.low, len(self._of(topic))

    def read(self, topic, partition, start, end):
        if start < self.low:
            raise OperatorError(f"{topic}[{partition}] offsets {start}..{end}: out of range")
        return [m for m in self._of(topic) if start <= m.offset < end], end

    def _of(self, topic):
        return [on_task(m) for m in self._log.messages if m.topic == topic]


class UserJobRig:
    """One task with a worker's checkpoint on it, and what one user job's process would hold."""

    def __init__(self, root, *, jobs=(), installed=("numbering",)) -> None:
        self.lake = make_lake(root)
        self.device, self.log = SimDevice(), SimLog()
        self.directory = SimDirectory(self.device)
        self.held = HeldMessages(self.log)
        self.recorder = Recorder()
        self.installed = installed
        self.ticks, self.waited_s = count(), 0.0
        self._sent = 0
        self.worker = self._worker(jobs)

    def replace_worker(self, jobs=(), kind=Checkpoint) -> None:
        """Another worker takes the task; jobs that run within its commits make it one of release 0.2.0."""
        self.worker = self._worker(jobs, kind)

    def _worker(self, jobs, kind=Checkpoint) -> Checkpoint:
        return kind(
            self._parts(
                jobs=(Ingest(self.directory), *jobs),
                commits=FeedLog(self.lake.root, self.now),
                code={"edgeloop": "test", **{f"job.{j.name}": "1" for j in (Ingest(self.directory), *jobs)}},
            )
        )

    def _parts(self, jobs=(), commits=None, code=None) -> CheckpointParts:
        return CheckpointParts(
            lake=Lake.open(self.lake.root),
            commits=commits or CommitLog(self.lake.root),
            cuts=CutStore(Lake.open(self.lake.root), self.now),
            jobs=jobs,
            publisher=self.recorder,
            log_identity=lambda: IDENTITY,
            clock=self.now,
            code=code or {"edgeloop": "test", "job.numbering": "1"},
        )

    def now(self):
        """A clock that goes on by a hundredth of a second with each look, and by ``wait``."""
        return T0 + timedelta(minutes=2, milliseconds=10 * next(self.ticks), seconds=self.waited_s)

    def wait(self, seconds: float = 3) -> None:
        """Let the clock go on."""
        self.waited_s += seconds

    @property
    def task(self) -> str:
        return task_name(TASK)

    @property
    def statuses(self) -> JobStatusFiles:
        return JobStatusFiles(self.lake.root)

    def open(self) -> None:
        """Open the task as a worker does: jobs that have not begun on it begin with its next commit."""
        self.worker.open(TASK)
        put_starts(self.lake.root, self.installed, self.worker.state(TASK))

    def land(self, commits: int = 1, rows: int = 2) -> None:
        """The worker commits so many messages, one in each commit."""
        for _ in range(commits):
            self.worker.process({TASK: self.next_message(rows)})

    def next_message(self, rows: int = 2) -> list:
        """The device's next message, as the task gets it."""
        self._sealed = self.device.rows(self._sent, rows)
        self._sent += rows
        return [on_task(self.log.append(self._sealed))]

    def refuse(self, times: int) -> None:
        """Messages that ingest refuses, each in a commit."""
        for _ in range(times):
            refused = self.log.append(self.device.rows(self._sent, 1), value=b"garbage")
            self.worker.process({TASK: [on_task(refused)]})

    def resend(self, times: int) -> None:
        """The device's last message comes again, so that offsets without rows lie between others."""
        for _ in range(times):
            self.worker.process({TASK: [on_task(self.log.append(self._sealed))]})

    def checkpoint(self, job=None, kind=JobCheckpoint, limits=InputLimits(1000, 1 << 24)) -> JobCheckpoint:  # noqa: B008
        """What one process of the job holds: own handles, own state."""
        user = declared(job or Numbering())
        parts = self._parts()
        make_tables(parts.lake, user)
        return kind(
            parts,
            user,
            self.installed[0] if self.installed else user.name,
            lambda task: JobSource(parts.lake, parts.cuts, user, task, limits, lambda: self.held),
        )

    def loop(self, job=None, checkpoint=None) -> JobLoop:
        """The loop of one process of the job."""
        user = declared(job or Numbering())
        settings = LoopSettings(tick=timedelta(seconds=2), retention_s=1e9, installed_as=user.name)
        return JobLoop(checkpoint or self.checkpoint(job), user, self.statuses, settings, self.now)

    def run(self, job=None, rounds: int = 200, **kwargs) -> JobLoop:
        """Run a new process of the job until nothing more is there."""
        loop = self.loop(job, self.checkpoint(job, **kwargs))
        for _ in range(rounds):
            if not loop.round({TASK}):
                break
        self.wait()
        loop.round({TASK})
        return loop

    def numbered(self, cut=None) -> list[tuple[int, int]]:
        """What the job landed: (seq, number), in order."""
        with connect(self.lake.root, cut, comments=False) as con:
            return con.execute("SELECT seq, number FROM numbered ORDER BY ALL").fetchall()

    def expected(self) -> list[tuple[int, int]]:
        """What it must have landed for everything that was sent."""
        return [(i, i + 1) for i in range(self._sent)]
