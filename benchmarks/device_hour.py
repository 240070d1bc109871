"""Measures the lake as analysts ask it: one device's hour beside a sorted file; and what compaction takes.

A writer lands commits of eight tasks without a broker, as a worker does, and a compactor runs beside it as
beside a worker. What is measured: each commit's time, the compactor's CPU and memory, and then queries of
random devices and hours through our views and over one Parquet file of the same rows, sorted by device and
time by DuckDB.
"""

from __future__ import annotations

import shutil
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import psutil
import pyarrow as pa

from benchmarks.results import Measured
from benchmarks.stage import Stage, until
from benchmarks.workload import SEED, machine
from feature_store.compaction_state import CompactionState, read_state
from feature_store.cut_store import CutStore
from feature_store.duck import file_list
from feature_store.lake import Lake, TableCommit
from feature_store.lake_registry import ProfileRegistry
from feature_store.sql import connect
from schemas.tables import telemetry_table
from stream_processors.compaction_process import CompactionProcess
from stream_processors.settings import StreamSettings

DEVICES, TASKS = 200, 8
COMMIT_S = 760
"""Seconds of a row a second and device in one commit: 152,000 rows."""
COMMITS = 66
QUERIES = 40
START_US = 1_790_000_000_000_000
SPEC = telemetry_table(machine())
HOUR = (
    "SELECT count(*), avg(score), max(vibration_rms) FROM {source} WHERE device_id = '{device}' "
    "AND event_time >= make_timestamptz({start}) AND event_time < make_timestamptz({start} + 3600000000)"
)
FLEET = "SELECT time_bucket(INTERVAL 1 MINUTE, event_time) AS minute, avg(score) FROM {source} GROUP BY ALL"


_RESULTS = {
    "device-hour": ("CPU of one device's hour over a sorted file's", "<= 1.3", 2),
    "device-hour-tail": ("the same at the cut with the most files", "", 2),
    "commit-beside": ("longest commit beside a compaction, ms", "", 0),
    "compaction-memory": ("most memory of the compactor, MiB", "<= 512", 0),
    "compaction": ("landed rows per CPU-second of the compactor", "", 0),
}


@dataclass
class Cost:
    """Wall and CPU milliseconds of queries."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def of(self, source: duckdb.DuckDBPyConnection, sql: str) -> None:
        """Measure a query."""
        wall, cpu = time.perf_counter(), time.process_time()
        source.execute(sql).fetchall()
        self.wall.append(1000 * (time.perf_counter() - wall))
        self.cpu.append(1000 * (time.process_time() - cpu))

    def over(self, other: Cost) -> tuple[float, float]:
        """Ratio of the medians: wall, CPU."""
        pairs = ((self.wall, other.wall), (self.cpu, other.cpu))
        wall, cpu = (statistics.median(a) / statistics.median(b) for a, b in pairs)
        return wall, cpu

    def __str__(self) -> str:
        return f"{statistics.median(self.wall):.1f} ms, CPU {statistics.median(self.cpu):.1f}"


@dataclass
class Landed:
    """A lake and what making it took.

    Attributes:
        alone_ms: Commits while nothing is compacted.
        beside_ms: Commits while the compactor works.
        compactor_cpu_s: Its CPU, start included.
        worst_cut: Id of the cut with the most files of the table, ``most_files``.
        files: Those once compaction had nothing left to do.
    """

    lake: Lake
    rows: int = 0
    newest_us: int = START_US
    alone_ms: list[float] = field(default_factory=list)
    beside_ms: list[float] = field(default_factory=list)
    compactor_cpu_s: float = 0.0
    peak_mb: int = 0
    worst_cut: int = 0
    most_files: int = 0
    files: int = 0


def run(on: Stage) -> list[Measured]:
    """Measure and print; each run makes a lake of its own."""
    values: dict[str, list[float]] = {name: [] for name in _RESULTS}
    beside = ""
    for number in range(on.effort.runs):
        folder = on.folder / f"device-hour-{number}"
        landed, costs = _measure(folder, max(24, round(COMMITS * on.effort.scale)))
        shutil.rmtree(folder)
        peer = costs["sorted file"]
        values["device-hour"].append(costs["settled"].over(peer)[1])
        values["device-hour-tail"].append(costs["at its most files"].over(peer)[1])
        values["commit-beside"].append(max(landed.beside_ms, default=0.0))
        values["compaction-memory"].append(float(landed.peak_mb))
        values["compaction"].append(landed.rows / landed.compactor_cpu_s)
        beside = _describe(landed, costs)
        print(beside, flush=True)
    return [
        Measured(f"lake/{name}", measure, tuple(values[name]), beside, floor, digits)
        for name, (measure, floor, digits) in _RESULTS.items()
    ]


def _describe(landed: Landed, costs: dict[str, Cost]) -> str:
    peer = costs["sorted file"]
    parts = [
        f"{name}: {cost} (wall {cost.over(peer)[0]:.2f}, CPU {cost.over(peer)[1]:.2f} of the sorted file's)"
        for name, cost in costs.items()
        if name in ("settled", "at its most files")
    ]
    fleet = costs["fleet"].over(costs["fleet, sorted file"])
    commits = [
        (statistics.median(ms), max(ms)) for ms in (landed.beside_ms or [0.0], landed.alone_ms or [0.0])
    ]
    return (
        f"{landed.rows:,} rows in {landed.files} files, {landed.most_files} at most; sorted file {peer}; "
        f"{'; '.join(parts)}; whole table by minute: wall {fleet[0]:.2f}, CPU {fleet[1]:.2f}; commits: "
        f"median {commits[0][0]:.0f}, longest {commits[0][1]:.0f} ms beside a compaction, "
        f"{commits[1][0]:.0f} and {commits[1][1]:.0f} alone; compactor {landed.compactor_cpu_s:.1f} CPU-s, "
        f"{1e6 * landed.compactor_cpu_s / landed.rows:.2f} us a landed row, {landed.peak_mb} MiB"
    )


def _measure(folder: Path, commits: int) -> tuple[Landed, dict[str, Cost]]:
    landed = _land(folder / "lake", commits)
    costs = {
        "settled": _hours(landed, connect(landed.lake.root, locked=False)),
        "at its most files": _hours(landed, connect(landed.lake.root, landed.worst_cut, locked=False)),
    }
    peer = _sorted_file(landed, folder / "sorted.parquet")
    costs["sorted file"] = _hours(landed, peer)
    for name, source in (("fleet", connect(landed.lake.root, locked=False)), ("fleet, sorted file", peer)):
        costs[name] = Cost()
        for _ in range(3):
            costs[name].of(source, FLEET.format(source=SPEC.name))
    return landed, costs


def _land(root: Path, commits: int) -> Landed:
    """Land them with a compactor beside, and wait until it has nothing left to do."""
    landed = Landed(Lake.open(root))
    landed.lake.ensure_fixed_tables()
    ProfileRegistry(landed.lake).register(machine())
    landed.lake.ensure_table(SPEC)
    settings = StreamSettings(lake_root=root)
    compaction = CompactionProcess(root, settings.compact_memory_mb, settings.stall_timeout_s)
    cuts, rng = CutStore(landed.lake), np.random.default_rng(SEED)
    for n in range(commits):
        parts = [task_rows(task, n, rng) for task in range(TASKS)]
        before, started = _compactor_cpu_s(landed.lake.root), time.perf_counter()
        staged = [landed.lake.stage(SPEC.name, rows, f"task-{t:02d}", n) for t, rows in enumerate(parts)]
        made = [TableCommit(f"task-{t:02d}", n, tuple(files)) for t, files in enumerate(staged)]
        landed.lake.apply(SPEC.name, made)
        cut = cuts.record({c.task: n for c in made})
        took = 1000 * (time.perf_counter() - started)
        (landed.beside_ms if _compactor_cpu_s(landed.lake.root) > before else landed.alone_ms).append(took)
        landed.rows += sum(rows.num_rows for rows in parts)
        if len(cut.tables[SPEC.name].files) > landed.most_files:
            landed.most_files, landed.worst_cut = len(cut.tables[SPEC.name].files), cut.id
        if (n + 1) % settings.compact_every == 0:
            compaction.ask()
    landed.newest_us = START_US + commits * COMMIT_S * 1_000_000
    _settle(landed, compaction, cuts)
    return landed


def _settle(landed: Landed, compaction: CompactionProcess, cuts: CutStore) -> None:
    """Ask until a compaction finds nothing to do."""
    while True:
        before = read_state(landed.lake.root)
        compaction.ask()
        until(partial(_moved_on, landed.lake.root, before), "a compaction", 900)
        after = read_state(landed.lake.root)
        if after is None or after.error:
            raise RuntimeError(f"compaction failed: {after}")
        landed.peak_mb = after.peak_mb
        if not after.replaced:
            break
    landed.compactor_cpu_s = _compactor_cpu_s(landed.lake.root)
    landed.files = len(cuts.resolve(None).tables[SPEC.name].files)


def _moved_on(root: Path, before: CompactionState | None) -> bool:
    return read_state(root) != before


def _compactor_cpu_s(root: Path) -> float:
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has ended
            if {"feature_store.compactor", str(root)} <= set(child.cmdline()):
                return float(sum(child.cpu_times()[:2]))
    return 0.0


def task_rows(task: int, n: int, rng: np.random.Generator) -> pa.Table:
    """A row a second of each of the task's devices, in the order of time."""
    names = pa.array([f"machine-{i:04d}" for i in range(task, DEVICES, TASKS)])
    seconds = np.repeat(np.arange(n * COMMIT_S, (n + 1) * COMMIT_S), len(names))
    count = len(seconds)
    at = pa.array(START_US + seconds * 1_000_000)
    values = {
        "device_id": names.take(pa.array(np.tile(np.arange(len(names)), COMMIT_S))),
        "seq": pa.array(seconds),
        "mono_ns": pa.array(seconds * 1_000_000_000 + rng.integers(0, 10**6, count)),
        "event_time": at,
        "known_at": pa.array(START_US + seconds * 1_000_000 + 300_000),
        "_partition": pa.array(np.full(count, task)),
        "_offset": pa.array(seconds // 10),
        "_row": pa.array(seconds % 10),
    }
    return pa.table([_column(f, values, count, rng) for f in SPEC.schema], schema=SPEC.schema)


def _column(kind: pa.Field, values: dict[str, pa.Array], count: int, rng: np.random.Generator) -> pa.Array:
    """A column; features have full mantissas, so that nothing compresses by luck."""
    if kind.name in values:
        return values[kind.name].cast(kind.type)
    if kind.nullable and not pa.types.is_floating(kind.type):
        return pa.nulls(count, kind.type)
    if pa.types.is_string(kind.type):
        return pa.array(["machine-0"]).take(pa.array(np.zeros(count, dtype="int8")))
    if pa.types.is_floating(kind.type):
        return pa.array(rng.normal(5, 1, count)).cast(kind.type, safe=False)
    return pa.array(np.zeros(count, dtype="int64")).cast(kind.type)


def _sorted_file(landed: Landed, path: Path) -> duckdb.DuckDBPyConnection:
    """A connection whose view reads one file of the same rows, as DuckDB writes it."""
    made = connect(landed.lake.root, locked=False)
    made.execute(
        f"COPY (SELECT * FROM {SPEC.name} ORDER BY device_id, event_time) TO '{path}' "
        "(FORMAT parquet, COMPRESSION zstd)"
    )
    peer = duckdb.connect()
    peer.execute("SET TimeZone = 'UTC'")
    peer.execute("SET parquet_metadata_cache = true")  # as ours: footers are read once a connection
    peer.execute(f"CREATE VIEW {SPEC.name} AS SELECT * FROM read_parquet({file_list([path])})")
    return peer


def _hours(landed: Landed, source: duckdb.DuckDBPyConnection) -> Cost:
    """One device's hour, the newest and any in turn; the first queries are not counted."""
    rng, cost = np.random.default_rng(SEED), Cost()
    for number in range(QUERIES):
        device = f"machine-{rng.integers(DEVICES):04d}"
        last = landed.newest_us - 3_600_000_000
        start = last if number % 2 else int(rng.integers(START_US, max(last, START_US + 1)))
        sql = HOUR.format(source=SPEC.name, device=device, start=start)
        (cost if number >= 4 else Cost()).of(source, sql)
    return cost
