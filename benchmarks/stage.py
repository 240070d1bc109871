"""Shared by the scenarios of one run: a scratch broker, and one capture of a fleet's own traffic."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from benchmarks.workload import SEED, Workload, machine
from edge_producer.sources.scenario import Injection, Scenario
from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRegistry
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_broker import KafkaBroker
from infra.settings import default_cache_dir
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from schemas.envelope import SealedMessage
from schemas.topics import DEVICE_TOPICS

HEAD_START_S = 4.0


@dataclass(frozen=True)
class Effort:
    """How much a run measures.

    Attributes:
        runs: Of each timed scenario; the median counts.
        scale: Share of the full number of messages and windows.
        fleet_devices, fleet_s: Number of devices and seconds of the captured traffic.
        gateway_s: Seconds of the traffic captured of as many devices behind one gateway: fewer messages.
        demo_s: Length of the demo that latency is measured in.
    """

    runs: int = 3
    scale: float = 1.0
    fleet_devices: int = 200
    fleet_s: float = 40.0
    gateway_s: float = 160.0
    demo_s: float = 60.0


QUICK = Effort(runs=1, scale=0.2, fleet_devices=60, fleet_s=15.0, gateway_s=30.0, demo_s=30.0)


class Stage:
    """One run of the benchmarks.

    Attributes:
        servers: The scratch broker.
        folder: Removed at the end.
    """

    def __init__(self, effort: Effort, servers: str, folder: Path) -> None:
        self.effort, self.servers, self.folder = effort, servers, folder

    def namespace(self) -> str:
        """A new namespace with its topics; returns its name."""
        name = f"b{uuid.uuid4().hex[:8]}"
        KafkaAdmin(self.servers).create_topics(name)
        return name

    @cached_property
    def fleet(self) -> Workload:
        """What a fleet like the demo's sends at its own pace: all topics, in log order; captured once."""
        return _capture(self, "fleet", self.effort.fleet_s)

    @cached_property
    def gateway_fleet(self) -> Workload:
        """The same where one gateway sends for all of them, as the demo's sites do."""
        return _capture(self, "fleet-gateway", self.effort.gateway_s, "gateway-1")


@contextmanager
def stage(effort: Effort) -> Iterator[Stage]:
    """A stage with its own broker."""
    with tempfile.TemporaryDirectory(prefix="edgeloop-bench-") as name:
        folder = Path(name)
        with KafkaBroker(folder / "kafka", default_cache_dir(os.environ)) as broker:
            yield Stage(effort, broker.bootstrap_servers, folder)


def _capture(on: Stage, name: str, seconds: float, gateway: str = "") -> Workload:
    namespace, devices = on.namespace(), tuple(f"machine-{i:03d}" for i in range(on.effort.fleet_devices))
    lake = Lake.open(on.folder / f"{name}-capture-lake")
    lake.ensure_fixed_tables()
    spec = replace(_fleet(on, namespace, devices, seconds), name=name, gateway=gateway)
    edge = EdgeProcess(spec, on.folder / f"{name}-edge", on.folder)
    edge.register(lake, machine())
    edge.start()
    try:
        until(lambda: edge.child.exit_code is not None, "the fleet to end", seconds + 120)
    finally:
        edge.stop()
    if edge.child.exit_code != 0:
        raise RuntimeError(f"the fleet ended with {edge.child.exit_code}: {edge.child.log_tail(3)}")
    admin = KafkaAdmin(on.servers)
    spans = admin.spans([t.named(namespace) for t in DEVICE_TOPICS])
    found = sorted(admin.read(spans), key=lambda m: m.at)
    base = {t.named(namespace): t.base for t in DEVICE_TOPICS}
    messages = [SealedMessage(base[m.topic], m.key or b"", m.headers, m.value or b"") for m in found]
    rows = sum(int(dict(m.headers)["n_rows"]) for m in messages)
    return Workload(name, messages, rows, list(DeviceRegistry(lake).keys().values()))


def _fleet(on: Stage, namespace: str, devices: tuple[str, ...], seconds: float) -> EdgeSpec:
    """The demo's changes without the network cut: one device in twenty wears out, most are recalibrated."""
    injections = (
        Injection(kind="bearing_wear", start_s=0.2 * seconds, ramp_s=5.0, devices=devices[::20]),
        Injection(kind="recalibration", start_s=0.5 * seconds, channel="temperature", offset=6.0, share=0.8),
    )
    start = datetime.now(UTC) + timedelta(seconds=HEAD_START_S)
    scenario = on.folder / "fleet.json"
    scenario.write_text(
        Scenario(seed=SEED, start=start, devices=devices, injections=injections).model_dump_json()
    )
    options = {"scenario": str(scenario), "duration_s": str(seconds + HEAD_START_S)}
    return EdgeSpec("fleet", "machine", devices, on.servers, namespace, options=options)


def until(predicate: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait until the predicate is true.

    Raises:
        TimeoutError: It was not true in time.
    """
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}")
        time.sleep(0.2)
