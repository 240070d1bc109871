"""Measures what a message costs the worker by part, in this process and without a broker.

The whole way runs on one prepared log: batches as a broker stores them are parsed and checked, buffered, and
committed by the real checkpoint with all jobs. Everything is CPU of this process, and stands beside a fixed
reference computation that runs between the rounds, so that neighbours and clocks fall out of the ratio.

The parts come from a sampling profiler: at each millisecond of CPU the handler's stack is looked at. What
other threads use (files are written beside the handler) is measured by their clocks.
"""

from __future__ import annotations

import gc
import hashlib
import shutil
import signal
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import FrameType
from typing import NamedTuple
from zlib import crc32

import numpy as np
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from faust.types import TP

from benchmarks import workload
from benchmarks.results import Measured, table
from benchmarks.stage import Stage
from benchmarks.workload import SEED, Workload
from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from schemas.envelope import MessageSigner, MessageVerifier
from schemas.kept_memory import keep_memory
from schemas.topics import DEVICE_PARTITIONS
from stream_processors.__main__ import GC_THRESHOLDS, KEPT_BYTES, MAPPED_BYTES
from stream_processors.engine.checked_records import CheckedRecords, PlainRecords, as_message
from stream_processors.engine.checkpoint import Checkpoint, CheckpointParts
from stream_processors.engine.faust_consumer import FETCH_MAX_PARTITION_BYTES
from stream_processors.engine.records import LogIdentity
from stream_processors.engine.task_buffers import TaskBuffer, TaskBuffers
from stream_processors.ingest.lake_directory import directory_of
from stream_processors.lake_jobs import installed_jobs, senders_in
from stream_processors.settings import StreamSettings

MESSAGES = {1: 16_000, 10: 12_000, 100: 4_000, 500: 1_500, 2000: 400}
BACKLOG = "-backlog"
GATEWAY = "fleet-gateway"
"""What the devices of one gateway send, all topics; only where it is named: the capture takes minutes."""
BATCH_BYTES = 512 * 1024
"""What a producer puts into one batch of the log before it is compressed."""
PROFILED_S = 0.001
_LZ4 = 3

PARTS: Mapping[str, str] = {
    "stream_processors/engine/checked_records": "fetch",
    "aiokafka": "fetch",
    "stream_processors/engine/task_buffers": "buffer",
    "stream_processors/engine/portions": "buffer",
    "stream_processors/ingest/known_headers": "headers",
    "stream_processors/ingest/admission": "headers",
    "schemas/message_tree": "tree",
    "schemas/lz4_block": "unpack",
    "stream_processors/ingest/sealed_rows": "decode",
    "stream_processors/ingest/joined_columns": "decode",
    "stream_processors/ingest/packed": "decode",
    "schemas/packed": "decode",
    "schemas/varints": "decode",
    "schemas/arrow_bounds": "decode",
    "stream_processors/ingest/marks": "lanes",
    "stream_processors/ingest/lanes": "lanes",
    "stream_processors/ingest/lane_gaps": "lanes",
    "stream_processors/ingest/boot_owners": "owners",
    "stream_processors/ingest/landing": "checks",
    "stream_processors/ingest": "turns",
    "feature_store/delta": "apply",
    "feature_store/cut": "apply",
    "feature_store/commit": "apply",
    "feature_store/parquet": "files",
    "feature_store": "apply",
    "stream_processors/aggregate": "other jobs",
    "stream_processors/drift": "other jobs",
    "stream_processors/engine": "commit",
}
"""Part by beginning of a module's path; the innermost frame of ours with one counts, the longest first."""
NAMED: Mapping[str, str] = {"verify": "signature", "verify_once": "signature", "_may_send": "owners"}
"""Functions whose part is another than their module's."""


class Spent(NamedTuple):
    """CPU of one round, in seconds.

    Attributes:
        fetched: From the log's bytes to buffered messages.
        handled: From there to the last commit.
        reference: Of the reference computation beside it.
        parts: Of ``fetched`` and ``handled``, by part.
    """

    fetched: float
    handled: float
    reference: float
    parts: Mapping[str, float]

    @property
    def whole(self) -> float:
        """Of the whole way."""
        return self.fetched + self.handled


class Reference:
    """A fixed computation of about the worker's mixture: signatures, Python, hashing and copying."""

    def __init__(self) -> None:
        signer = MessageSigner.generate()
        self._verifier = MessageVerifier(signer.public_pem())
        self._signed = [(signer.sign(b"%d" % n), b"%d" % n) for n in range(1000)]
        self._numbers = np.random.default_rng(SEED).random(1 << 19)

    def cpu_s(self) -> float:
        """CPU seconds of one run: about a tenth of a second."""
        began = time.process_time()
        for signature, data in self._signed:
            self._verifier.verify(signature, data)
        found: dict[bytes, int] = {}
        for n in range(40_000):
            found[b"%d" % (n % 977)] = found.get(b"%d" % (n & 511), 0) + n
        for _ in range(4):
            hashlib.sha256(self._numbers.tobytes()).digest()
            np.sort(self._numbers)
        return time.process_time() - began


def run(on: Stage, only: tuple[str, ...] = ()) -> list[Measured]:
    """Measure each size; prints a table of microseconds a message by part.

    Args:
        only: Sizes such as ``1`` or ``10-backlog``, or ``fleet-gateway``; without any, all sizes.
    """
    keep_memory(MAPPED_BYTES, KEPT_BYTES)
    names = only or tuple(f"{n}{b}" for n in MESSAGES for b in ("", BACKLOG))
    found = {name: _measured(on, name) for name in names}
    print(_table(found), flush=True)
    return [_result(name, load, rounds) for name, (load, rounds) in found.items()]


def _measured(on: Stage, name: str) -> tuple[Workload, list[Spent]]:
    load = on.gateway_fleet if name == GATEWAY else _of_size(name, on.effort.scale)
    fetches, reference = fetches_of(load), Reference()
    return load, [_round(on.folder / f"path-{name}-{n}", load, fetches, reference)
                  for n in range(on.effort.runs)]  # fmt: skip


def _of_size(name: str, scale: float) -> Workload:
    rows = int(name.removesuffix(BACKLOG))
    load = workload.of_size(rows, round(MESSAGES[rows] * scale))
    return workload.signed_together(load) if name.endswith(BACKLOG) else load


def _round(
    folder: Path, load: Workload, fetches: Mapping[int, Sequence[tuple[bytes, str]]], beside: Reference
) -> Spent:
    """The whole way once, in a new lake; the reference runs before and behind it."""
    checkpoint = _checkpoint(folder, load)
    settings = StreamSettings(lake_root=folder)
    buffers = TaskBuffers(settings.max_buffer_bytes)
    buffers.of_task = {task: TaskBuffer({}) for task in range(DEVICE_PARTITIONS)}
    for task, buffer in buffers.of_task.items():
        buffer.next_offsets |= {m.topic: 0 for m in load.messages}
        checkpoint.open(task)
    gc.collect()
    gc.freeze()
    before, gc_before = beside.cpu_s(), gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLDS)
    fetched = handled = 0.0
    parts: Counter[str] = Counter()
    try:
        with sampled() as samples:
            own = time.thread_time()
            for portion in _portions(fetches, settings.max_buffer_bytes // 4):
                began = time.process_time()
                for task, data, topic in portion:
                    fetch(topic, task, data, buffers.of_task[task])
                fetched += time.process_time() - began
                began = time.process_time()
                while batches := buffers.take(settings.max_batch_bytes):
                    checkpoint.process(batches)
                    buffers.done()
                handled += time.process_time() - began
            own = time.thread_time() - own
        for part, share in samples.items():
            parts[part] += own * share / max(1, samples.total())
        parts["files beside"] = fetched + handled - own
    finally:
        gc.set_threshold(*gc_before)
        gc.unfreeze()
    _check_landed(checkpoint, load)
    shutil.rmtree(folder)
    return Spent(fetched, handled, (before + beside.cpu_s()) / 2, parts)


def fetch(topic: str, task: int, data: bytes, buffer: TaskBuffer) -> None:
    """What aiokafka and the door do with what one fetch brought of a partition."""
    records = CheckedRecords(data)
    found = [*PlainRecords(TP(topic, task), records, [], 0, None, None, True, 0)]
    buffer.extend([as_message(topic, task, r) for r in found])


def fetches_of(load: Workload) -> dict[int, list[tuple[bytes, str]]]:
    """Batches as the log holds them and one fetch brings them, with their topic, by partition."""
    found: dict[int, list[tuple[bytes, str]]] = defaultdict(list)
    by_place: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, m in enumerate(load.messages):
        by_place[m.topic, crc32(m.key) % DEVICE_PARTITIONS].append(number)
    now_ms = int(time.time() * 1000)
    for (topic, task), numbers in by_place.items():
        made, fetched = _Batches(), b""
        for offset, number in enumerate(numbers):
            m = load.messages[number]
            for batch in made.add(offset, now_ms, m.key, m.value, list(m.headers)):
                if fetched and len(fetched) + len(batch) > FETCH_MAX_PARTITION_BYTES:
                    found[task].append((fetched, topic))
                    fetched = b""
                fetched += batch
        found[task].append((fetched + made.rest(), topic))
    return dict(found)


class _Batches:
    """Record batches of one partition."""

    def __init__(self) -> None:
        self._builder: DefaultRecordBatchBuilder | None = None
        self._first = 0

    def add(
        self, offset: int, at_ms: int, key: bytes, value: bytes, headers: list[tuple[str, bytes]]
    ) -> Iterator[bytes]:
        """Add a message; gives the batch before it, where that is full."""
        if self._builder is not None and self._builder.size() + len(value) + 1024 > BATCH_BYTES:
            yield self.rest()
        if self._builder is None:
            self._first = offset
            self._builder = DefaultRecordBatchBuilder(2, _LZ4, 0, -1, -1, -1, 8 * BATCH_BYTES)
        self._builder.append(offset - self._first, at_ms, key, value, headers)

    def rest(self) -> bytes:
        """The batch that is not full yet, with the offset that the broker gives it."""
        if self._builder is None:
            return b""
        made, self._builder = self._builder.build(), None
        return self._first.to_bytes(8, "big") + bytes(made[8:])


def _portions(
    fetches: Mapping[int, Sequence[tuple[bytes, str]]], most: int
) -> Iterator[list[tuple[int, bytes, str]]]:
    """Fetches of all partitions in turn, as many as are fetched before a commit."""
    portion: list[tuple[int, bytes, str]] = []
    size = 0
    for n in range(max(map(len, fetches.values()))):
        for task, own in fetches.items():
            if n < len(own):
                portion.append((task, *own[n]))
                size += len(own[n][0])
        if size > most:
            yield portion
            portion, size = [], 0
    yield portion


def _checkpoint(folder: Path, load: Workload) -> Checkpoint:
    """A worker's checkpoint in a new lake, with all jobs and no broker."""
    lake, clock = Lake.open(folder), count(1)
    lake.ensure_fixed_tables()
    load.register(lake)
    directory = directory_of(lake)
    return Checkpoint(
        CheckpointParts(
            lake=lake,
            commits=CommitLog(lake.root),
            cuts=CutStore(lake),
            jobs=installed_jobs(directory),
            publisher=_NoBroker(),
            log_identity=lambda: LogIdentity("path", {}),
            clock=lambda: datetime.now(UTC) + timedelta(microseconds=next(clock)),
            code={"edgeloop": "path"},
            sender_of=senders_in(directory),
        )
    )


class _NoBroker:
    """Takes derived messages, as a broker would."""

    def publish(self, record: object, originals: object) -> tuple[()]:
        return ()


def _check_landed(checkpoint: Checkpoint, load: Workload) -> None:
    counters: Counter[str] = Counter()
    for task in range(DEVICE_PARTITIONS):
        counters.update(checkpoint.state(task).counters)
    rows = sum(n for name, n in counters.items() if name.endswith("/landed_rows"))
    if rows != load.rows:
        raise RuntimeError(f"{rows} of {load.rows} rows landed: {dict(counters)}")


@contextmanager
def sampled() -> Iterator[Counter[str]]:
    """Counts in which part this thread is, a thousand times in each second of CPU."""
    found: Counter[str] = Counter()

    def look(_number: int, frame: FrameType | None) -> None:
        if (part := part_of(frame)) is not None:
            found[part] += 1

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, PROFILED_S, PROFILED_S)
    try:
        yield found
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def part_of(frame: FrameType | None) -> str | None:
    """Part of the innermost frame that has one; None: the thread waits for another."""
    if frame is not None and frame.f_code.co_filename.endswith("threading.py"):
        return None
    while frame is not None:
        name, path = frame.f_code.co_name, frame.f_code.co_filename
        if name in NAMED:
            return NAMED[name]
        for start, part in PARTS.items():
            if f"/{start}" in path:
                return part
        frame = frame.f_back
    return "rest"


def _table(found: Mapping[str, tuple[Workload, list[Spent]]]) -> str:
    """Microseconds a message by part, each the median of its rounds."""
    names = sorted({part for _, rounds in found.values() for one in rounds for part in one.parts})
    lines = []
    for part in names:
        values = [_us(load, [one.parts.get(part, 0.0) for one in rounds]) for load, rounds in found.values()]
        lines.append([part, *values])
    lines.append(["all", *(_us(load, [one.whole for one in rounds]) for load, rounds in found.values())])
    return f"us of CPU a message, by part\n{table(('rows/message', *found), lines)}"


def _us(load: Workload, seconds: Sequence[float]) -> str:
    return f"{1e6 * statistics.median(seconds) / len(load.messages):,.1f}"


def _result(name: str, load: Workload, rounds: Sequence[Spent]) -> Measured:
    per_message = statistics.median(one.whole / one.reference for one in rounds) / len(load.messages)
    parts: Counter[str] = Counter()
    for one in rounds:
        parts.update(one.parts)
    whole = sum(one.whole for one in rounds)
    shares = ", ".join(f"{part} {100 * spent / whole:.0f} %" for part, spent in parts.most_common(6))
    reference = statistics.median(one.reference for one in rounds)
    return Measured(
        f"path/{name}",
        "rows per CPU-second, no broker",
        tuple(load.rows / one.whole for one in rounds),
        f"a message costs {1e3 * per_message:.3f} thousandths of the reference ({1e3 * reference:.0f} ms); "
        f"{shares}; {len(load.messages):,} messages",
    )
