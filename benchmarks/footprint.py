"""Measures what one device's process takes (memory, CPU, time to its first decision) and a spool offline."""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks.results import Measured, table
from benchmarks.stage import Stage
from benchmarks.workload import machine
from edge_producer.bundle import BUNDLES, MODEL
from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_file import connect_file
from edge_producer.spool.spool_tallies import COUNTED
from schemas.cohorts import share_of
from schemas.profile_file import builtin_profiles

_T = TypeVar("_T")
WARM_S, WATCHED_S = 8.0, 20.0
PHASE = 0.01
ROWS = (10_000, 100_000, 1_000_000)
PER_LINE = 10
"""Spooled rows of one line of the books."""
# A device as it is, and one line when it has decided for the first time.
_DEVICE = """
import sys
from edge_producer.metering import Meters
counted = Meters.decided
def decided(self, nanoseconds):
    Meters.decided = counted
    print("decided", flush=True)
    counted(self, nanoseconds)
Meters.decided = decided
from edge_producer.__main__ import main
sys.exit(main(["run"]))
"""
# The limit: an interpreter with the model and nothing else, which scores a window a second.
_BARE = """
import sys, time
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
window = np.ones((1, 512, 3), dtype=np.float32)
while True:
    session.run(None, {"window": window})
    print("decided", flush=True)
    time.sleep(1.0)
"""


class Footprint(NamedTuple):
    """What a process takes, its children included.

    Attributes:
        pss_mb: Memory, where pages that n processes share count an nth for each.
        rss_mb: Memory, shared pages in full.
        private_mb: Memory that it shares with nobody.
        cpu_share: Of one core, while nothing but its work went on.
        decided_s: From its start to its first decision.
    """

    pss_mb: float
    rss_mb: float
    private_mb: float
    cpu_share: float
    decided_s: float


def run(on: Stage) -> list[Measured]:
    """Run all scenarios of this module; prints their tables."""
    return [*device(on), offline(on.folder / "offline", on.effort.scale)]


def device(on: Stage) -> list[Measured]:
    """One device that sends to a broker, of the machine profile and of the generic model, and the limit."""
    robust = on.folder / "generic.toml"
    shipped = builtin_profiles()["machine"].read_text(encoding="utf-8")
    robust.write_text(shipped.replace('[model]\nname = "machine"', '[model]\nname = "robust"'))
    watched_s = max(WATCHED_S * on.effort.scale, 5.0)
    kinds: dict[str, Callable[[int], Footprint]] = {
        "python, onnxruntime and the model": lambda _: _bare(watched_s),
        "device, trained model": lambda n: _device(on, f"machine-{n}", "machine", watched_s),
        "device, generic model": lambda n: _device(on, f"robust-{n}", str(robust), watched_s),
    }
    taken = {name: [of(number) for number in range(on.effort.runs)] for name, of in kinds.items()}
    middle = {n: Footprint(*map(statistics.median, zip(*t, strict=True))) for n, t in taken.items()}
    head = (
        "one process, children included",
        "PSS MB",
        "RSS MB",
        "private MB",
        "% of a core",
        "decided after s",
    )
    rows = [
        [n, *(f"{v:.1f}" for v in m[:3]), f"{m.cpu_share * 100:.2f}", f"{m.decided_s:.2f}"]
        for n, m in middle.items()
    ]
    print(table(head, rows), flush=True)
    limit, found = middle["python, onnxruntime and the model"], taken["device, trained model"]
    beside = f"python, onnxruntime and the model alone {limit.rss_mb:.0f} MB RSS, {limit.pss_mb:.0f} PSS"
    cpu = f"the limit {limit.cpu_share * 100:.2f} %; one window of 512 x 3 a second"
    start = f"the limit {limit.decided_s:.2f} s; the first window fills for 1 s"
    pss, share, decided = "PSS MB of a device", "% of a core at 1 window/s", "s to the first decision"
    return [
        Measured("edge/memory", pss, tuple(f.pss_mb for f in found), beside, "<= 80", 1),
        Measured("edge/idle-cpu", share, tuple(f.cpu_share * 100 for f in found), cpu, "<= 1", 2),
        Measured("edge/first-decision", decided, tuple(f.decided_s for f in found), start, "<= 1.5", 2),
    ]


def _device(on: Stage, name: str, profile: str, watched_s: float) -> Footprint:
    settings = {
        "EDGE_NAME": name,
        "EDGE_STATE_DIR": str(on.folder / name),
        "EDGE_PROFILE": profile,
        "EDGE_DEVICES": _first_to_fill(),
        "EDGE_BOOTSTRAP_SERVERS": on.servers,
        "EDGE_NAMESPACE": on.namespace(),
    }
    return _watched([sys.executable, "-c", _DEVICE], settings, watched_s)


def _first_to_fill() -> str:
    """A device whose first window begins at once: simulated ones are spread over the length of a window."""
    return next(name for name in (f"d-{n}" for n in count()) if share_of(name, "phase") < PHASE)


def _bare(watched_s: float) -> Footprint:
    model = str(BUNDLES / "machine" / MODEL)
    return _watched([sys.executable, "-c", _BARE, model], {}, watched_s)


def _watched(command: list[str], settings: dict[str, str], watched_s: float) -> Footprint:
    """Start a process, wait for its first decision, let it settle, and measure it for a while."""
    began = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "decided\n":
            raise RuntimeError(f"{command[:2]} ended before it had decided")
        decided_s = time.monotonic() - began
        time.sleep(WARM_S)
        since, cpu_s = time.monotonic(), _cpu_s(process.pid)
        time.sleep(watched_s)
        share = (_cpu_s(process.pid) - cpu_s) / (time.monotonic() - since)
        return Footprint(*_memory_mb(process.pid), share, decided_s)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


def _memory_mb(pid: int) -> tuple[float, float, float]:
    pss = rss = private = 0
    for each in (pid, *_children(pid)):
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()[1:]:
            name, kib, _ = line.split()
            pss += int(kib) * (name == "Pss:")
            rss += int(kib) * (name == "Rss:")
            private += int(kib) * (name in ("Private_Clean:", "Private_Dirty:"))
    return pss / 1024, rss / 1024, private / 1024


def _cpu_s(pid: int) -> float:
    ticks = 0
    for each in (pid, *_children(pid)):
        fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Offline -------------------------------------------------------------------------------------------------


def offline(folder: Path, scale: float) -> Measured:
    """CPU of what a device asks its spool each second, by rows that wait in it; beside a count over them."""
    rows, kept_ms = [], 0.0
    for waiting in [n for n in ROWS if n <= ROWS[-1] * scale]:
        path = folder / str(waiting) / "spool.db"
        path.parent.mkdir(parents=True)
        _fill(path, waiting)
        opened, spool = _timed(partial(Spool.open, path, ("d-1", "d-2"), machine(), 1e6))
        totals, _ = _timed(spool.totals)
        due, _ = _timed(partial(spool.books.due, 1, 1e6, 0.0, settled_only=False))
        asked = totals + due + _timed(spool.rows.oldest_s)[0] + _timed(spool.messages.blocked)[0]
        spool.close()
        connection = connect_file(path)
        counted, _ = _timed(partial(_counted, connection))
        connection.close()
        kept_ms = asked
        rows.append([f"{waiting:,}", *(f"{ms:.2f}" for ms in (totals, due, asked, counted, opened))])
    head = ("rows, ms of CPU", "totals()", "due(), 512 lines", "all asked", "a count over all", "open")
    print(table(head, rows), flush=True)
    beside = f"a count over all rows {rows[-1][4]} ms; {rows[-1][0]} rows, a line of the books for {PER_LINE}"
    return Measured(
        "edge/offline", "ms of CPU each second for a full spool's totals", (kept_ms,), beside, "", 2
    )


def _counted(connection: sqlite3.Connection) -> list[tuple[int, ...]]:
    return connection.execute(COUNTED).fetchall()


def _timed(work: Callable[[], _T]) -> tuple[float, _T]:
    """CPU in ms, and the result."""
    began = time.process_time()
    result = work()
    return (time.process_time() - began) * 1e3, result


def _fill(path: Path, rows: int) -> None:
    """A spool of two devices with so many unsealed rows, as weeks offline leave it."""
    Spool.open(path, ("d-1", "d-2"), machine(), 0.0).close()
    connection = connect_file(path)
    connection.execute("BEGIN")
    moments = bytes(616)
    connection.executemany(
        "INSERT INTO books (device, boot_id, period_us, model, stratum, sensed, pending, closed, changed_s,"
        " moments) VALUES (?, 1, ?, 'm', 'rule', ?, ?, 1, 0.0, ?)",
        ((1 + k % 2, k, PER_LINE, PER_LINE, moments) for k in range(rows // PER_LINE)),
    )
    connection.execute(
        "INSERT INTO rows (device, book, seq, event_us, mono_ns, time_quality, features, decision, reasons,"
        " sample_p, pi, u, sensed_s) SELECT b.device, b.id, b.period_us, 0, 0, 1, zeroblob(44), 'none', 1,"
        " 1.0, 1.0, 0.0, b.period_us FROM books b, json_each(?)",
        (json.dumps(list(range(PER_LINE))),),
    )
    connection.execute("COMMIT")
    connection.close()
