"""A lake with a history, copies of it to damage, and what readers and workers make of them; no broker."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path

from feature_store.catalog import refresh_catalog
from feature_store.commit_log import CommitLog
from feature_store.compaction import CompactionPolicy, compact
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from feature_store.scrub import PERIOD, Scrub
from feature_store.sql import query
from feature_store.start_up import heal
from schemas.errors import DamagedLakeError, TasksStoppedError
from schemas.instants import utc_now
from stream_processors.engine.checkpoint import Checkpoint, CheckpointParts
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.ingest.lake_directory import LakeDirectory
from stream_processors.job import RawMessage
from stream_processors.settings import StreamSettings
from stream_processors.worker import Housekeeping
from tests.simulators.line import IDENTITY, Recorder
from tests.simulators.messages import MACHINE, T0, SimDevice, SimLog

TASKS = (0, 1)
COMMITS = 70
COMPACTED_AT, PINNED_AT = 20, 45
LATER = 2
ROWS = 2
TABLE = "telemetry_machine"
ROW_SQL = f"SELECT device_id, seq, score, vibration_rms, known_at FROM {TABLE} ORDER BY ALL"


@dataclass
class LakeHistory:
    """A lake that two tasks wrote to; its messages can be read again, as from the broker.

    Attributes:
        root: The lake's folder; tests damage copies of it.
        messages: All messages of each task, those after the history included.
        sent: How many of each task are in the lake.
    """

    root: Path
    messages: dict[int, list[RawMessage]]
    sent: dict[int, int]

    def copy(self, folder: Path) -> DamagedLake:
        """A copy to damage."""
        shutil.copytree(self.root, folder / "lake")
        shutil.copytree(self.root.parent / "devices-then", folder / "devices-then")
        return DamagedLake(folder / "lake", self)


def make_history(folder: Path) -> LakeHistory:
    """Two tasks, registrations, a compaction, a pin, two snapshots, checkpoints of busy logs, a catalog."""
    root = folder / "lake"
    lake = Lake.open(root)
    cuts = CutStore(lake)
    heal(lake, cuts)
    for description in ("first", "second"):
        ProfileRegistry(lake).register(MACHINE.model_copy(update={"description": description}))
    devices = {task: SimDevice(f"machine-{task:02d}") for task in TASKS}
    registry = DeviceRegistry(lake)
    for device in devices.values():
        key = (device.signer.key_id, device.signer.public_pem().decode())
        registry.register([DeviceRecord(device.device_id, "machine", "s", "default", "sim", *key)])
        if not (folder / "devices-then").exists():
            shutil.copytree(root / "devices", folder / "devices-then")
    history = LakeHistory(root, {t: _messages(t, devices[t]) for t in TASKS}, dict.fromkeys(TASKS, COMMITS))
    worker = make_worker(root)
    for task in TASKS:
        worker.open(task)
    for i in range(COMMITS):
        worker.process({t: [history.messages[t][i]] for t in TASKS})
        if i == COMPACTED_AT:
            compact(lake, cuts, CompactionPolicy(least_files=2))
        if i == PINNED_AT:
            cuts.pin("kept")
    refresh_catalog(lake)
    return history


def _messages(task: int, device: SimDevice) -> list[RawMessage]:
    log = SimLog()
    made = []
    for i in range(COMMITS + LATER):
        bad = {"value": b"garbage"} if i % 10 == 9 else {}
        made.append(log.append(device.rows(i * ROWS, ROWS), **bad)._replace(partition=task))
    return made


def make_worker(root: Path, recorder: Recorder | None = None) -> Housekeeping:
    """What a stream worker does with a lake from its start on, but for Faust and Kafka."""
    lake = Lake.open(root)
    cuts = CutStore(lake)
    heal(lake, cuts)
    ticks = count()
    parts = CheckpointParts(
        lake=lake,
        commits=CommitLog(root),
        cuts=cuts,
        jobs=(Ingest(LakeDirectory(ProfileRegistry(lake), DeviceRegistry(lake))),),
        publisher=recorder or Recorder(),
        log_identity=lambda: IDENTITY,
        clock=lambda: T0 + timedelta(minutes=2, seconds=next(ticks)),
        code={"edgeloop": "test"},
    )
    settings = StreamSettings(lake_root=root, compact_every=10**6)
    return Housekeeping(Checkpoint(parts), lake, cuts, settings)


@dataclass
class DamagedLake:
    """A copy of a lake, to damage.

    Attributes:
        stopped: Tasks that a worker could not open, with the reason.
        damage: What was done to it.
    """

    root: Path
    history: LakeHistory
    stopped: dict[int, str] = field(default_factory=dict)
    damage: str = ""

    def truth(self, *, later: bool = False) -> set[tuple]:
        """Rows of the telemetry table that must be there, as device and number."""
        found = set()
        for task in TASKS:
            device = f"machine-{task:02d}"
            for i in range(COMMITS + (LATER if later else 0)):
                found |= {(device, i * ROWS + k) for k in range(ROWS) if i % 10 != 9}
        return found

    def rows(self, cut=None) -> tuple[list[tuple], list[str]]:
        """Rows that a query shows, whole, and its warnings."""
        warnings: list[str] = []
        result = query(self.root, ROW_SQL, cut, warnings.append)
        return [tuple(row.values()) for row in result.to_pylist()], warnings

    def count(self, table: str) -> tuple[int, list[str]]:
        """Rows of a table, and the query's warnings."""
        warnings: list[str] = []
        result = query(self.root, f"SELECT count(*) AS n FROM {table}", None, warnings.append)
        return result.column("n")[0].as_py(), warnings

    def work(self) -> Housekeeping:
        """Start a worker, let it take what it has not, and refresh the catalog."""
        worker = make_worker(self.root)
        self.stopped = {}
        offsets = {}
        for task in TASKS:
            try:
                offsets[task] = worker.open(task).get("telemetry.v1", 0)
            except DamagedLakeError as exc:
                self.stopped[task] = str(exc)
        for i in range(LATER):
            ready = {t: [self.history.messages[t][COMMITS + i]] for t in offsets}
            if i == 0:
                ready = {t: self.history.messages[t][offsets[t] : COMMITS + 1] for t in offsets}
            try:
                worker.process({t: m for t, m in ready.items() if t not in self.stopped})
            except TasksStoppedError as exc:
                self.stopped |= exc.reasons
        refresh_catalog(Lake.open(self.root))
        return worker

    def scrub(self) -> None:
        """The scrub of the next two days: a pass that a worker began before the damage, and one after it."""
        scrub = Scrub(self.root, CutStore(Lake.open(self.root)), 10**9)
        for days in (1, 2):
            while (state := scrub.turn(utc_now() + days * PERIOD)) is not None and not state.done:
                pass

    def newest(self, pattern: str, back: int = 0) -> Path:
        """A file by pattern, the newest by name or one before it."""
        return sorted(self.root.glob(pattern))[-1 - back]


Damage = Callable[[Path, Path], None]
"""Damages the first file; the second is an older one of its kind."""


def torn(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path, _: Path) -> None:
    path.unlink()


def of_another_moment(path: Path, older: Path) -> None:
    path.write_bytes(older.read_bytes())


def one_bit_turned(path: Path, _: Path) -> None:
    data = bytearray(path.read_bytes())
    at = random.Random(path.name).randrange(len(data) // 4, len(data) * 3 // 4)
    data[at] ^= 1 << (at % 8)
    path.write_bytes(data)
