"""Record batches that no honest client makes, and a client that sends them as they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
"""Codecs of a batch."""
LARGEST_BATCH = 2**31


class RawName:
    """The name of a header as raw bytes; the builder asks a name for its bytes."""

    def __init__(self, raw: bytes = b"\xff\xfe\xfd") -> None:
        self._raw = raw

    def encode(self, _encoding: str) -> bytes:
        return self._raw


class HostileRecord(NamedTuple):
    """One record of a batch."""

    key: bytes | None = b"k"
    value: bytes | None = b"v"
    headers: Sequence[tuple[Any, bytes | None]] = ()
    at_ms: int | None = None


def batch_of(
    records: Sequence[HostileRecord], codec: int = NONE, offsets: Sequence[int] | None = None
) -> bytes:
    """The bytes of one batch.

    Args:
        records: What it holds.
        codec: How it is compressed.
        offsets: Where the records say that they lie behind the batch's own offset; None: as they come.
    """
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, -1, LARGEST_BATCH)
    now = int(time.time() * 1000)
    for offset, r in zip(offsets or range(len(records)), records, strict=True):
        builder.append(offset, now if r.at_ms is None else r.at_ms, r.key, r.value, list(r.headers))
    return bytes(builder.build())


def batch(*values: bytes, codec: int = NONE, headers: Sequence = (), key: bytes = b"k") -> bytes:
    """One batch of a record for each value."""
    return batch_of([HostileRecord(key, value, headers) for value in values], codec)


def with_offsets(*offsets: int) -> bytes:
    """A batch whose records say that they lie at these offsets behind the batch's own."""
    content = bytearray(batch_of([HostileRecord()] * len(offsets), offsets=offsets))
    content[23:27] = (len(offsets) - 1).to_bytes(4, "big")  # of this the broker does look at the last
    content[17:21] = calc_crc32c(bytes(content[21:])).to_bytes(4, "big")
    return bytes(content)


def send(bootstrap_servers: str, topic: str, partition: int, *batches: bytes) -> list[int]:
    """Append the batches as they are; the broker must take each. Returns their first offsets."""
    return asyncio.run(_send(bootstrap_servers, topic, partition, batches))


async def _send(servers: str, topic: str, partition: int, batches: Sequence[bytes]) -> list[int]:
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=False)
    await producer.start()
    try:
        metadata = await producer.client.fetch_all_metadata()
        leader = metadata.leader_for_partition(TopicPartition(topic, partition))
        first = []
        for content in batches:
            request = ProduceRequest(None, -1, 30_000, [(topic, [(partition, content)])])
            answer = await producer.client.send(leader, request)
            [(_topic, [(_partition, error, offset, *_)])] = answer.topics
            assert error == 0, f"the broker refused the batch: error {error}"
            first.append(offset)
        return first
    finally:
        await producer.stop()
