"""CPU time of a robot's reflex path in one thread: what other work on the machine does not change.

From a sample's arrival to the order for the actuator: alignment, framing, range watch, the graph, the rules.
``python -m benchmarks.reflex_path 20`` runs that many seconds of samples flat out, for hops of 1, 5 and 10.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reflex import DEVICE, STRUCK_A, quantiles, reflex_profile
from benchmarks.results import table
from edge_producer.acting.action_order import ActionOrder, order_line
from edge_producer.bundle import load_bundle
from edge_producer.clock import SteadyClock
from edge_producer.device import Device
from edge_producer.device_host import Host
from edge_producer.device_identity import load_or_create
from edge_producer.inference import OnnxPredictor
from edge_producer.metering import Meters
from edge_producer.sources.live_windows import LiveWindows
from edge_producer.sources.samples import Sample, SourceState
from edge_producer.sources.source_feed import Arrival
from edge_producer.window import Window
from schemas.profile import Profile

USUAL = (3.2, 0.8, 0.0, 0.9, -0.9, 0.0, 0.0, 0.0, 0.0, 9.81)
HOPS = (1, 5, 10)
FLIP_SAMPLES = 20
COLUMNS = ("window_ms", "windows_per_s", "robots_per_core")


class OneByOne:
    """A feed that has the next sample whenever it is asked, on a clock of its own.

    Args:
        profile: Names the channels.
        n: Samples.
    """

    def __init__(self, profile: Profile, n: int) -> None:
        self.counts: Counter[str] = Counter()
        self.state = SourceState("one by one")
        self.now_s, self.taken_ns = 0.0, 0
        self._names, self._step_s = profile.channel_names, 1 / profile.sampling.rate_hz
        self._left, self._n = n, 0

    @property
    def ended(self) -> bool:
        """Whether all samples were taken."""
        return self._n >= self._left

    def take(self, _most: int) -> list[Arrival]:
        """The next sample."""
        if self.ended:
            return []
        values = list(USUAL)
        values[0] += STRUCK_A * (self._n // FLIP_SAMPLES % 2) + 0.02 * (self._n % 7 - 3)
        sample = Sample(dict(zip(self._names, values, strict=True)))
        self._n += 1
        self.now_s += self._step_s
        self.taken_ns = time.thread_time_ns()
        return [Arrival(self.now_s, sample)]

    def start(self) -> None:
        """Nothing to do."""

    def stop(self) -> None:
        """Nothing to do."""

    def wait(self, _most_s: float) -> None:
        """Nothing to wait for."""


def measure(seconds: float, hop: int) -> dict[str, Any]:
    """CPU of the path to an order, ms; of a whole window, ms; and windows a second of one core."""
    profile = Profile.model_validate(reflex_profile(hop))
    feed = OneByOne(profile, round(seconds * profile.sampling.rate_hz))
    spent: list[int] = []

    def ordered(order: ActionOrder) -> None:
        order_line(order, len(spent), None)
        spent.append(time.thread_time_ns() - feed.taken_ns)

    source = LiveWindows(feed, profile, (DEVICE,), lambda: feed.now_s, lambda: feed.now_s)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as name:
        identity = load_or_create(Path(name), DEVICE)
        host = Host(ordered, Meters(profile), SteadyClock())
        device = Device(identity, profile, OnnxPredictor(load_bundle(profile), profile), host)
        gc.collect()
        gc.freeze()
        begun, windows = time.thread_time_ns(), 0
        for item in source.windows():
            if isinstance(item, Window):
                device.process(item)
                windows += 1
                if windows % 100 == 0:
                    device.take_update()
        whole = time.thread_time_ns() - begun
    per_window = whole / max(windows, 1)
    return {
        "hop": hop,
        "orders": len(spent),
        "order": quantiles(spent[2:]),
        "window_ms": round(per_window / 1e6, 3),
        "windows_per_s": round(1e9 / per_window),
        "robots_per_core": round(1e9 * seconds / whole, 1),
    }


def main() -> None:
    """Measure each hop, and print a table and JSON."""
    found = [measure(float(sys.argv[1]), hop) for hop in HOPS]
    rows = [
        [
            str(f["hop"]),
            *(f"{f['order'][q]:.3f}" for q in ("p50", "p99", "max")),
            *(str(f[n]) for n in COLUMNS),
        ]
        for f in found
    ]
    names = ("hop", "order p50, ms", "p99", "max", "window, ms", "windows/s of a core", "robots of a core")
    print(table(names, rows))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
