"""Jobs that fail on chosen messages or states, and a line of devices that feeds them."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from feature_store import connect
from feature_store.commit_log import CommitLog
from schemas.envelope import MessageSigner
from stream_processors.engine.checkpoint import Checkpoint
from stream_processors.engine.poison_store import PoisonStore
from stream_processors.engine.records import CommitRecord, SetAside, TaskState
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.job import Batch, Derived, Job, Output, RawMessage, State
from tests.simulators.line import TASK, Recorder, make_checkpoint, make_lake, on_task
from tests.simulators.messages import SimDevice, SimDirectory, SimLog


@dataclass(frozen=True)
class Fault:
    """What a job fails on, and how. It can be pickled.

    Attributes:
        offsets: Messages that it fails on.
        pair: Two messages that it fails on where both are in one batch.
        keys: State keys that it fails on, whatever else is in the batch.
        how: raise, end (kill -9), hang, memory; or derive (a message) and derive much (too large a one).
    """

    offsets: frozenset[int] = frozenset()
    pair: frozenset[int] = frozenset()
    keys: frozenset[str] = frozenset()
    how: str = "raise"

    def strike(self, messages: Sequence[RawMessage], state: State) -> None:
        """Fail, if there is anything to fail on."""
        here = {m.offset for m in messages}
        if self.how.startswith("derive"):
            return
        if here & self.offsets or (self.pair and self.pair <= here) or set(state) & self.keys:
            {"raise": _raise, "end": _end, "hang": _hang, "memory": _eat}[self.how]()


def _raise() -> None:
    raise ZeroDivisionError("a fault that no check foresaw")


HERE = os.getpid()
"""Of the tests; in a child, of the process that it forks from."""


class RanHereError(BaseException):
    """What ends processes was run in the process of the tests; nobody may take it for an input's fault."""


def _end() -> None:
    if os.getpid() == HERE:
        raise RanHereError
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    if os.getpid() == HERE:
        raise RanHereError
    threading.Event().wait()


def _eat() -> None:
    if os.getpid() == HERE:
        raise RanHereError
    eaten = []
    for _ in range(2048):  # far more than a trial may take, and far less than the machine has
        eaten.append(bytearray(os.urandom(1)) * 1024**2)


class FaultyIngest(Ingest):
    """The landing job with a fault."""

    def __init__(self, directory, fault: Fault) -> None:
        super().__init__(directory)
        self.fault = fault

    def process(self, batch: Batch, state: State, now: datetime) -> Output:
        self.fault.strike(batch.messages, state)
        return super().process(batch, state, now)


class Tally:
    """A job beside ingest that counts each device's messages, with a fault."""

    name, version, state_version = "tally", 1, 1
    reads: tuple[str, ...] = ("telemetry.v1",)
    writes: tuple[str, ...] = ()

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault or Fault()

    def process(self, batch: Batch, state: State, now: datetime) -> Output:
        self.fault.strike(batch.messages, state)
        size = {"derive": 10, "derive much": 2_000_000}.get(self.fault.how, 0)
        struck = any(m.offset in self.fault.offsets for m in batch.messages)
        derived = (Derived("tally.v1", "k", b"x" * size),) if size and struck else ()
        seen = Counter((m.key or b"").decode() for m in batch.messages)
        counts = {d: state.get(d, 0) + n for d, n in seen.items()}
        return Output(state=counts, counters=Counter(seen=sum(seen.values())), messages=derived)


def built_in_child(keys: Sequence[tuple[str, bytes]], faults: Mapping[str, Fault]) -> tuple[Job, ...]:
    """The same jobs, from what can be pickled: ids and private keys."""
    return jobs_of([SimDevice(name, signer=MessageSigner.from_pem(pem)) for name, pem in keys], faults)


def jobs_of(devices: Sequence[SimDevice], faults: Mapping[str, Fault]) -> tuple[Job, ...]:
    """The jobs of a line."""
    jobs: list[Job] = [FaultyIngest(SimDirectory(*devices), faults.get("ingest", Fault()))]
    if "tally" in faults:
        jobs.append(Tally(faults["tally"]))
    return tuple(jobs)


@dataclass
class PoisonLine:
    """Devices, their messages on one partition, and checkpoints whose jobs fail on chosen ones.

    Attributes:
        faults: By job; a line without ``tally`` has the landing job alone.
    """

    root: Path
    devices: Sequence[SimDevice]
    faults: dict[str, Fault] = field(default_factory=dict)
    log: SimLog = field(default_factory=SimLog)
    recorder: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.lake = make_lake(self.root)
        self._sent: Counter[str] = Counter()

    def send(self, n: int, rows: int = 2) -> list[RawMessage]:
        """The next n messages, of the devices in turn."""
        found = []
        for _ in range(n):
            device = self.devices[len(self.log.messages) % len(self.devices)]
            sealed = device.rows(self._sent[device.device_id], rows)
            self._sent[device.device_id] += rows
            found.append(on_task(self.log.append(sealed)))
        return found

    def jobs(self) -> tuple[Job, ...]:
        """Jobs of a new worker."""
        return jobs_of(self.devices, self.faults)

    def worker(self, kind: type[Checkpoint] = Checkpoint, child: bool = False, **parts) -> Checkpoint:
        """A worker that has opened the task."""
        jobs = self.jobs()
        if child:
            parts["trial_jobs"] = partial(
                built_in_child,
                [(d.device_id, d.signer.private_pem()) for d in self.devices],
                dict(self.faults),
            )
        directory = SimDirectory(*self.devices)
        made = make_checkpoint(
            self.lake, directory, kind, recorder=self.recorder, jobs=jobs, reads=LogOf(self.log), **parts
        )
        made.open(TASK)
        return made

    def landed(self) -> set[int]:
        """Offsets of the messages whose rows queries see."""
        rows = (
            connect(self.lake.root, comments=False)
            .execute("SELECT DISTINCT _offset FROM telemetry_machine")
            .fetchall()
        )
        return {r[0] for r in rows}

    def quarantined(self) -> dict[int, str]:
        """Offset to reason."""
        query = "SELECT _offset, error || ': ' || reason FROM quarantine"
        return dict(connect(self.lake.root, comments=False).execute(query).fetchall())

    def state(self) -> TaskState:
        """The task's state, from its records alone."""
        log, task = CommitLog(self.lake.root), "task-00"
        snapshot = log.latest_snapshot(task)
        state = TaskState.from_bytes(snapshot) if snapshot else TaskState(task)
        for data in log.records_from(task, state.n + 1):
            state = state.after(CommitRecord.from_bytes(data))
        return state

    def set_aside(self, kind: str) -> list[dict]:
        """Entries of one kind: of messages in the commit records, of anything else in the files."""
        if kind == "message":
            return [e for e in map(SetAside.to_json, in_records(self.lake.root)) if e["kind"] == kind]
        return [e for e in PoisonStore(self.lake.root).entries() if e["kind"] == kind]

    def assert_balanced(self) -> None:
        """received = landed + duplicate + quarantined, in messages and rows."""
        c = self.state().counters
        for unit in ("rows", "messages"):
            got = {
                w: c.get(f"ingest/telemetry.v1/{w}_{unit}", 0)
                for w in ("received", "duplicate", "quarantined")
            }
            landed = c.get("ingest/telemetry.v1/landed_rows", 0) if unit == "rows" else None
            if landed is not None:
                assert got["received"] == landed + got["duplicate"] + got["quarantined"]


def in_records(root: Path) -> list[SetAside]:
    """What the commit records say was set aside, of all tasks."""
    log = CommitLog(root)
    tasks = [task for task in log.tasks() if task.startswith("task-")]
    records = [CommitRecord.from_bytes(data) for task in tasks for data in log.records_from(task, 0)]
    return [entry for record in records for entry in record.set_aside]


class LogOf:
    """The simulated log as ``KafkaLog`` reads it.

    Attributes:
        low: First offset that it still holds.
    """

    def __init__(self, log: SimLog, low: int = 0) -> None:
        self._log, self.low = log, low

    def read(self, topic, partition, start, end):
        from schemas.errors import OperatorError

        if start < self.low:
            raise OperatorError(f"{topic} offsets {start}..{end} are not in the log any more")
        found = [on_task(m) for m in self._log.messages if m.topic == topic and start <= m.offset < end]
        return found, end

    def log_range(self, topic, partition):
        return self.low, max((m.offset + 1 for m in self._log.messages if m.topic == topic), default=0)


def devices(n: int) -> list[SimDevice]:
    """Devices with keys of their own."""
    return [SimDevice(f"machine-{i:02d}", spool_id=f"{i:016x}") for i in range(n)]


def all_but(messages: Sequence[RawMessage], *left_out: int) -> set[int]:
    """Offsets of the messages but for some."""
    return {m.offset for m in messages} - set(left_out)


def offsets(*found: int) -> frozenset[int]:
    """A set of offsets."""
    return frozenset(found)
