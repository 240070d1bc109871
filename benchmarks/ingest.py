"""Ingest worker with everything on, beside a bare loop that only decodes the same bytes.

    python -m benchmarks.ingest [--rows 1 10 100 500 2000] [--json FILE]

Rows per CPU-second of the whole worker process (fetch, verify, dedupe, validate, Parquet, Delta, cuts) from
the moment its tasks are settled until the checkpoint has passed the last message. The bare loop is a
confluent-kafka consumer that fetches, decompresses and decodes each message and does nothing else: the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import confluent_kafka as ck
import psutil

from benchmarks import workload
from feature_store.commit_log import CommitLog
from feature_store.lake import Lake
from infra.kafka_admin import KafkaAdmin
from infra.kafka_broker import KafkaBroker
from infra.settings import default_cache_dir
from schemas.envelope import decode_rows
from schemas.rows import telemetry_rows
from schemas.topics import DEVICE_PARTITIONS, TELEMETRY
from stream_processors.checkpoint import task_name

MESSAGES = {1: 20_000, 10: 16_000, 100: 8_000, 500: 3_000, 2000: 1_000}
LANDED = "ingest/telemetry.v1/landed_rows"
RUNS = 3
SETTLE_S = 60


@dataclass(frozen=True)
class Result:
    """One scenario: medians over the runs."""

    rows_per_message: int
    rows: int
    wire_bytes_per_row: float
    worker_rows_per_cpu_s: float
    bare_rows_per_cpu_s: float
    ratio: float
    spread: tuple[float, float]


def worker_cpu_s(servers: str, namespace: str, lake_root: Path, load: workload.Workload) -> float:
    """CPU seconds of a worker from settled to the last message committed."""
    env = {
        **os.environ,
        "STREAM_BOOTSTRAP_SERVERS": servers,
        "STREAM_NAMESPACE": namespace,
        "STREAM_LAKE_ROOT": str(lake_root),
    }
    log_path = lake_root.parent / "worker.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "stream_processors", "worker"], env=env, stdout=log, stderr=log
        )
    try:
        _until(lambda: b"settled: tasks [0, 1" in log_path.read_bytes(), "the worker to settle")
        meter = psutil.Process(process.pid)
        before = sum(meter.cpu_times()[:2])
        workload.produce(servers, namespace, load)
        _until(lambda: _committed(lake_root) >= load.rows, f"{load.rows} rows", 600)
        return sum(meter.cpu_times()[:2]) - before
    finally:
        process.terminate()
        process.wait(30)


def _committed(lake_root: Path) -> int:
    log, total = CommitLog(lake_root), 0
    for partition in range(DEVICE_PARTITIONS):
        task = task_name(partition)
        snapshot = log.latest_snapshot(task)
        start = 0
        if snapshot:
            state = json.loads(snapshot)
            start = state["n"] + 1
            total += state["counters"].get(LANDED, 0)
        for record in log.records_from(task, start):
            total += json.loads(record)["counters"].get(LANDED, 0)
    return total


def _until(predicate, what: str, timeout_s: float = SETTLE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}")
        time.sleep(0.25)


def bare_cpu_s(servers: str, namespace: str, load: workload.Workload) -> float:
    """CPU seconds of this process to fetch and decode the same messages."""
    schema = telemetry_rows(workload.machine())
    consumer = ck.Consumer(
        {"bootstrap.servers": servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    )
    topic = f"{namespace}.{TELEMETRY.base}"
    consumer.assign([ck.TopicPartition(topic, p, 0) for p in range(DEVICE_PARTITIONS)])
    before, rows = time.process_time(), 0
    while rows < load.rows:
        for m in consumer.consume(num_messages=500, timeout=1):
            rows += decode_rows(m.value(), int(dict(m.headers())["raw_bytes"]), schema).num_rows
    used = time.process_time() - before
    consumer.close()
    return used


def measure(servers: str, rows_per_message: int, runs: int) -> Result:
    """Median of ``runs`` runs of one scenario, each on a fresh namespace and lake."""
    worker, bare = [], []
    for _ in range(runs):
        namespace = f"b{uuid.uuid4().hex[:8]}"
        KafkaAdmin(servers).create_topics(namespace)
        keys = workload.signers()
        load = workload.build(keys, rows_per_message, MESSAGES[rows_per_message])
        with tempfile.TemporaryDirectory() as folder:
            lake = Lake.open(Path(folder) / "lake")
            lake.ensure_fixed_tables()
            workload.register(lake, keys)
            worker.append(load.rows / worker_cpu_s(servers, namespace, lake.root, load))
            bare.append(load.rows / bare_cpu_s(servers, namespace, load))
    ratios = [w / b for w, b in zip(worker, bare, strict=True)]
    return Result(
        rows_per_message,
        load.rows,
        load.value_bytes / load.rows,
        statistics.median(worker),
        statistics.median(bare),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
    )


def main() -> None:
    """Measure and print one line per scenario."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=sorted(MESSAGES), choices=sorted(MESSAGES))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    with (
        tempfile.TemporaryDirectory() as folder,
        KafkaBroker(Path(folder), default_cache_dir(os.environ)) as broker,
    ):
        print(f"{'rows/msg':>8} {'B/row':>6} {'worker rows/CPU-s':>18} {'bare loop':>10} {'ratio':>6}")
        for rows in options.rows:
            r = measure(broker.bootstrap_servers, rows, options.runs)
            results.append(r)
            print(
                f"{r.rows_per_message:>8} {r.wire_bytes_per_row:>6.1f} {r.worker_rows_per_cpu_s:>18,.0f} "
                f"{r.bare_rows_per_cpu_s:>10,.0f} {r.ratio:>6.2f}"
            )
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
