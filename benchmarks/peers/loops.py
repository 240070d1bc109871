"""Plain confluent-kafka loops over the same messages: limits and a naive peer, in one process, without Faust.

Each returns the CPU seconds of this process, librdkafka's and deltalake's threads included.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka as ck
import deltalake
import numpy as np
import orjson
import pyarrow as pa

from benchmarks.workload import Workload
from schemas.envelope import MessageVerifier, decode_rows, read_envelope, verify
from schemas.events import JSON_LINES_SCHEMA, JSON_SCHEMA
from schemas.lz4_block import unpack
from schemas.topics import DEVICE_PARTITIONS

FLUSH_S = 0.25
FLUSH_BYTES = 16 * 1024**2
"""The worker's defaults, so that both gather messages equally long."""
DAY_US = 86_400_000_000


def bare(servers: str, namespace: str, load: Workload) -> float:
    """Fetch, decompress, decode: columns are views into the message's bytes, nothing reads them."""
    return _each(servers, namespace, load, lambda m: _decode(m, load))


def materialised(servers: str, namespace: str, load: Workload) -> float:
    """The same, with every column copied to numpy once: the least that a format without zero copy does."""

    def work(m: ck.Message) -> None:
        rows = _decode(m, load)
        if isinstance(rows, pa.RecordBatch):
            for column in rows.columns:
                np.array(column.to_numpy(zero_copy_only=False))

    return _each(servers, namespace, load, work)


def verified(servers: str, namespace: str, load: Workload) -> float:
    """Fetch, check digest and signature, decode: the limit of a reader that must not trust the log."""
    keys = {d.key_id: MessageVerifier(d.public_key.encode()) for d in load.devices}

    def work(m: ck.Message) -> None:
        headers, topic = m.headers(), m.topic().removeprefix(f"{namespace}.")
        envelope, proof = read_envelope(m.key(), headers)
        verify(topic, m.key(), headers, m.value(), envelope, proof, keys[envelope.signer])
        _decode(m, load)

    return _each(servers, namespace, load, work)


def landed_naively(servers: str, namespace: str, load: Workload, folder: Path) -> float:
    """Decode and append to Delta tables by day, a few times a second.

    No signature check, no deduplication, no validation, no checkpoint: a crash loses or doubles rows. Files
    are those that ``write_deltalake`` makes by default; events land as their JSON text.
    """
    began = time.process_time()
    waiting: dict[str, list[ck.Message]] = defaultdict(list)
    flushed, size = time.monotonic(), 0
    for messages in _batches(servers, namespace, load, 0.05):
        for m in messages:
            waiting[m.topic()].append(m)
            size += len(m.value())
        if time.monotonic() - flushed >= FLUSH_S or size >= FLUSH_BYTES:
            _append(waiting, load, folder)
            flushed, size = time.monotonic(), 0
    _append(waiting, load, folder)
    used = time.process_time() - began
    rows = sum(deltalake.DeltaTable(str(f)).count() for f in folder.iterdir())
    if rows != load.rows:
        raise RuntimeError(f"the naive peer landed {rows} of {load.rows} rows")
    return used


def _append(waiting: dict[str, list[ck.Message]], load: Workload, folder: Path) -> None:
    for topic, messages in waiting.items():
        deltalake.write_deltalake(
            str(folder / topic), _to_land(messages, load), mode="append", partition_by=["day"]
        )
    waiting.clear()


def _to_land(messages: list[ck.Message], load: Workload) -> pa.Table:
    rows = [_decode(m, load) for m in messages]
    batches = [r for r in rows if isinstance(r, pa.RecordBatch)]
    if batches:
        table = pa.Table.from_batches(batches).combine_chunks()
    else:  # a topic carries rows or events, never both
        lines = [_event_lines(m) for m in messages]
        table = pa.table({"event": [event.decode() for events in lines for event in events]})
    known_us = np.array([m.timestamp()[1] * 1000 for m in messages])
    known_us = np.repeat(known_us, [b.num_rows for b in batches] or [len(events) for events in lines])
    day = pa.array((known_us // DAY_US).astype("int32")).cast(pa.date32())
    known_at = pa.array(known_us).cast(pa.timestamp("us", tz="UTC"))
    return table.append_column("known_at", known_at).append_column("day", day)


def _decode(m: ck.Message, load: Workload) -> object:
    headers = dict(m.headers())
    if headers["schema"].decode() in (JSON_SCHEMA, JSON_LINES_SCHEMA):
        return [orjson.loads(line) for line in _event_lines(m)]
    return decode_rows(m.value(), int(headers["raw_bytes"]), load.schemas[headers["schema"].decode()])


def _event_lines(m: ck.Message) -> list[bytes]:
    """JSON of each event of a message."""
    headers = dict(m.headers())
    if headers["schema"].decode() == JSON_SCHEMA:
        return [m.value()]
    return unpack(m.value(), int(headers["raw_bytes"])).splitlines()


def _each(servers: str, namespace: str, load: Workload, work: Callable[[ck.Message], object]) -> float:
    began = time.process_time()
    for messages in _batches(servers, namespace, load, 1.0):
        for m in messages:
            work(m)
    return time.process_time() - began


def _batches(servers: str, namespace: str, load: Workload, wait_s: float) -> Iterator[list[ck.Message]]:
    consumer = ck.Consumer(
        {"bootstrap.servers": servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    )
    topics = sorted({f"{namespace}.{m.topic}" for m in load.messages})
    consumer.assign([ck.TopicPartition(t, p, 0) for t in topics for p in range(DEVICE_PARTITIONS)])
    left = len(load.messages)
    try:
        while left:
            messages = consumer.consume(num_messages=500, timeout=wait_s)
            left -= len(messages)
            yield messages
    finally:
        consumer.close()
