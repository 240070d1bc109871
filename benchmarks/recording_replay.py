"""Measures `edgeloop replay` of a file of a million rows, beside what reading it and the graph alone take.

Rows per second of wall time, from the command's start to its end: every row was read, decided on, sent,
landed, and can be queried. The broker runs already; the stream worker is started by the command.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from benchmarks.results import Measured
from benchmarks.stage import Stage
from benchmarks.workload import SEED
from edge_producer.bundle import load_bundle
from edge_producer.inference import OnnxSession, feature_columns
from schemas.profile_file import load_profile
from schemas.summary_period import PERIODS_S, period_for

ROWS, COLUMNS, WINDOW = 1_000_000, 10, 8
FLOOR = "30,000"
_POLL_S = 0.2


@dataclass(frozen=True)
class _Replayed:
    wall_s: float
    queryable_s: float
    rows: int
    edge_mb: float
    cpu_s: float


def run(on: Stage) -> list[Measured]:
    """Replay the file so many times, each in a state folder of its own."""
    rows = round(ROWS * on.effort.scale)
    with tempfile.TemporaryDirectory(dir=on.folder) as name:
        folder = Path(name)
        path, profile = folder / "machine.csv", folder / "machine.toml"
        _write(path, rows)
        _draft(path, profile)
        read_s, graph_s = _reading(path), _graph(path, profile)
        runs = [_replay(on, path, profile, folder / f"state-{i}") for i in range(on.effort.runs)]
    for done in runs:
        if done.rows != rows:
            raise RuntimeError(f"{done.rows} of {rows} rows were replayed")
    middle = sorted(runs, key=lambda r: r.wall_s)[len(runs) // 2]
    beside = (
        f"pyarrow reads the file at {rows / read_s:,.0f}, the graph over all windows in one call takes "
        f"{rows / graph_s:,.0f}; all processes {rows / middle.cpu_s:,.0f} rows per CPU-second, edge process "
        f"at most {middle.edge_mb:.0f} MiB; {middle.queryable_s:.1f} of {middle.wall_s:.1f} s after the file "
        f"was read; {rows:,} rows x {COLUMNS} columns, windows of {WINDOW}"
    )
    values = tuple(r.rows / r.wall_s for r in runs)
    return [Measured("replay/million", "rows per second, end to end", values, beside, FLOOR)]


def _write(path: Path, rows: int) -> None:
    """A machine's recording at one row a second: slow swings and noise in each column."""
    rng, n = np.random.default_rng(SEED), np.arange(rows)
    start = np.datetime64("2024-03-01T00:00:00", "s")
    columns = {"time": pa.array(start + n * np.timedelta64(1, "s"))}
    for i in range(COLUMNS):
        swing = 2 * np.sin(n / (200 + 50 * i))
        columns[f"c{i}"] = pa.array(np.round(20 + 5 * i + swing + rng.normal(0, 0.3, rows), 3))
    pyarrow.csv.write_csv(pa.table(columns), path)


def _draft(path: Path, profile: Path) -> None:
    """The drafted profile, with windows of eight samples that do not overlap, and periods that fit them."""
    _edgeloop("profile", "init", str(path), "-o", str(profile))
    period_s = period_for(WINDOW)
    drift_s = next(p for p in PERIODS_S if p >= 4 * period_s)
    text = re.sub(r"(?m)^(window|hop)_samples = \d+", rf"\1_samples = {WINDOW}", profile.read_text())
    text = re.sub(r"(?m)^(period_s|lateness_s) = \d+", rf"\1 = {period_s}", text)
    profile.write_text(re.sub(r"(?m)^window_s = \d+", f"window_s = {drift_s}", text))


def _reading(path: Path) -> float:
    began = time.perf_counter()
    pyarrow.csv.read_csv(path, read_options=pyarrow.csv.ReadOptions(use_threads=False))
    return time.perf_counter() - began


def _graph(path: Path, profile: Path) -> float:
    """Seconds of one call of the graph over all windows: no device can do it, for each window may act."""
    made = load_profile(profile)
    table = pyarrow.csv.read_csv(path).drop_columns(["time"])
    samples = np.column_stack([c.to_numpy() for c in table.columns]).astype(np.float32)
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW, COLUMNS)
    width = len(made.feature_names)
    extra: dict[str, NDArray[np.generic]] = {
        "columns": feature_columns(made),
        "center": np.zeros(width, dtype=np.float32),
        "spread": np.ones(width, dtype=np.float32),
    }
    session = OnnxSession(load_bundle(made))
    began = time.perf_counter()
    session.run(windows, extra)
    return time.perf_counter() - began


def _replay(on: Stage, path: Path, profile: Path, state: Path) -> _Replayed:
    began, before = time.perf_counter(), os.times()
    options = ("--state-dir", str(state), "--broker", on.servers, "--namespace", on.namespace())
    command = [
        sys.executable,
        "-m",
        "infra",
        *options,
        "replay",
        str(path),
        "--profile",
        str(profile),
        "--json",
    ]
    largest = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            largest = max(largest, _edge_mb(tree))
            time.sleep(_POLL_S)
        out, _ = process.communicate()
    wall_s, after = time.perf_counter() - began, os.times()
    if process.returncode:
        raise RuntimeError(f"the replay ended with {process.returncode}: {out[-500:]}")
    said = json.loads(out)
    cpu_s = sum(after[2:4]) - sum(before[2:4])
    return _Replayed(wall_s, said["seconds"], said["source"]["rows"], largest, cpu_s)


def _edge_mb(tree: psutil.Process) -> float:
    """Resident memory of the edge process, MiB; 0 while there is none."""
    try:
        found = [p for p in tree.children(recursive=True) if "edge_producer" in p.cmdline()]
        return max((p.memory_info().rss / 1024**2 for p in found), default=0.0)
    except psutil.Error:
        return 0.0


def _edgeloop(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "infra", *arguments], check=True, capture_output=True)
