"""Topics: their names, settings and the partition a key goes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

DEVICE_PARTITIONS = 8
"""Partitions of every topic that jobs read. Task p is partition p of all of them."""

OUTPUT_PARTITIONS = 4
"""Partitions of topics that jobs only write."""

MAX_MESSAGE_BYTES = 1_000_000
"""Largest message, headers included, that a device may send (the broker allows 4 % more)."""


class Lane(StrEnum):
    """Streams of dense message numbers within one spool. Order holds within a lane only."""

    LIVE = "live"
    BACKLOG = "backlog"
    SUMMARY = "summary"
    BOOKS = "books"
    ALERT = "alert"
    LABEL = "label"
    STATE = "state"
    EXCERPT = "excerpt"

    __hash__ = str.__hash__  # an Enum's own, in Python, is several times as slow, and each message needs some


@dataclass(frozen=True)
class Topic:
    """One topic, without its namespace.

    Attributes:
        base: Name including the schema's major version.
        partitions: Count at creation; never changed afterwards.
        device: True for topics that devices write, keyed by producer id.
        config: Broker settings beside the defaults of the cluster.
    """

    base: str
    partitions: int
    device: bool = False
    config: dict[str, str] = field(default_factory=dict)

    def named(self, namespace: str) -> str:
        """Full name on the broker, ``<namespace>.<base>``; the bare base for ``""``."""
        return f"{namespace}.{self.base}" if namespace else self.base


def _device(base: str, **config: str) -> Topic:
    settings = {"message.timestamp.type": "LogAppendTime", **config}
    return Topic(base, DEVICE_PARTITIONS, device=True, config=settings)


TELEMETRY = _device("telemetry.v1")
SUMMARY = _device("summary.v1")
BOOKS = _device("books.v1")
ALERT = _device("alert.v1")
LABEL = _device("label.v1")
DEVICE_STATE = _device("device-state.v1", **{"cleanup.policy": "compact"})
EXCERPT = _device("excerpt.v1")
"""Raw samples, each of a span that an approver has permitted."""
AGGREGATE = Topic("aggregate.v1", DEVICE_PARTITIONS)
DRIFT = Topic("drift.v1", OUTPUT_PARTITIONS)
LIFECYCLE = Topic("lifecycle.v1", OUTPUT_PARTITIONS)
DEAD_LETTER = Topic("dead-letter.v1", OUTPUT_PARTITIONS)

DEVICE_TOPICS = (TELEMETRY, SUMMARY, BOOKS, ALERT, LABEL, DEVICE_STATE, EXCERPT)
TASK_TOPICS = (*DEVICE_TOPICS, AGGREGATE)
"""Task p reads partition p of each. Aggregates are keyed by cohort, so one task owns a cohort."""
ALL_TOPICS = (*DEVICE_TOPICS, AGGREGATE, DRIFT, LIFECYCLE, DEAD_LETTER)

WIRE = 3
"""Number of what devices of this release send, raised by a release whose messages the last one cannot read.

1: up to 0.2.0. 2: rows of telemetry may go without an inclusion probability (context). 3: summaries and books
are packed.
"""
WIRES_READ = tuple(Topic(f"wire.v{number}", 1) for number in range(2, WIRE + 1))
"""Empty. A cloud that reads messages of a number has its topic; devices wait until theirs is there."""
WIRE_READ = WIRES_READ[-1]
"""The one that devices of this release look for."""
PROVISIONED_TOPICS = (*ALL_TOPICS, *WIRES_READ)
"""What a cloud makes on its broker."""

LANES_OF: dict[str, tuple[Lane, ...]] = {
    TELEMETRY.base: (Lane.LIVE, Lane.BACKLOG),
    SUMMARY.base: (Lane.SUMMARY,),
    BOOKS.base: (Lane.BOOKS,),
    ALERT.base: (Lane.ALERT,),
    LABEL.base: (Lane.LABEL,),
    DEVICE_STATE.base: (Lane.STATE,),
    EXCERPT.base: (Lane.EXCERPT,),
}
"""Which lanes may appear on which topic; ingest refuses any other pairing."""


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 (seed 0x9747b28c), unsigned.

    Source: ``org.apache.kafka.common.utils.Utils.murmur2``.
    """
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    length = len(data)
    h = (0x9747B28C ^ length) & mask
    for i in range(0, length - length % 4, 4):
        k = int.from_bytes(data[i : i + 4], "little")
        k = (k * m) & mask
        k ^= k >> 24
        h = ((h * m) & mask) ^ ((k * m) & mask)
    tail = data[length - length % 4 :]
    if tail:
        h ^= int.from_bytes(tail, "little")
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    return h ^ (h >> 15)


def partition_for(key: str, partitions: int = DEVICE_PARTITIONS) -> int:
    """Partition that Kafka's default partitioner gives the key, as librdkafka's ``murmur2``."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
