"""Measures the device: window to decision beside the model call, flat-out rate, spool commit, bytes sent."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.message_size import as_json
from benchmarks.results import Measured, table
from benchmarks.stage import Stage
from benchmarks.workload import SEED, Workload, machine
from edge_producer.bundle import load_bundle
from edge_producer.device import Device, Host
from edge_producer.device_identity import load_or_create
from edge_producer.inference import OnnxPredictor, OnnxSession
from edge_producer.metering import Meters
from edge_producer.runner import Runner
from edge_producer.settings import EdgeSettings
from edge_producer.sources.scenario import Scenario
from edge_producer.sources.simulate_source import SimulateSource
from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_reading import read_counters
from edge_producer.window import SourcePause, Window
from schemas.envelope import decode_rows
from schemas.topics import TELEMETRY

DEVICES = tuple(f"machine-{i:02d}" for i in range(20))
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WINDOWS = 20_000
FLAT_OUT_S = 400
ROUNDS = 300
MODEL, DECISION, WHOLE = "bare model call", "window to decision", "... and row filtered, counted"
SWITCH_INTERVAL_S = 0.0005
"""The value that the edge process sets."""


def run(on: Stage) -> list[Measured]:
    """Run all scenarios of this module; prints their tables."""
    scale = on.effort.scale
    return [
        decide(on.folder / "decide", round(WINDOWS * scale), on.effort.runs),
        flat_out(on, round(FLAT_OUT_S * scale), on.effort.runs),
        spool_commit(on.folder / "commit", round(ROUNDS * scale)),
        bytes_sent(on.fleet),
    ]


class _ExactMeters(Meters):
    """Keeps every latency instead of a sketch of them."""

    def __init__(self) -> None:
        super().__init__(machine())
        self.decided_ns: list[int] = []

    def decided(self, nanoseconds: int) -> None:
        self.decided_ns.append(nanoseconds)


def decide(folder: Path, windows: int, runs: int) -> Measured:
    """Latency of one window at a time, beside the bare model call on the same window, in turn."""
    timed = [_decide_once(folder / str(number), windows) for number in range(runs)]
    pooled = {name: np.concatenate([ns[name] for ns in timed]) for name in timed[0]}
    rows = [
        [name, *(f"{v:.3f}" for v in np.percentile(ns, (50, 90, 99, 99.9, 100)) / 1e6)]
        for name, ns in pooled.items()
    ]
    head = (f"ms, {runs} x {windows:,} windows", "p50", "p90", "p99", "p99.9", "max")
    print(table(head, rows), flush=True)
    floor50, floor99 = np.percentile(pooled[MODEL], (50, 99)) / 1e6
    p50 = np.percentile(pooled[DECISION], 50) / 1e6
    beside = (
        f"p50 {p50:.3f} ms; bare model call p50 {floor50:.3f}, p99 {floor99:.3f} ms "
        f"(p50 {p50 / floor50:.2f} of it); {windows:,} windows of 512 x 3"
    )
    p99 = tuple(float(np.percentile(ns[DECISION], 99)) / 1e6 for ns in timed)
    return Measured("edge/decide", "window to decision p99, ms", p99, beside, "<= 0.5 ms", 3)


def _decide_once(folder: Path, windows: int) -> dict[str, list[int]]:
    """Nanoseconds of each window, by what was timed."""
    profile = machine()
    bundle = load_bundle(profile)
    bare, meters = OnnxSession(bundle), _ExactMeters()
    fleet = _fleet(folder, OnnxPredictor(bundle, profile), meters)
    model_ns, whole_ns = [], []
    with _as_in_the_product():
        for number, window in enumerate(islice(_windows(), windows)):
            device = fleet[window.device_id]
            for what in (MODEL, WHOLE) if number % 2 else (WHOLE, MODEL):
                began = time.perf_counter_ns()
                if what == MODEL:
                    bare.run(window.samples[np.newaxis], {})
                    model_ns.append(time.perf_counter_ns() - began)
                else:
                    device.process(window)
                    whole_ns.append(time.perf_counter_ns() - began)
            device.take_update()
    return {MODEL: model_ns, DECISION: meters.decided_ns, WHOLE: whole_ns}


def flat_out(on: Stage, seconds: int, runs: int) -> Measured:
    """Windows per second of one process with spool and broker, the simulated sensors' own time taken out."""
    rates, cpu_us, sensors = [], [], []
    for number in range(runs):
        timed = _TimedSource(_source(seconds))
        state = on.folder / f"flat-out-{number}"
        settings = EdgeSettings(
            name="bench",
            state_dir=state,
            profile="machine",
            devices=DEVICES,
            bootstrap_servers=on.servers,
            namespace=on.namespace(),
            pace="flat_out",
            seed=SEED,
        )
        profile = machine()
        runner = Runner(settings, profile, timed, OnnxPredictor(load_bundle(profile), profile))
        with _as_in_the_product():
            cpu = time.process_time()
            runner.run(threading.Event())
            cpu = time.process_time() - cpu
        n = read_counters(state / "spool.db")["windows"]
        rates.append(n / (timed.total_s - timed.sensors_s))
        sensors.append(timed.sensors_cpu_s / n * 1e6)
        cpu_us.append(cpu / n * 1e6)
    beside = (
        f"{np.median(cpu_us):,.0f} us CPU a window, all threads; of these {np.median(sensors):,.0f} us "
        f"simulated sensors; {len(DEVICES)} devices"
    )
    print(f"flat out: {np.median(rates):,.0f} windows/s beside the sensors; {beside}", flush=True)
    return Measured("edge/flat-out", "windows/s of one process, sensors aside", tuple(rates), beside)


def spool_commit(folder: Path, rounds: int) -> Measured:
    """One transaction with one window of each of 20 devices, synced; beside a bare 4 KiB write and fsync."""
    profile = machine()
    fleet = _fleet(folder, OnnxPredictor(load_bundle(profile), profile), Meters(profile))
    spool = Spool.open(folder / "spool.db", DEVICES, profile, 0.0)
    source, commit_ns, sync_ns, cpu_s = _windows(), [], [], 0.0
    with (folder / "floor").open("wb", buffering=0) as floor:
        for number in range(rounds):
            for window in islice(source, len(DEVICES)):
                fleet[window.device_id].process(window)
            updates = [device.take_update() for device in fleet.values()]
            began, cpu = time.perf_counter_ns(), time.process_time()
            with spool.transaction():
                for update in updates:
                    spool.apply(update, float(number))
            commit_ns.append(time.perf_counter_ns() - began)
            cpu_s += time.process_time() - cpu
            began = time.perf_counter_ns()
            floor.write(bytes(4096))
            os.fsync(floor.fileno())
            sync_ns.append(time.perf_counter_ns() - began)
    spool.close()
    (p50, p99), (sync50, sync99) = (np.percentile(ns, (50, 99)) / 1e6 for ns in (commit_ns, sync_ns))
    beside = (
        f"p99 {p99:.1f} ms; CPU {cpu_s / rounds * 1e3:.2f} ms; bare 4 KiB write and fsync p50 {sync50:.2f}, "
        f"p99 {sync99:.1f} ms; {rounds} commits"
    )
    print(f"spool commit of {len(DEVICES)} devices: p50 {p50:.2f} ms, {beside}", flush=True)
    return Measured("edge/spool-commit", "p50 of one synced transaction, ms", (float(p50),), beside, digits=2)


def bytes_sent(load: Workload) -> Measured:
    """Bytes of a fleet's telemetry at its own pace, key, headers and signature included, against JSON."""
    messages = [m for m in load.messages if m.topic == TELEMETRY.base]
    rows, text = 0, 0
    for m in messages:
        headers = dict(m.headers)
        schema = load.schemas[headers["schema"].decode()]
        batch = decode_rows(m.value, int(headers["raw_bytes"]), schema)
        rows += batch.num_rows
        text += len(as_json(batch))
    sent, everything = sum(m.size for m in messages), sum(m.size for m in load.messages)
    beside = (
        f"the same rows as JSON {text / rows:,.0f} B/row (sent is {sent / text:.2f} of it); "
        f"{rows / len(messages):.1f} rows a message; all topics {everything / rows:,.0f} B per telemetry row"
    )
    print(f"telemetry of the fleet: {sent / rows:,.0f} B/row; {beside}", flush=True)
    return Measured("edge/bytes", "bytes per telemetry row sent", (sent / rows,), beside)


class _TimedSource:
    """A source that measures its consumer's whole time, and how much of that the source took."""

    def __init__(self, source: SimulateSource) -> None:
        self._source = source
        self.sensors_s = 0.0
        self.sensors_cpu_s = 0.0
        self.total_s = 0.0

    @property
    def counts(self) -> Mapping[str, int]:
        return self._source.counts

    def windows(self) -> Iterator[Window | SourcePause]:
        windows, began = self._source.windows(), time.perf_counter()
        while True:
            asked, cpu = time.perf_counter(), time.thread_time()
            window = next(windows, None)
            self.sensors_s += time.perf_counter() - asked
            self.sensors_cpu_s += time.thread_time() - cpu
            if window is None:
                self.total_s = time.perf_counter() - began
                return
            yield window


def _source(seconds: float | None = None) -> SimulateSource:
    return SimulateSource(
        machine(), DEVICES, Scenario(seed=SEED, start=START, devices=DEVICES), START, seconds
    )


def _windows() -> Iterator[Window]:
    return _source().windows()


def _fleet(folder: Path, predictor: OnnxPredictor, meters: Meters) -> dict[str, Device]:
    host = Host(lambda *_: None, meters, time.monotonic)
    return {d: Device(load_or_create(folder / "keys", d), machine(), predictor, host) for d in DEVICES}


@contextmanager
def _as_in_the_product() -> Iterator[None]:
    """The interpreter settings of `python -m edge_producer run`."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(before)
