"""Measures the time from sensed to queryable with default settings, in its own demos, and its parts.

Only rows of site north count, which always has a network: the demo's own number also includes rows that
its network cut caught while they waited on the device for others of their message.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import Measured, table
from benchmarks.stage import Stage, until
from benchmarks.workload import SEED
from feature_store import connect
from feature_store.lake import Lake
from infra.kafka.kafka_admin import KafkaAdmin
from infra.line_watch import LineWatcher, QueryableFrontier
from infra.stack.running import await_ready
from infra.stack.stack_file import is_held
from schemas.row_schemas import CONTEXT, RULES

DEVICES = 20
SHARES = ("device to broker, rows a rule chose", "device to broker, sampled rows", "broker to queryable")
TOTAL = "sensed to queryable"
AROUND = "sensed to queryable, context"
_ROWS = """
    SELECT epoch(event_time) AS sensed, epoch(known_at) AS known, reasons, _partition, _offset
    FROM telemetry_machine WHERE device_id < ?
"""


def run(on: Stage) -> list[Measured]:
    """Run one demo per run; prints the parts of the time over all of them."""
    demos = [_demo(on, number) for number in range(on.effort.runs)]
    pooled = {name: np.concatenate([d[1][name] for d in demos]) for name in (*SHARES, TOTAL, AROUND)}
    quantiles = {name: np.percentile(s, (50, 99)) for name, s in pooled.items() if len(s)}
    rows = [[name, *(f"{q:.2f}" for q in qs), f"{len(pooled[name]):,}"] for name, qs in quantiles.items()]
    print(table(("seconds", "p50", "p99", "rows"), rows), flush=True)
    where = "; ".join(f"{name} p50 {a:.2f}, p99 {b:.2f} s" for name, (a, b) in quantiles.items())
    own_p99 = ", ".join(f"{report['queryable_p99']:.2f}" for report, _ in demos)
    story = f"{DEVICES} devices, {on.effort.demo_s:.0f} s"
    return [
        Measured(
            "latency/queryable",
            "sensed to queryable p99, s",
            tuple(float(np.percentile(parts[TOTAL], 99)) for _, parts in demos),
            f"{where}; the demos' own p99, rows beside the network cut included: {own_p99}; {story}",
            "<= 1 s",
            2,
        ),
        Measured(
            "latency/decide-in-demo",
            "window to decision p99 in the running fleet, ms",
            tuple(report["decide_p99"] * 1e3 for report, _ in demos),
            f"the worse of two edge processes; broker, worker and console on the same cores; {story}",
            "<= 2 ms",
            2,
        ),
    ]


def _demo(on: Stage, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a demo in its own stack and observe it from outside; returns its latencies, and seconds by part."""
    state, report = on.folder / f"demo-{number}", on.folder / f"demo-{number}.json"
    story = {"devices": DEVICES, "seconds": on.effort.demo_s, "seed": SEED}
    options = [word for name, value in story.items() for word in (f"--{name}", str(value))]
    log_path = on.folder / f"demo-{number}.log"
    with log_path.open("wb") as log, report.open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra", "demo", "--no-loop", "--json", *options],
            env={**os.environ, "EDGELOOP_STATE_DIR": str(state)},
            stdout=told,
            stderr=log,
        )
        try:
            frontier = _follow(process, state)
        finally:
            process.terminate()
            process.wait(60)
    if process.returncode:
        raise RuntimeError(f"the demo ended with {process.returncode}: {_tail(log_path)}")
    return json.loads(report.read_text())["latency_s"], _shares(state / "lake", frontier)


def _follow(process: subprocess.Popen[bytes], state: Path) -> QueryableFrontier:
    """Note what each cut makes queryable, until the demo ends."""
    until(lambda: is_held(state) or process.poll() is not None, "the stack to start")
    stack = await_ready(state)
    admin = KafkaAdmin(stack.bootstrap_servers or "")
    watcher = LineWatcher(Lake.open(state / "lake"), admin, stack.namespace, [], stack.started_at)

    def ended() -> bool:
        if process.poll() is not None:
            return True
        if is_held(state):
            watcher.follow_cuts()
        return False

    until(ended, "the demo to end", 600)
    watcher.follow_cuts()
    return watcher.frontier


def _shares(lake_root: Path, frontier: QueryableFrontier) -> dict[str, Any]:
    """Seconds of each row, by part."""
    with closing(connect(lake_root)) as con:
        rows = con.execute(_ROWS, [f"machine-{DEVICES // 2:02d}"]).fetchnumpy()
    sensed, known = (np.asarray(rows[n], dtype="float64") for n in ("sensed", "known"))
    places = zip(rows["_partition"].tolist(), rows["_offset"].tolist(), strict=True)
    when = np.array([frontier.when(p, o) or np.nan for p, o in places])
    if np.isnan(when).any():
        raise RuntimeError(f"{np.isnan(when).sum()} rows have no known instant from which they are queryable")
    reasons = np.asarray(rows["reasons"])
    ruled, context = (reasons & RULES) != 0, (reasons & CONTEXT) != 0
    sampled = ~ruled & ~context
    on_the_way = (known - sensed)[ruled], (known - sensed)[sampled], (when - known)[~context]
    whole = when - sensed
    return {
        **dict(zip(SHARES, on_the_way, strict=True)),
        TOTAL: whole[~context],
        AROUND: whole[context],
    }


def _tail(path: Path) -> str:
    return " | ".join(path.read_text(errors="replace").splitlines()[-3:])
