"""Measures ingest long enough for the compactor to work beside the worker, and charges what it takes.

Rows per CPU-second of both, at 500 rows a message, from settled tasks until the last row is applied and the
compaction that then runs has ended.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import ingest, process_tree, workload
from benchmarks.peers import loops
from benchmarks.results import Measured, table
from benchmarks.stage import Stage, until
from benchmarks.workload import Workload
from feature_store import compactor
from feature_store.delta_entry import COMPACTOR
from feature_store.lake import Lake
from schemas.envelope import SealedMessage
from schemas.tables import telemetry_table_name

ROWS_PER_MESSAGE = 500
MESSAGES = 12_000
LEAST_MESSAGES = 6_000
"""Of a quick run."""
LEAST_MERGES = 2
ROUND, MOST_MESSAGES = 3_000, 30_000
"""Sent again and again, up to the most, while there were fewer compactions."""
QUIET_S = 3.0
"""A compactor that has used no CPU for so long has nothing to do."""


class Sustained(NamedTuple):
    """One run.

    Attributes:
        rows_per_cpu_s: Of worker and compactor.
        rows_per_s: Wall time until the last row is applied.
        compactor_share: Of the CPU.
        merges: Files of telemetry that the compactor wrote before the last row was applied.
        files: Of telemetry, once it had nothing left to do.
        rows: How many it took to have two compactions.
        naive: Rows per CPU-second of the naive peer, which compacts nothing.
    """

    rows_per_cpu_s: float
    rows_per_s: float
    compactor_share: float
    merges: int
    files: int
    rows: int
    naive: float


class Supply:
    """Messages of the same devices, sealed once and as many as are asked for."""

    def __init__(self) -> None:
        self.devices, self._more = workload.endless(ROWS_PER_MESSAGE)
        self._sealed: list[SealedMessage] = []

    def messages(self, start: int, end: int) -> Workload:
        """These messages."""
        self._sealed += islice(self._more, max(0, end - len(self._sealed)))
        rows = (end - start) * ROWS_PER_MESSAGE
        return Workload("500-sustained", self._sealed[start:end], rows, self.devices)


def run(on: Stage) -> list[Measured]:
    """Measure; prints one table.

    Raises:
        RuntimeError: A run held fewer than two compactions.
    """
    count = max(LEAST_MESSAGES, round(MESSAGES * on.effort.scale))
    supply = Supply()
    runs = [_run(on, supply, count) for _ in range(on.effort.runs)]
    head = (
        "run",
        "rows/CPU-s",
        "wall rows/s",
        "compactor % of CPU",
        "merges",
        "files left",
        "rows",
        "/naive",
    )
    rows = [
        [
            str(number),
            f"{r.rows_per_cpu_s:,.0f}",
            f"{r.rows_per_s:,.0f}",
            f"{100 * r.compactor_share:.0f}",
            str(r.merges),
            str(r.files),
            f"{r.rows:,}",
            f"{r.rows_per_cpu_s / r.naive:.2f}",
        ]
        for number, r in enumerate(runs, 1)
    ]
    print(table(head, rows), flush=True)
    share, merges = (statistics.median(getattr(r, n) for r in runs) for n in ("compactor_share", "merges"))
    naive = statistics.median(r.naive for r in runs)
    ratio = statistics.median(r.rows_per_cpu_s / r.naive for r in runs)
    wall = statistics.median(r.rows_per_s for r in runs)
    beside = (
        f"naive, which compacts nothing, {naive:,.0f} (worker {ratio:.2f} of it); {merges:.0f} merges beside "
        f"the worker, {100 * share:.0f} % of the CPU; wall {wall:,.0f} rows/s; {runs[-1].rows:,} rows"
    )
    values = tuple(r.rows_per_cpu_s for r in runs)
    return [Measured("ingest/500-sustained", "rows per CPU-second", values, beside, "800,000")]


def _run(on: Stage, supply: Supply, count: int) -> Sustained:
    namespace, load = on.namespace(), supply.messages(0, count)
    with tempfile.TemporaryDirectory(dir=on.folder) as name:
        folder = Path(name)
        lake = Lake.open(folder / "lake")
        lake.ensure_fixed_tables()
        load.register(lake)
        with ingest.running_worker(on.servers, namespace, lake.root) as process:
            meter = psutil.Process(process.pid)
            began, before = time.monotonic(), process_tree.cpu_s(meter)
            _land(on, namespace, lake, load)
            while (merges := _merges(lake)) < LEAST_MERGES and count < MOST_MESSAGES:
                _land(on, namespace, lake, supply.messages(count, count + ROUND), count)
                count += ROUND
            took, worker = time.monotonic() - began, process_tree.cpu_s(meter) - before
            if merges < LEAST_MERGES:
                raise RuntimeError(f"only {merges} compactions beside the worker, after {count} messages")
            load = supply.messages(0, count)
            at_end = _compactor_s(meter)
            compacting = _once_quiet(meter)
        naive_s = loops.landed_naively(on.servers, namespace, load, folder / "naive")
        used = worker + compacting - at_end
        files = len(Lake.open(lake.root).snapshot(_table()).sizes)
    share = compacting / used
    rates = load.rows / used, load.rows / took
    return Sustained(*rates, share, merges, files, load.rows, load.rows / naive_s)


def _land(on: Stage, namespace: str, lake: Lake, load: Workload, before: int = 0) -> None:
    """Send messages after so many others, and wait until all rows are applied."""
    workload.produce(on.servers, namespace, load)
    rows = load.rows + before * ROWS_PER_MESSAGE
    until(lambda: ingest.applied(lake.root, "landed")[0] >= rows, f"{rows} rows", 900)


def _merges(lake: Lake) -> int:
    log = Lake.open(lake.root).log(_table())
    log.catch_up()
    return log.transaction(COMPACTOR) or 0


def _table() -> str:
    return telemetry_table_name(workload.machine().name)


def _once_quiet(worker: psutil.Process) -> float:
    """CPU seconds of the compactor once it has ended what it does."""
    used, quiet_since = _compactor_s(worker), time.monotonic()
    while time.monotonic() - quiet_since < QUIET_S:
        time.sleep(0.2)
        if (now := _compactor_s(worker)) > used:
            used, quiet_since = now, time.monotonic()
    return used


def _compactor_s(worker: psutil.Process) -> float:
    return sum(
        process_tree.cpu_s(child) for child in worker.children() if compactor.__name__ in child.cmdline()
    )
