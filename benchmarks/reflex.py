"""Measures a robot's reflex: from a sample's arrival to the actuator's receipt, in the real edge process.

A stack of its own with broker and model service, no worker; one robot of profile `robot` that has joined it,
so that updater, sealing, signing and sending run as in the field. Samples come from a process of its own by
a datagram socket, 500 a second; the actuator is another. A bare socket's round trip is measured at the same
time, so that a machine with other work to do can be told from a slow device. Latencies are given of all
orders, from the first window on, and of those after the device has joined and looked at the service once.

``python -m benchmarks.reflex 60`` measures for so many seconds; ``--hop 1`` with another hop, ``--update-poll
5`` with an updater that looks every five seconds for a new model instead of once a minute, as devices do;
``--realtime 2`` with robot and actuator in the system's real-time class, at that priority.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.actuator import SERVER, bare_trips
from benchmarks.results import table
from benchmarks.stage import until
from edge_producer.settings import EdgeSettings
from feature_store.lake import Lake
from infra.settings import StackSettings
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from infra.stack.model_processes import GROUP
from infra.stack.model_settings import model_settings
from infra.stack.running import running_stack
from schemas.profile import Profile
from schemas.profile_file import find_profile

DEVICE = "robot-1"
FLIP_SAMPLES = 47
"""Half the samples of a period. No whole part of a second: flips come at all phases of what the process does
once a second."""
STRUCK_A = 12.0
BOUND_MS = 2.0
"""What 99 % of orders are to stay below."""
FEEDER = """
import socket, struct, sys, time
path, rate, seconds, period, struck = sys.argv[1], *map(float, sys.argv[2:])
link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
usual = [3.2, 0.8, 0.0, 0.9, -0.9, 0.0, 0.0, 0.0, 0.0, 9.81]
begun, k = time.monotonic(), 0
while k < rate * seconds:
    time.sleep(max(begun + k / rate - time.monotonic(), 0.0))
    sample = list(usual)
    sample[0] += struck * (k // period % 2) + 0.02 * (k % 7 - 3)
    try:
        link.sendto(struct.pack("<q10d", time.monotonic_ns(), *sample), path)
    except OSError:
        pass
    k += 1
time.sleep(0.5)
link.sendto(b"end", path)
"""
SOURCE = '''
import json, os, socket, struct, time
from collections import Counter
from edge_producer.acting.receipt_times import ReceiptTimes
from edge_producer.sources.samples import Sample


def noted_receipts():
    """Have arrival, decision and receipt of each order noted, beside what the process makes of them."""
    noted, received = [], ReceiptTimes.received

    def note(times, sent, at_ns):
        order = sent.order
        if order.cause == "decision" and order.arrived_ns:
            noted.append((order.arrived_ns, order.decided_ns, at_ns))
        received(times, sent, at_ns)

    ReceiptTimes.received = note
    return noted


class Datagrams:
    """Samples from a datagram socket; its stamps are written behind the last one.

    Not before: what this process does meanwhile would be measured.
    """

    def __init__(self, request):
        self._orders = noted_receipts()
        self.counts, self._path, self._names = Counter(), request.address, request.profile.channel_names
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)
        self._late = []

    def samples(self):
        while True:
            data = self._socket.recv(256)
            if data == b"end":
                with open(self._path + ".stamps", "w") as file:
                    file.write(json.dumps({"late": self._late, "orders": self._orders}))
                continue
            sent_ns, *values = struct.unpack("<q10d", data)
            self._late.append(time.monotonic_ns() - sent_ns)
            yield Sample(dict(zip(self._names, values)))

    def close(self):
        self._socket.close()
'''


def reflex_profile(hop: int) -> dict[str, Any]:
    """Profile `robot`, whose stop ends as soon as nothing is struck: each flip is two actions."""
    given = find_profile("robot").model_dump(mode="json", exclude_defaults=True)
    given["name"] = "robot_reflex"
    given["sampling"]["hop_samples"] = hop
    given["decision"]["rules"] = [
        {**rule, "hold_s": 0.0, "leave": rule["enter"]}
        for rule in given["decision"]["rules"]
        if rule["action"] == "stop"
    ]
    return given


def measure(seconds: float, hop: int, update_poll_s: float, realtime: int | None) -> dict[str, Any]:
    """Quantiles in ms, counts, and CPU by window."""
    with tempfile.TemporaryDirectory(prefix="edgeloop-reflex-") as name, ExitStack() as cleanup:
        folder = Path(name)
        stack = cleanup.enter_context(running_stack(StackSettings(state_dir=folder / "stack", workers=0)))
        more = {} if realtime is None else {"realtime_priority": str(realtime)}
        edge = _robot(folder, stack, hop, {"update_poll_s": str(update_poll_s), **more})
        bare, order = folder / "bare", folder / "orders"
        cleanup.enter_context(_server(bare, None))
        cleanup.enter_context(_server(order, realtime))
        edge.start()
        cleanup.callback(edge.stop)
        until((folder / "samples").exists, "the source to open", 120)
        begun, cpu = time.monotonic(), _cpu_s(edge)
        feeder = _feeder(folder / "samples", seconds)
        cleanup.callback(feeder.wait)
        round_trips = [trip for _, trip in bare_trips(bare, round(seconds * 20), 0.05)]
        feeder.wait()
        used, took = _cpu_s(edge) - cpu, time.monotonic() - begun
        time.sleep(2.0)
        stamps = json.loads((folder / "samples.stamps").read_text())
        return {
            **_found(edge.status(), round_trips, stamps["late"]),
            "all": _orders(stamps["orders"]),
            "looked": _orders([order for order in stamps["orders"] if order[0] > _looked_ns(edge)]),
            "cpu_share": used / took,
            "hop": hop,
            "update_poll_s": update_poll_s,
            "realtime": edge.status().get("realtime"),
        }


def _found(status: dict[str, Any], round_trips: list[int], late: list[int]) -> dict[str, Any]:
    actuator = status["actuator"]
    return {
        "bare": quantiles(round_trips),
        "arrival": quantiles(late),
        "counts": {
            n: actuator.get(n, 0) for n in ("received", "refused", "timed_out", "failed", "superseded")
        },
        "windows": status["counters"].get("windows", 0) if "counters" in status else 0,
        "sent": status["counters"].get("bytes_sent", 0) if "counters" in status else 0,
    }


def _orders(found: list[list[int]]) -> dict[str, Any]:
    """Quantiles from arrival to decision and to receipt, and the number of orders over the bound."""
    receipt = [at - arrived for arrived, _, at in found]
    return {
        "n": len(found),
        "decided": quantiles([decided - arrived for arrived, decided, _ in found]),
        "receipt": quantiles(receipt),
        "over": sum(ns > BOUND_MS * 1e6 for ns in receipt),
    }


def _looked_ns(edge: EdgeProcess) -> int:
    """Monotonic clock when the device had verified what its first look brought: then it was kept."""
    kept = (edge.folder / "updates" / DEVICE / "metadata").rglob("*.json")
    newest_ns = max(file.stat().st_mtime_ns for file in kept)
    return newest_ns - time.time_ns() + time.monotonic_ns()


def quantiles(ns: list[int]) -> dict[str, float]:
    """Median, 99th percentile and largest, ms."""
    ordered = sorted(ns)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {n: round(ordered[min(int(q * len(ordered)), len(ordered) - 1)] / 1e6, 4) for n, q in at.items()}


def _robot(folder: Path, stack: Any, hop: int, options: dict[str, str]) -> EdgeProcess:
    """The robot's edge process: joined, with the source and the actuator of this benchmark."""
    _install(folder / "site")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    profile = Profile.model_validate(reflex_profile(hop))
    toml = folder / "robot_reflex.toml"
    toml.write_text(_toml(reflex_profile(hop)))
    actions = folder / "actions.toml"
    actions.write_text(f"[actuator]\nsocket = '{folder / 'orders'}'\n")
    spec = EdgeSpec(
        "reflex",
        str(toml),
        (DEVICE,),
        stack.bootstrap_servers,
        stack.namespace,
        group=GROUP,
        options={
            "source": f"datagrams://{folder / 'samples'}",
            "actions_file": str(actions),
            **options,
        },
    )
    edge = EdgeProcess(spec, folder / "edge", folder)
    edge.register_profile(Lake.open(stack.lake_root), profile)
    edge.join(model_settings(stack.settings, stack.bootstrap_servers))
    return edge


def _toml(given: dict[str, Any], prefix: str = "") -> str:
    """A profile as TOML; its values are numbers, texts, lists and tables of those."""
    plain = {k: v for k, v in given.items() if not isinstance(v, dict) and not _is_tables(v)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in given.items():
        if isinstance(value, dict):
            lines += [f"[{prefix}{key}]", _toml(value, f"{prefix}{key}.")]
        elif _is_tables(value):
            lines += [
                text for item in value for text in (f"[[{prefix}{key}]]", _toml(item, f"{prefix}{key}."))
            ]
    return "\n".join(lines)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _install(site: Path) -> None:
    packed = site / "bench_datagrams-1.dist-info"
    packed.mkdir(parents=True)
    (site / "bench_datagrams.py").write_text(SOURCE)
    (packed / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-datagrams\nVersion: 1\n")
    (packed / "entry_points.txt").write_text("[edgeloop.sources]\ndatagrams = bench_datagrams:Datagrams\n")


@contextmanager
def _server(path: Path, realtime: int | None) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", SERVER, str(path)]) as server:
        try:
            until(path.exists, "the actuator")
            if realtime is not None:
                os.sched_setscheduler(server.pid, os.SCHED_FIFO, os.sched_param(realtime))
            yield
        finally:
            server.terminate()


def _feeder(path: Path, seconds: float) -> subprocess.Popen[bytes]:
    rate = find_profile("robot").sampling.rate_hz
    given = (str(path), str(rate), str(seconds), str(FLIP_SAMPLES), str(STRUCK_A))
    return subprocess.Popen([sys.executable, "-c", FEEDER, *given])


def _cpu_s(edge: EdgeProcess) -> float:
    """CPU seconds of the process and its children: what guards it starts it."""
    own = psutil.Process(edge.child.pid)
    return sum(sum(p.cpu_times()[:2]) for p in (own, *own.children(recursive=True)))


def main() -> None:
    """Measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reflex", description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--hop", type=int, default=find_profile("robot").sampling.hop_samples)
    parser.add_argument(
        "--update-poll", type=float, default=EdgeSettings.model_fields["update_poll_s"].default
    )
    parser.add_argument("--realtime", type=int)
    options = parser.parse_args()
    found = measure(options.seconds, options.hop, options.update_poll, options.realtime)
    lines = {
        "bare socket, round trip, meanwhile": found["bare"],
        "sample's sending to its arrival in the source": found["arrival"],
    }
    for key, which in (("all", "all orders"), ("looked", "after joining and the first look")):
        lines[f"{which}: arrival to decision"] = found[key]["decided"]
        lines[f"{which}: arrival to the actuator's receipt"] = found[key]["receipt"]
    shown = [[name, *(f"{ms[q]:.3f}" for q in ("p50", "p99", "max"))] for name, ms in lines.items()]
    print(table(("milliseconds", "p50", "p99", "max"), shown))
    for key in ("all", "looked"):
        print(f"{key}: {found[key]['over']} of {found[key]['n']} orders took more than {BOUND_MS:g} ms")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
