"""The log without Faust: direct reads, ends, identity and the producer of derived messages.

The only door to ``confluent_kafka`` in this package.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from schemas.derived_seal import seal_derived
from schemas.envelope import MessageSigner
from schemas.errors import BrokerUnavailableError, OperatorError
from schemas.topics import TASK_TOPICS
from stream_processors.engine.records import CommitRecord, LogIdentity, event_id
from stream_processors.job import Derived, RawMessage

log = logging.getLogger(__name__)

LARGEST_COPY_BYTES = 900_000
"""A larger dead letter is published without its bytes, with a pointer to them."""
_OUT_OF_RANGE = (ck.KafkaError.OFFSET_OUT_OF_RANGE, ck.KafkaError._AUTO_OFFSET_RESET)  # noqa: SLF001  (public by use)
ORIGINAL_HEADER = "original."
"""Prefix, on a dead letter, of the headers of the original message."""


def _complain(error: ck.KafkaError) -> None:
    log.warning("Kafka: %s", error)


_QUIET = {"log_level": 0, "error_cb": _complain}
"""The client's own lines go past our log, many a second while the broker is away: its errors say the same."""


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except ck.KafkaException as exc:
        raise BrokerUnavailableError(f"{what}: {exc}") from exc


class KafkaLog:
    """Reads and writes the log without Faust. One instance per thread.

    Args:
        bootstrap_servers: Addresses of the broker.
        namespace: Prefix of the topics.
        client_id: The client's name; it joins no group.
        signer: Key that signs what it publishes; None: for a log that only reads.
    """

    def __init__(
        self, bootstrap_servers: str, namespace: str, client_id: str, signer: MessageSigner | None = None
    ) -> None:
        self._namespace = namespace
        self._signer = signer
        self._servers = bootstrap_servers
        self._consumer = ck.Consumer(
            {
                **_QUIET,
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"{client_id}-direct",  # the client requires one; assign() joins no group
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "isolation.level": "read_uncommitted",
                "fetch.wait.max.ms": 50,
            }
        )
        self._producer = ck.Producer(
            {
                **_QUIET,
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "partitioner": "murmur2",
                "linger.ms": 2,
                "message.max.bytes": 4 * 1024**2,
            }
        )
        self._identity: LogIdentity | None = None

    def close(self) -> None:
        """Leave the broker; buffered messages are flushed by ``publish`` already."""
        self._consumer.close()

    def _full(self, topic: str) -> str:
        return f"{self._namespace}.{topic}" if self._namespace else topic

    def identity(self) -> LogIdentity:
        """Cluster id and the ids of the task topics, asked once.

        Raises:
            BrokerUnavailableError: No answer.
            OperatorError: A task topic does not exist.
        """
        if self._identity is None:
            admin = AdminClient({**_QUIET, "bootstrap.servers": self._servers})
            names = {self._full(t.base): t.base for t in TASK_TOPICS}
            with _translated("describing topics"):
                cluster = admin.describe_cluster(request_timeout=10).result()
                futures = admin.describe_topics(ck.TopicCollection(list(names)), request_timeout=10)
                try:
                    ids = {names[n]: str(f.result().topic_id) for n, f in futures.items()}
                except ck.KafkaException as exc:
                    raise OperatorError(f"task topics are missing ({exc}): `edgeloop up` makes them") from exc
            self._identity = LogIdentity(cluster.cluster_id, ids)
        return self._identity

    def log_range(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset of a partition, and the offset after its last."""
        with _translated(f"asking for the ends of {topic}[{partition}]"):
            span = self._consumer.get_watermark_offsets(
                ck.TopicPartition(self._full(topic), partition), timeout=10
            )
        if span is None:
            raise BrokerUnavailableError(
                f"the broker did not report the ends of {topic}[{partition}] in time"
            )
        return int(span[0]), int(span[1])

    def read(
        self, topic: str, partition: int, start: int, end: int, limit: int = 1000
    ) -> tuple[list[RawMessage], int]:
        """Messages in [start, end), at most about ``limit``.

        Returns:
            The messages, and the offset up to which the range is now known: offsets without a message are
            legitimate holes.

        Raises:
            OperatorError: The range is not in the log any more.
        """
        found: list[RawMessage] = []
        reached = start
        self._consumer.assign([ck.TopicPartition(self._full(topic), partition, start)])
        try:
            while reached < end and len(found) < limit:
                message = self._consumer.poll(10)  # consume(n) waits its whole timeout for the n-th
                if message is None:
                    raise BrokerUnavailableError(f"reading {topic}[{partition}] from {reached}: no answer")
                error = message.error()
                if error is None and message.offset() < end:
                    found.append(_raw(topic, message))
                    reached = message.offset() + 1
                elif error is None or error.code() == ck.KafkaError._PARTITION_EOF:  # noqa: SLF001  (public by use)
                    reached = end
                elif error.code() in _OUT_OF_RANGE or error.fatal():
                    raise OperatorError(f"{topic}[{partition}] offsets {start}..{end}: {error}")
        finally:
            self._consumer.unassign()
        return found, min(reached, end)

    def publish(self, record: CommitRecord, originals: Mapping[tuple[str, int, int], RawMessage]) -> None:
        """Publish a record's derived messages, with their ids; return once acknowledged."""
        failed: list[str] = []
        for index, derived in enumerate(record.messages):
            value, headers = self._content(derived, originals)
            headers.append(("event_id", event_id(record.task, record.n, index).encode()))
            key = derived.key.encode()
            self._producer.produce(
                self._full(derived.topic),
                key=key,
                value=value,
                headers=self._signed(derived.topic, key, headers, value),
                on_delivery=lambda error, _message: failed.append(str(error)) if error else None,
            )
            self._producer.poll(0)
        if self._producer.flush(30) or failed:
            raise BrokerUnavailableError(f"derived messages of {record.task}/{record.n}: {failed[:1]}")

    def _signed(
        self, topic: str, key: bytes, headers: list[tuple[str, bytes]], value: bytes | None
    ) -> list[tuple[str, bytes]]:
        if self._signer is None:
            raise ValueError("a log without a signer only reads")
        return seal_derived(topic, key, headers, value or b"", self._signer)

    def _content(
        self, derived: Derived, originals: Mapping[tuple[str, int, int], RawMessage]
    ) -> tuple[bytes | None, list[tuple[str, bytes]]]:
        headers = list(derived.headers)
        if derived.copy_of is None:
            return derived.value, headers
        original = originals.get(derived.copy_of) or self._read_one(*derived.copy_of)
        if original is None:
            return b"", [*headers, ("lost", b"the original is not in the log any more")]
        copied = headers + [(ORIGINAL_HEADER + k, v) for k, v in original.headers]
        size = len(original.value) + sum(len(k) + len(v or b"") for k, v in copied)
        if size > LARGEST_COPY_BYTES:  # it came compressed: the broker would refuse the copy at every attempt
            return b"", [*headers, ("too_large", b"%d bytes; the original is in the source topic" % size)]
        return original.value, copied

    def _read_one(self, topic: str, partition: int, offset: int) -> RawMessage | None:
        try:
            found, _ = self.read(topic, partition, offset, offset + 1)
        except OperatorError as exc:
            log.warning("original %s[%d]@%d cannot be copied: %s", topic, partition, offset, exc)
            return None
        return found[0] if found else None


def _raw(topic: str, message: ck.Message) -> RawMessage:
    return RawMessage(
        topic,
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.headers() or [],
        message.value() or b"",
    )
