"""Measures the worker beside other engines: the same rows behind on one broker, each to its natural sink.

Rows per CPU-second of the whole process tree, and per second of wall time, from the first landed row to the
last. Ours verify, deduplicate, validate and land exactly once, with 22 columns; theirs do not, with 13.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import ingest, process_tree, workload
from benchmarks.peers.environments import HERE, PeerUnavailableError, python_of, spark_jars
from benchmarks.peers.peer_rows import ROWS, Backlog
from benchmarks.peers.sinks import SinkRows
from benchmarks.results import Measured, table
from benchmarks.stage import Stage
from feature_store.lake import Lake
from schemas.tables import telemetry_table_name

POLL_S = 0.05
TIMEOUT_S = 600.0
OURS, OURS_TOGETHER = "edgeloop", "edgeloop-backlog"
"""Each message signed by itself; and as devices sign what they seal of a backlog."""


class Engine(NamedTuple):
    """A peer: its script, and at which sizes it drains a fifth of the rows, for it is slow.

    Attributes:
        json: It gets JSON at every size, not Arrow from two rows on.
    """

    script: str
    short_at: tuple[int, ...] = ()
    json: bool = False


ENGINES = {
    "bytewax": Engine("bytewax_flow.py"),
    "quixstreams": Engine("quix_app.py"),
    "faust": Engine("faust_app.py", (1,)),
    "spark": Engine("spark_stream.py", tuple(ROWS), json=True),
    "bare": Engine("bare_loop.py"),
}


class Drained(NamedTuple):
    """What one drain took, from its first landed row to its last.

    Attributes:
        rows_per_cpu_s: Of the process and all that it started.
        rows_per_own_cpu_s: Of the process alone: ours merges files in another one, and the others merge none.
    """

    rows_per_cpu_s: float
    rows_per_s: float
    rss_mb: float
    rows_per_own_cpu_s: float


@dataclass
class Comparison:
    """Drains of one size by engine, one a run; ``skipped`` says in words why one is missing."""

    rows_per_message: int
    drains: dict[str, list[Drained]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def measured(self) -> Measured:
        """The result for RESULTS.md: ours, beside all others."""
        ours = self.drains[OURS]
        wall = f"wall {_median(ours, 1):,.0f} rows/s, {_median(ours, 2):,.0f} MB{_own(ours)}"
        beside = "; ".join([wall, *map(self._beside, self._others()), *self._missing()])
        name, values = f"peers/{self.rows_per_message}", tuple(d.rows_per_cpu_s for d in ours)
        return Measured(name, "rows per CPU-second, first landed to last", values, beside)

    def rows(self) -> list[list[str]]:
        """Lines of the table."""
        return [
            [
                f"{self.rows_per_message} {name}",
                *(f"{_median(d, n):,.0f}" for n in range(3)),
                *(f"{self._ratio(name, n):.2f}" for n in range(2)),
            ]
            for name, d in self.drains.items()
        ]

    def _beside(self, name: str) -> str:
        drains = self.drains[name]
        spread = sorted(d.rows_per_cpu_s for d in drains)
        cpu = f"{name} {_median(drains, 0):,.0f} [{spread[0]:,.0f} - {spread[-1]:,.0f}]"
        ratio = f"ours is {self._ratio(name, 0):.2f} of it, wall {self._ratio(name, 1):.2f}"
        own = _own(drains) if name == OURS_TOGETHER else ""
        return f"{cpu}, wall {_median(drains, 1):,.0f}, {_median(drains, 2):,.0f} MB{own} ({ratio})"

    def _ratio(self, name: str, measure: int) -> float:
        """Ours over theirs, median of the runs' own ratios."""
        pairs = zip(self.drains[OURS], self.drains[name], strict=True)
        return statistics.median(ours[measure] / theirs[measure] for ours, theirs in pairs)

    def _others(self) -> list[str]:
        return [name for name in self.drains if name != OURS]

    def _missing(self) -> list[str]:
        return [f"{name} not measured: {why}" for name, why in self.skipped.items()]


def _own(drains: list[Drained]) -> str:
    """What our worker alone did, where merging was in the drain."""
    whole, own = _median(drains, 0), _median(drains, 3)
    return f", its merging left out {own:,.0f} rows/CPU-s" if own > 1.02 * whole else ""


def _median(drains: list[Drained], measure: int) -> float:
    return statistics.median(d[measure] for d in drains)


def run(on: Stage, only: tuple[str, ...] = ()) -> list[Measured]:
    """Measure at 1, 10, 100 and 500 rows a message; prints one table.

    Args:
        only: Sizes and names of peers; without either, all of them.
    """
    sizes = [n for n in ROWS if str(n) in only] or list(ROWS)
    names = [n for n in ENGINES if n in only] or list(ENGINES)
    skipped = _unavailable(names)
    compared = [_compare(on, size, [n for n in names if n not in skipped], skipped) for size in sizes]
    head = ("rows/message, engine", "rows/CPU-s", "wall rows/s", "MB RSS", "ours/CPU", "ours/wall")
    print(table(head, [line for c in compared for line in c.rows()]), flush=True)
    return [c.measured() for c in compared]


def _unavailable(names: list[str]) -> dict[str, str]:
    """Make every environment before anything is measured; why some cannot be had, by name."""
    skipped = {}
    for name in names:
        try:
            python_of(name)
            if name == "spark":
                spark_jars()
        except PeerUnavailableError as exc:
            skipped[name] = str(exc)
            print(f"skipped: {name} ({exc})", flush=True)
    return skipped


def _compare(on: Stage, size: int, names: list[str], skipped: dict[str, str]) -> Comparison:
    """Each run drains with all engines in turn, so that ratios are of the same minutes."""
    backlog, compared = Backlog(on, size), Comparison(size, skipped=dict(skipped))
    for _ in range(on.effort.runs):
        _note(compared, OURS, lambda: _ours(on, backlog, together=False))
        _note(compared, OURS_TOGETHER, lambda: _ours(on, backlog, together=True))
        for name in names:
            _note(compared, name, lambda name=name: _theirs(on, name, backlog))
    whole = {n: d for n, d in compared.drains.items() if len(d) == on.effort.runs}
    return Comparison(size, whole, compared.skipped)


def _note(compared: Comparison, name: str, drain: Callable[[], Drained]) -> None:
    """Keep a drain. A peer that fails is left out and says why; we may not fail."""
    if name in compared.skipped:
        return
    try:
        drained = drain()
    except (RuntimeError, TimeoutError) as exc:
        if name in (OURS, OURS_TOGETHER):
            raise
        compared.skipped[name] = str(exc)
        print(f"skipped: {name} at {compared.rows_per_message} ({exc})", flush=True)
        return
    compared.drains.setdefault(name, []).append(drained)
    cpu, wall, rss, _ = drained
    print(f"  {compared.rows_per_message} {name}: {cpu:,.0f}/CPU-s, {wall:,.0f}/s, {rss:,.0f} MB", flush=True)


def _ours(on: Stage, backlog: Backlog, *, together: bool) -> Drained:
    load = backlog.sealed(together=together)
    namespace = on.namespace()
    workload.produce(on.servers, namespace, load)
    with tempfile.TemporaryDirectory(dir=on.folder) as name:
        lake = Lake.open(Path(name) / "lake")
        lake.ensure_fixed_tables()
        load.register(lake)
        sink = lake.root / telemetry_table_name(workload.machine().name)
        with ingest.started_worker(on.servers, namespace, lake.root) as process:
            return _drain(process, SinkRows(sink), load.rows, lake.root.parent / "worker.log")


def _theirs(on: Stage, name: str, backlog: Backlog) -> Drained:
    engine, size = ENGINES[name], backlog.rows_per_message
    short = size in engine.short_at
    topic = backlog.topic(short=short, json=engine.json or size == 1)
    count = backlog.count(short=short)
    with tempfile.TemporaryDirectory(dir=on.folder) as folder:
        sink, log = Path(folder) / "sink", Path(folder) / "peer.log"
        arguments = [on.servers, topic, str(size), str(sink)]
        if name == "spark":
            arguments += [str(spark_jars()), str(count)]
        with _started(name, arguments, log) as process:
            return _drain(process, SinkRows(sink), count * size, log)


@contextmanager
def _started(name: str, arguments: list[str], log_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The peer's script in its own environment; nothing of ours is on its path."""
    script = HERE / name / ENGINES[name].script
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PYTHONPATH": str(HERE / "in_each"), "SPARK_LOCAL_IP": "127.0.0.1"}
    python = python_of(name)
    environment["PYSPARK_PYTHON"] = str(python)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [str(python), str(script), *arguments],
            env=environment,
            cwd=log_path.parent,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process_tree.end(process)


def _drain(process: subprocess.Popen[bytes], sink: SinkRows, rows: int, log: Path) -> Drained:
    """Watch rows land until all have, and read them back.

    Raises:
        RuntimeError: The process ended, or the sink lacks rows or holds some twice.
        TimeoutError: Not all landed in time.
    """
    meter, deadline = psutil.Process(process.pid), time.monotonic() + TIMEOUT_S
    first: tuple[float, float, float, int] | None = None
    rss = 0.0
    while (landed := sink.count()) < rows:
        if process.poll() is not None:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"ended with {process.returncode} at {landed} of {rows} rows: {last}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{landed} of {rows} rows landed in {TIMEOUT_S:.0f} s")
        if first is None and landed:
            first = (time.monotonic(), process_tree.cpu_s(meter), process_tree.own_cpu_s(meter), landed)
        rss = max(rss, process_tree.rss_mb(meter))
        time.sleep(POLL_S)
    now, cpu_s, own_s = time.monotonic(), process_tree.cpu_s(meter), process_tree.own_cpu_s(meter)
    sink.require(rows)
    if first is None:
        raise RuntimeError(f"all {rows} rows landed at once: too few to measure")
    since, used, own, before = first
    rows = landed - before
    return Drained(rows / (cpu_s - used), rows / (now - since), rss, rows / (own_s - own))
