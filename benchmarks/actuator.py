"""Measures the time from a sample's arrival to the actuator's receipt, beside a bare socket.

The whole edge process at 100 windows a second: a live source, the generic model, a decision function that
answers another number each time, the hand-over. The actuator is a process of its own, and so is the device.
``python -m benchmarks.actuator 1000`` measures so many actions without the rest of the benchmarks.
"""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import Measured, table
from benchmarks.stage import Stage
from edge_producer.__main__ import SWITCH_INTERVAL_S
from edge_producer.acting.action_order import ActionOrder, order_line
from edge_producer.bundle import load_bundle
from edge_producer.clock import SteadyClock
from edge_producer.inference import OnnxPredictor
from edge_producer.runner import Runner
from edge_producer.settings import EdgeSettings
from edge_producer.sources.live_windows import LiveWindows
from edge_producer.sources.samples import Sample
from edge_producer.sources.source_feed import SourceFeed
from edge_producer.status_file import read_status
from schemas.profile import Profile

RATE_HZ = 100.0
ACTIONS = 2000
DEVICE = "robot-1"
WARM_UP = 100
SERVER = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
    link, _ = listener.accept()
    for line in link.makefile("rb"):
        received_ns = time.monotonic_ns()
        number = line.split(b",", 1)[0].split(b":")[1]
        link.sendall(b'{"id":%s,"ok":true,"received_ns":%d}\\n' % (number, received_ns))
"""
FUNCTION = """
from edge_producer import DecisionAnswer


def decide(request):
    n = (request.state or 0) + 1
    return DecisionAnswer("move", {"torque": n % 100 / 100}, n)
"""
PROFILE: dict[str, Any] = {
    "name": "robot",
    "sampling": {"rate_hz": RATE_HZ, "window_samples": 20, "hop_samples": 1},
    "channels": [{"name": n, "unit": "1", "min": -10, "max": 10} for n in ("angle", "speed", "current")],
    "features": {
        "set": "robot",
        "compute": [{"channel": n, "kinds": ["last", "mean", "std"]} for n in ("angle", "speed", "current")],
    },
    "decision": {
        "function": "bench",
        "function_timeout_s": 0.005,
        "actions": ["move"],
        "numbers": {"move": {"torque": {"min": 0.0, "max": 1.0, "unit": "N m"}}},
    },
    "drift": {"window_s": 300.0},
}


class Ticks:
    """Samples at the profile's rate, each measured when it comes.

    Args:
        n: How many.
    """

    def __init__(self, n: int) -> None:
        self.counts: Counter[str] = Counter()
        self._n = n
        self._random = np.random.default_rng(13)
        self._closed = threading.Event()

    def samples(self) -> Iterator[Sample]:
        """Wait for each instant, and give a sample."""
        begun = time.monotonic()
        for k in range(self._n):
            if self._closed.wait(max(begun + k / RATE_HZ - time.monotonic(), 0.0)):
                return
            values = dict(
                zip(("angle", "speed", "current"), self._random.normal(size=3).tolist(), strict=True)
            )
            yield Sample(values, device_id=DEVICE)

    def close(self) -> None:
        """End."""
        self._closed.set()


def run(on: Stage) -> list[Measured]:
    """Run the device in processes of its own; prints a table of all runs together."""
    n = max(round(ACTIONS * on.effort.scale), 200)
    found = [_in_a_process(n) for _ in range(on.effort.runs)]
    print(table(("milliseconds", "p50", "p99"), _rows(found[-1])), flush=True)
    rounds = ", ".join(f"{f['round_trip']['p99']:.3f}" for f in found)
    halves = ", ".join(f"{f['one_way']['p99']:.3f}" for f in found)
    decided = ", ".join(f"{f['decided_ms']['p99']:.2f}" for f in found)
    beside = (
        f"decided p99 {decided}; bare socket: receipt p99 {halves}, round trip p99 {rounds} ms; {n} actions"
    )
    values = tuple(f["receipt_ms"]["p99"] for f in found)
    return [Measured("actuator/receipt", "sample's arrival to receipt p99, ms", values, beside, "<= 2 ms", 3)]


def _rows(found: dict[str, Any]) -> list[list[str]]:
    names = {
        "one_way": "bare socket, sending to receipt",
        "round_trip": "bare socket, round trip",
        "decided_ms": "arrival to decision",
        "receipt_ms": "arrival to receipt",
    }
    return [[name, *(f"{found[key][q]:.3f}" for q in ("p50", "p99"))] for key, name in names.items()]


def _in_a_process(n: int) -> dict[str, Any]:
    argv = [sys.executable, "-m", "benchmarks.actuator", str(n), "--json"]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(n: int) -> dict[str, Any]:
    """Quantiles in ms, of the bare socket first, then of the device; and what the actuator counted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "a.sock"
        with subprocess.Popen([sys.executable, "-c", SERVER, str(path)]) as server:
            try:
                while not path.exists():
                    time.sleep(0.01)
                return {**_bare(path, n), **_device(folder, path, n)}
            finally:
                server.terminate()


def _bare(path: Path, n: int) -> dict[str, Any]:
    """The same line to the same server at the same pace, from one thread that waits for each answer."""
    pairs = bare_trips(path, n, 1 / RATE_HZ)
    return {"one_way": _quantiles([p[0] for p in pairs]), "round_trip": _quantiles([p[1] for p in pairs])}


def bare_trips(path: Path, n: int, pause_s: float) -> list[tuple[int, int]]:
    """Nanoseconds to the receipt and of the round trip, of ``n`` orders to a ``SERVER``."""
    found = []
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(path))
        for number in range(n):
            time.sleep(pause_s)
            line = order_line(ActionOrder(DEVICE, "move", 0.1, numbers={"torque": 0.5}), number, None)
            sent_ns = time.monotonic_ns()
            link.sendall(line)
            answer = json.loads(link.recv(4096))
            found.append((answer["received_ns"] - sent_ns, time.monotonic_ns() - sent_ns))
    return found


def _device(folder: Path, path: Path, n: int) -> dict[str, Any]:
    _install(folder / "site")
    actions = folder / "actions.toml"
    actions.write_text(f"[actuator]\nsocket = '{path}'\n")
    profile, clock = Profile.model_validate(PROFILE), SteadyClock()
    settings = EdgeSettings(
        state_dir=folder / "edge",
        profile="robot",
        devices=(DEVICE,),
        bootstrap_servers="127.0.0.1:1",
        source="ticks",
        actions_file=actions,
        drain_timeout_s=0.1,
        stop_timeout_s=0.1,
    )
    feed = SourceFeed(lambda: Ticks(n + WARM_UP), "ticks", clock)
    source = LiveWindows(feed, profile, (DEVICE,), clock)
    runner = Runner(settings, profile, source, OnnxPredictor(load_bundle(profile), profile), clock)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    runner.run(threading.Event())
    status = read_status(settings.status_path) or {}
    parts = {name: {q: status[name][q] for q in ("p50", "p99")} for name in ("pickup_ms", "decide_ms")}
    return {**status["actuator"], **parts, "functions": status["decision_functions"]}


def _install(site: Path) -> None:
    """Install the decision function, as pip would."""
    packed = site / "bench_decision-1.dist-info"
    packed.mkdir(parents=True)
    (site / "bench_decision.py").write_text(FUNCTION)
    (packed / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-decision\nVersion: 1\n")
    (packed / "entry_points.txt").write_text("[edgeloop.decisions]\nbench = bench_decision:decide\n")
    sys.path.insert(0, str(site))


def _quantiles(ns: list[int]) -> dict[str, float]:
    p50, p99 = np.percentile(ns, (50, 99)) / 1e6
    return {"p50": float(p50), "p99": float(p99)}


if __name__ == "__main__":
    result = measure(int(sys.argv[1]))
    if "--json" in sys.argv:
        print(json.dumps(result))
    else:
        print(table(("milliseconds", "p50", "p99"), _rows(result)))
        print(json.dumps(result))
