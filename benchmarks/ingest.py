"""Measures the ingest worker with everything on, beside bare loops and a naive landing of the same bytes.

Rows per CPU-second of the worker and its compactor (fetch, verify, dedupe, validate, Parquet, Delta, cuts,
compaction, catalog) from the moment its tasks are settled until every row is applied.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import process_tree, workload
from benchmarks.peers import loops
from benchmarks.results import Measured, table
from benchmarks.stage import Stage, until
from benchmarks.workload import Workload
from feature_store.commit_log import CommitLog
from feature_store.lake import Lake
from schemas.topics import DEVICE_PARTITIONS
from stream_processors.engine.task_loading import task_name

MESSAGES = {1: 20_000, 10: 16_000, 100: 8_000, 500: 3_000, 2000: 1_000}
BACKLOG = "-backlog"
"""Behind the rows a message: signed as a device signs what it seals of a backlog."""
PEERS = ("bare", "materialised", "verified", "naive")
FLOORS = {"500": "200,000"}


@dataclass
class Rates:
    """Rows per CPU-second of one scenario, one value per run."""

    load: Workload
    worker: list[float] = field(default_factory=list)
    peers: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PEERS})
    commits: list[int] = field(default_factory=list)

    def ratio(self, peer: str) -> float:
        """Worker over peer, median of the runs' own ratios."""
        return statistics.median(w / p for w, p in zip(self.worker, self.peers[peer], strict=True))

    def measured(self) -> Measured:
        """The result for RESULTS.md."""
        beside = ", ".join(
            f"{name} {statistics.median(self.peers[name]):,.0f} (worker {self.ratio(name):.2f} of it)"
            for name in PEERS
        )
        name, digest = self.load.name, f"{len(self.load.messages):,} messages, {self.load.rows:,} rows"
        floor = FLOORS.get(name, "")
        return Measured(
            f"ingest/{name}", "rows per CPU-second", tuple(self.worker), f"{beside}; {digest}", floor
        )


def run(on: Stage, only: tuple[str, ...] = ()) -> list[Measured]:
    """Measure every size and the fleet's own traffic; print one table."""
    names = only or (*(f"{n}{b}" for n in MESSAGES for b in ("", BACKLOG)), "fleet", "fleet-gateway")
    loads = [_load(on, name) for name in names]
    rates = [_measure(on, load) for load in loads]
    head = ("rows/message", "B/row", "commits", "worker rows/CPU-s", *PEERS, *(f"/{p}" for p in PEERS))
    print(table(head, [_row(r) for r in rates]), flush=True)
    return [r.measured() for r in rates]


def _load(on: Stage, name: str) -> Workload:
    if name == "fleet-gateway":
        return on.gateway_fleet
    return on.fleet if name == "fleet" else _of_size(name, on.effort.scale)


def _of_size(name: str, scale: float) -> Workload:
    rows = int(name.removesuffix(BACKLOG))
    load = workload.of_size(rows, round(MESSAGES[rows] * scale))
    return workload.signed_together(load) if name.endswith(BACKLOG) else load


def _row(r: Rates) -> list[str]:
    absolute = [f"{statistics.median(v):,.0f}" for v in (r.worker, *r.peers.values())]
    commits = f"{statistics.median(r.commits):.0f}"
    ratios = [f"{r.ratio(p):.2f}" for p in PEERS]
    return [r.load.name, f"{r.load.value_bytes / r.load.rows:.1f}", commits, *absolute, *ratios]


def _measure(on: Stage, load: Workload) -> Rates:
    """Each run on a fresh namespace and lake."""
    rates = Rates(load)
    for _ in range(on.effort.runs):
        namespace = on.namespace()
        with tempfile.TemporaryDirectory(dir=on.folder) as name:
            folder = Path(name)
            lake = Lake.open(folder / "lake")
            lake.ensure_fixed_tables()
            load.register(lake)
            cpu_s, commits = worker_cpu_s(on.servers, namespace, lake.root, load)
            rates.worker.append(load.rows / cpu_s)
            rates.commits.append(commits)
            used = {
                "bare": loops.bare(on.servers, namespace, load),
                "materialised": loops.materialised(on.servers, namespace, load),
                "verified": loops.verified(on.servers, namespace, load),
                "naive": loops.landed_naively(on.servers, namespace, load, folder / "naive"),
            }
        for peer, seconds in used.items():
            rates.peers[peer].append(load.rows / seconds)
    return rates


def worker_cpu_s(servers: str, namespace: str, lake_root: Path, load: Workload) -> tuple[float, int]:
    """CPU seconds of a worker from settled to the last row applied, and its commits."""
    with running_worker(servers, namespace, lake_root) as process:
        meter = psutil.Process(process.pid)
        before = process_tree.cpu_s(meter)
        workload.produce(servers, namespace, load)
        until(lambda: applied(lake_root, "received")[0] >= load.rows, f"{load.rows} rows", 600)
        used = process_tree.cpu_s(meter) - before
        landed, commits = applied(lake_root, "landed")
        if landed != load.rows:
            raise RuntimeError(f"the worker landed {landed} of {load.rows} rows (see `quarantine`)")
        return used, commits


@contextmanager
def running_worker(servers: str, namespace: str, lake_root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A stream worker whose tasks are settled; it is ended at the end."""
    with started_worker(servers, namespace, lake_root) as process:
        log_path = lake_root.parent / "worker.log"
        until(lambda: b"settled: tasks [0, 1" in log_path.read_bytes(), "the worker to settle")
        yield process


@contextmanager
def started_worker(servers: str, namespace: str, lake_root: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A stream worker from its start on, its log beside the lake; it is ended at the end."""
    own = {
        "STREAM_BOOTSTRAP_SERVERS": servers,
        "STREAM_NAMESPACE": namespace,
        "STREAM_LAKE_ROOT": str(lake_root),
    }
    log_path = lake_root.parent / "worker.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "stream_processors", "worker"],
            env={**os.environ, **own},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def applied(lake_root: Path, what: str) -> tuple[int, int]:
    """Rows that ingest counted in applied commits, and these commits."""
    log, total, commits = CommitLog(lake_root), 0, 0
    for task in map(task_name, range(DEVICE_PARTITIONS)):
        applied = log.applied(task)
        if applied is None:
            continue
        commits += applied + 1
        snapshot = json.loads(log.latest_snapshot(task) or b'{"n": -1, "counters": {}}')
        total += _rows(snapshot["counters"], what)
        records = (json.loads(r) for r in log.records_from(task, snapshot["n"] + 1))
        total += sum(_rows(r["counters"], what) for r in records if r["n"] <= applied)
    return total, commits


def _rows(counters: dict[str, int], what: str) -> int:
    return sum(n for k, n in counters.items() if k.startswith("ingest/") and k.endswith(f"/{what}_rows"))
