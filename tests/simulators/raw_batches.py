"""Batches as a hostile client writes them: raw bytes to a real broker, past every client's checks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
"""Codecs of a batch."""
AT_MS = 1_767_225_600_000


class Name:
    """The name of a header as raw bytes; the builder asks a name for its bytes."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def encode(self, _encoding: str) -> bytes:
        return self._raw


class HostileRecord(NamedTuple):
    """One record of a batch."""

    key: bytes | None = b"k"
    value: bytes | None = b"v"
    headers: Sequence[tuple[Any, bytes | None]] = ()
    at_ms: int = AT_MS


def batch_of(records: Sequence[HostileRecord], codec: int = NONE) -> bytes:
    """The bytes of one batch."""
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, -1, 2**31)
    for i, r in enumerate(records):
        builder.append(i, r.at_ms, r.key, r.value, list(r.headers))
    return bytes(builder.build())


def send_batch(servers: str, topic: str, partition: int, batch: bytes) -> int:
    """Write the batch; returns its first offset."""
    return asyncio.run(_send(servers, topic, partition, batch))


async def _send(servers: str, topic: str, partition: int, batch: bytes) -> int:
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=False)
    await producer.start()
    try:
        metadata = await producer.client.fetch_all_metadata()
        leader = metadata.leader_for_partition(TopicPartition(topic, partition))
        request = ProduceRequest(
            required_acks=1, timeout=30_000, topics=[(topic, [(partition, batch)])], transactional_id=None
        )
        answer = await producer.client.send(leader, request)
        [(_topic, [(_partition, error, offset, *_)])] = answer.topics
        assert error == 0, f"the broker refused the batch: error {error}"
        return offset
    finally:
        await producer.stop()
