"""Measures what a flood of refused messages costs: refusals a second, and how long good rows wait behind it.

One worker, one partition. Good devices of that partition send a row each now and then while the flood is
appended as fast as the broker takes it. A good row has waited from its append to the first cut that shows it.
"""

from __future__ import annotations

import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import confluent_kafka as ck
import psutil

from benchmarks import workload
from benchmarks.ingest import running_worker
from benchmarks.results import Measured
from benchmarks.stage import Stage, until
from benchmarks.workload import Workload
from feature_store.commit_log import CommitLog
from feature_store.lake import Lake
from infra.kafka.kafka_admin import KafkaAdmin
from infra.line_watch import LineWatcher
from schemas.envelope import MessageSigner, SealedMessage
from schemas.topics import DEAD_LETTER, TELEMETRY
from stream_processors.engine.records import CommitRecord
from stream_processors.engine.task_loading import task_name

PARTITION = 3
GOOD_EVERY_S = 0.1
MESSAGES = {"unsigned": 400_000, "unknown-signer": 100_000, "replayed": 100_000, "forged": 20_000}
FLOOR = "<= 15 s"


@dataclass(frozen=True)
class Outcome:
    """One run: rate and CPU of the refusals, and the waits of good rows, seconds."""

    wall_s: float
    cpu_s: float
    bare_s: float
    waits: tuple[float, ...]
    flood_bytes: int
    letter_bytes: int


def run(on: Stage, only: tuple[str, ...] = ()) -> list[Measured]:
    """Measure every kind of flood."""
    return [m for kind in only or MESSAGES for m in _measure(on, kind)]


def _measure(on: Stage, kind: str) -> list[Measured]:
    n = round(MESSAGES[kind] * on.effort.scale)
    outcomes = [_once(on, kind, n) for _ in range(on.effort.runs)]
    beside = (
        f"{n:,} messages; bare consume loop {n / min(o.bare_s for o in outcomes):,.0f}/s; "
        f"{max(o.cpu_s for o in outcomes) / n * 1e6:.1f} us of the worker's CPU each; "
        f"{max(o.letter_bytes for o in outcomes) / 1e3:,.0f} kB of dead letters for "
        f"{outcomes[0].flood_bytes / 1e6:,.1f} MB"
    )
    waits = [max(o.waits) for o in outcomes]
    typical = sorted(w for o in outcomes for w in o.waits)
    good = f"p50 {typical[len(typical) // 2]:.1f} s over {len(typical):,} good rows of the same partition"
    return [
        Measured(f"flood/{kind}", "refused a second, wall", tuple(n / o.wall_s for o in outcomes), beside),
        Measured(f"flood/{kind}-wait", "oldest wait of a good row, s", tuple(waits), good, FLOOR, 1),
    ]


def _once(on: Stage, kind: str, n: int) -> Outcome:
    namespace, admin = on.namespace(), KafkaAdmin(on.servers)
    load = _good_rows()
    with tempfile.TemporaryDirectory(dir=on.folder) as name:
        lake = Lake.open(Path(name) / "lake")
        lake.ensure_fixed_tables()
        load.register(lake)
        with running_worker(on.servers, namespace, lake.root) as process:
            watcher = LineWatcher(lake, admin, namespace, [], datetime.now(UTC))
            good = GoodDevices(on.servers, namespace, iter(load.messages[1:]))
            flood = Flood(on.servers, namespace, load.messages[0])
            flood.send([load.messages[0]])  # a good one: what "replayed" repeats
            until(lambda: flood.covered(lake.root), "the first row")
            good.start()
            before, began = _cpu_s(process.pid), time.monotonic()
            flood.send(_messages(kind, n, load.messages[0]))
            until(lambda: _follow(watcher) and flood.covered(lake.root), "the flood to be passed", 900)
            wall_s, cpu_s = time.monotonic() - began, _cpu_s(process.pid) - before
            good.stop()
            until(lambda: _follow(watcher) and good.last_is_shown(watcher), "the last good row", 120)
    letters = admin.read(admin.spans([DEAD_LETTER.named(namespace)]))
    letter_bytes = sum(len(m.value or b"") + sum(len(k) + len(v) for k, v in m.headers) for m in letters)
    bare_s = _bare(on.servers, namespace, flood.end)
    return Outcome(wall_s, cpu_s, bare_s, good.waits(watcher), flood.n_bytes, letter_bytes)


def _follow(watcher: LineWatcher) -> bool:
    watcher.follow_cuts()
    return True


def _cpu_s(pid: int) -> float:
    return float(sum(psutil.Process(pid).cpu_times()[:2]))


def _good_rows() -> Workload:
    """Signed messages of one row; they are sent to the flooded partition, whatever their keys."""
    return workload.of_size(1, 6_000)


def _messages(kind: str, n: int, sealed: SealedMessage) -> Iterator[SealedMessage]:
    if kind == "unsigned":  # with a good device's id as key: it must not count against that device
        message = SealedMessage(TELEMETRY.base, sealed.key, [], b"x")
    elif kind == "replayed":
        message = sealed
    else:
        key_id = MessageSigner.generate().key_id.encode() if kind == "unknown-signer" else None
        changes = {"signature": b"\x01" * 64, "msg_no": b"123456", **({"signer": key_id} if key_id else {})}
        headers = [(k, changes.get(k, v)) for k, v in sealed.headers]
        message = SealedMessage(TELEMETRY.base, sealed.key, headers, sealed.value)
    return (message for _ in range(n))


class Flood:
    """Appends messages to the flooded partition, and knows when the worker has passed them."""

    def __init__(self, servers: str, namespace: str, sample: SealedMessage) -> None:
        self._producer = _producer(servers)
        self._topic = TELEMETRY.named(namespace)
        self._sample = sample
        self.end = self.n_bytes = 0

    def send(self, messages: Iterator[SealedMessage] | list[SealedMessage]) -> None:
        """Append all of them as fast as the broker takes them."""

        def note(_error: ck.KafkaError | None, message: ck.Message) -> None:
            self.end = max(self.end, (message.offset() or 0) + 1)

        for m in messages:
            _append(self._producer, self._topic, m, note)
            self.n_bytes += m.size
        if self._producer.flush(120):
            raise RuntimeError("the broker did not take the flood")

    def covered(self, lake_root: Path) -> bool:
        """Whether a commit lies behind the last message."""
        log = CommitLog(lake_root)
        newest = log.applied(task_name(PARTITION))
        if newest is None:
            return False
        for n in range(newest, -1, -1):
            span = CommitRecord.from_bytes(log.read(task_name(PARTITION), n)).offsets.get(TELEMETRY.base)
            if span is not None:
                return span[1] >= self.end
        return False


class GoodDevices(threading.Thread):
    """Sends a good row every ``GOOD_EVERY_S`` until stopped, and notes where and when each was appended."""

    def __init__(self, servers: str, namespace: str, messages: Iterator[SealedMessage]) -> None:
        super().__init__(daemon=True)
        self._producer, self._topic = _producer(servers, linger_ms=0), TELEMETRY.named(namespace)
        self._messages, self._stopped = messages, threading.Event()
        self.appended: list[tuple[int, float]] = []

    def run(self) -> None:
        """Send until stopped."""
        while not self._stopped.wait(GOOD_EVERY_S):
            _append(self._producer, self._topic, next(self._messages), self._note)
            self._producer.poll(0)
        self._producer.flush(30)

    def stop(self) -> None:
        """Send no more, and wait for what is on its way."""
        self._stopped.set()
        self.join()

    def waits(self, watcher: LineWatcher) -> tuple[float, ...]:
        """Seconds from append to the first cut, of each row."""
        shown = [(watcher.frontier.when(PARTITION, offset), at) for offset, at in self.appended]
        return tuple(when - at for when, at in shown if when is not None)

    def last_is_shown(self, watcher: LineWatcher) -> bool:
        """Whether queries show the last row."""
        return watcher.frontier.when(PARTITION, max(o for o, _ in self.appended)) is not None

    def _note(self, _error: ck.KafkaError | None, message: ck.Message) -> None:
        self.appended.append((message.offset() or 0, message.timestamp()[1] / 1000))


def _producer(servers: str, linger_ms: int = 20) -> ck.Producer:
    return ck.Producer(
        {
            "bootstrap.servers": servers,
            "linger.ms": linger_ms,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 1_000_000,
        }
    )


def _append(
    producer: ck.Producer,
    topic: str,
    m: SealedMessage,
    note: Callable[[ck.KafkaError | None, ck.Message], None],
) -> None:
    while True:
        try:
            producer.produce(topic, m.value, m.key, PARTITION, note, headers=m.headers)
            break
        except BufferError:
            producer.poll(0.1)
    producer.poll(0)


def _bare(servers: str, namespace: str, end: int) -> float:
    """Seconds that one process needs to consume the partition and do nothing else."""
    consumer = ck.Consumer({"bootstrap.servers": servers, "group.id": uuid.uuid4().hex})
    consumer.assign([ck.TopicPartition(TELEMETRY.named(namespace), PARTITION, 0)])
    began, left = time.monotonic(), end
    try:
        while left > 0:
            left -= len(consumer.consume(5_000, 1.0))
    finally:
        consumer.close()
    return time.monotonic() - began
