"""Record batches that no honest client makes, and a client that sends them as they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.util import calc_crc32c

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)


class RawName(str):
    """A header name that is sent as bytes that are no UTF-8."""

    __slots__ = ()

    def encode(self, *_):
        return b"\xff\xfe\xfd"


def batch(*values: bytes, codec: int = NONE, headers: Sequence = (), key: bytes = b"k") -> bytes:
    """One batch of a record for each value."""
    builder = _DefaultRecordBatchBuilderPy(2, codec, 0, -1, -1, -1, 1 << 31)
    for number, value in enumerate(values):
        builder.append(number, int(time.time() * 1000), key, value, list(headers))
    return bytes(builder.build())


def with_offsets(*offsets: int) -> bytes:
    """A batch whose records say that they lie at these offsets behind the batch's own."""
    builder = _DefaultRecordBatchBuilderPy(2, NONE, 0, -1, -1, -1, 1 << 20)
    for offset in offsets:
        builder.append(offset, int(time.time() * 1000), b"k", b"v", [])
    content = bytearray(builder.build())
    content[23:27] = (len(offsets) - 1).to_bytes(4, "big")  # of this the broker does look at the last
    content[17:21] = calc_crc32c(bytes(content[21:])).to_bytes(4, "big")
    return bytes(content)


def send(bootstrap_servers: str, topic: str, partition: int, *batches: bytes) -> None:
    """Append the batches as they are; the broker must take each."""
    asyncio.run(_send(bootstrap_servers, topic, partition, batches))


async def _send(bootstrap_servers: str, topic: str, partition: int, batches: Sequence[bytes]) -> None:
    client = AIOKafkaClient(bootstrap_servers=bootstrap_servers)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        for content in batches:
            request = ProduceRequest(None, -1, 30_000, [(topic, [(partition, content)])])
            answer = await client.send(leader, request)
            [(_, [(_, error, *_)])] = answer.topics
            assert error == 0, answer
    finally:
        await client.close()
