"""The log without Faust: direct reads, ends, identity and the producer of derived messages.

The only door to ``confluent_kafka`` in this package.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from schemas.derived_seal import seal_derived
from schemas.envelope import MessageSigner
from schemas.errors import BrokerUnavailableError, OperatorError
from schemas.topics import ALL_TOPICS, TASK_TOPICS
from stream_processors.engine.letters import (
    Content,
    Place,
    Unpublished,
    bare_letter,
    content_of,
    originals_wanted,
    spans_of,
)
from stream_processors.engine.log_reader import read_span
from stream_processors.engine.log_span import LogSpan
from stream_processors.engine.records import CommitRecord, LogIdentity, event_id
from stream_processors.job import RawMessage

log = logging.getLogger(__name__)

_PATIENCE_S = 30.0
"""How long the broker may acknowledge nothing."""
_QUEUE_KIB = 32 * 1024
_NEVER = frozenset(
    {
        ck.KafkaError.MSG_SIZE_TOO_LARGE,
        ck.KafkaError.INVALID_MSG_SIZE,
        ck.KafkaError.RECORD_LIST_TOO_LARGE,
        ck.KafkaError.INVALID_RECORD,
        ck.KafkaError.INVALID_TIMESTAMP,
        ck.KafkaError.POLICY_VIOLATION,
        ck.KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    }
)
"""Errors by which a broker refuses one message, however often it is sent."""
_NOT_THERE = frozenset(
    {
        ck.KafkaError.UNKNOWN_TOPIC_OR_PART,
        ck.KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001  (public by use)
        ck.KafkaError.TOPIC_EXCEPTION,
        ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)
"""As ``_NEVER`` for a topic that a job made up; edgeloop's own topics come back."""
_OWN_TOPICS = frozenset(t.base for t in ALL_TOPICS)


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
        progress: Called while a long call goes on as it should, so that a watchdog knows.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        namespace: str,
        client_id: str,
        signer: MessageSigner | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._namespace = namespace
        self._signer, self._progress = signer, progress
        self._servers = bootstrap_servers
        self._consumer = ck.Consumer(
            {
                **_QUIET,
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"{client_id}-direct",  # the client requires one; assign() joins no group
                "enable.auto.commit": False,
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
                "queue.buffering.max.kbytes": _QUEUE_KIB,
                "topic.metadata.propagation.max.ms": 10_000,  # how long a topic may seem not to exist
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
        """Messages in [start, end), at most ``limit`` and a few megabytes (``log_reader.read_span``).

        Raises:
            OperatorError: The range is not in the log any more.
        """
        return read_span(self._servers, self._full(topic), LogSpan(topic, partition, start, end), limit)

    def publish(self, record: CommitRecord, originals: Mapping[Place, RawMessage]) -> tuple[Unpublished, ...]:
        """Publish a record's derived messages, with their ids; return once acknowledged.

        Originals that are not at hand are read in spans. A message that the broker refuses is sent once more
        by itself (it may only have shared a batch with a bad one), a dead letter without its bytes.

        Returns:
            Messages that the broker will never take.
        """
        sent = _Deliveries()
        wanted = originals_wanted(record.messages, originals)
        waiting = {index for indexes in wanted.values() for index in indexes}
        for index, derived in enumerate(record.messages):
            if index not in waiting:
                original = originals.get(derived.copy_of) if derived.copy_of else None
                self._produce(record, index, content_of(derived, original), sent)
        for place, original in self._read_originals(wanted):
            for index in wanted[place]:
                self._produce(record, index, content_of(record.messages[index], original), sent)
        self._flush(record, sent)
        return tuple(
            u for index in sorted(sent.refused) if (u := self._alone(record, index, sent)) is not None
        )

    def _alone(self, record: CommitRecord, index: int, before: _Deliveries) -> Unpublished | None:
        """Send a refused message again by itself, in its smallest form; None: the broker took it."""
        content, reason = before.content[index], before.refused[index]
        derived = record.messages[index]
        smallest = content if content.bare else bare_letter(derived, content.size)
        sent = _Deliveries()
        self._produce(record, index, smallest, sent)
        self._flush(record, sent)
        if index not in sent.refused:
            return None
        log.error("%s to %s is set aside: %s", event_id(record.task, record.n, index), derived.topic, reason)
        return Unpublished(index, sent.refused[index])

    def _produce(self, record: CommitRecord, index: int, content: Content, sent: _Deliveries) -> None:
        topic = record.messages[index].topic
        own = event_id(record.task, record.n, index).encode()

        def delivered(error: ck.KafkaError | None, _message: ck.Message) -> None:
            sent.note(index, topic, error)

        sent.content[index] = content
        headers = self._signed(topic, content.key, [*content.headers, ("event_id", own)], content.value)
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._producer.produce(
                    self._full(topic),
                    key=content.key,
                    value=content.value,
                    headers=headers,
                    on_delivery=delivered,
                )
            except BufferError:  # the queue is full: wait for the broker
                if not self._producer.poll(1.0) and time.monotonic() > until:
                    raise BrokerUnavailableError(f"derived messages of {record.task}/{record.n}") from None
                self._progress()
            except ck.KafkaException as exc:
                sent.note(index, topic, exc.args[0])
                return
            else:
                break
        self._producer.poll(0)

    def _signed(
        self, topic: str, key: bytes, headers: list[tuple[str, bytes]], value: bytes | None
    ) -> list[tuple[str, bytes]]:
        if self._signer is None:
            raise ValueError("a log without a signer only reads")
        return seal_derived(topic, key, headers, value or b"", self._signer)

    def _flush(self, record: CommitRecord, sent: _Deliveries) -> None:
        """Wait for all acknowledgements.

        Raises:
            BrokerUnavailableError: They did not come, or for a reason that may pass.
        """
        left, until = len(self._producer), time.monotonic() + _PATIENCE_S
        while left and time.monotonic() < until:
            before, left = left, self._producer.flush(1.0)
            if left < before:
                until = time.monotonic() + _PATIENCE_S
                self._progress()
        if left or sent.failed:
            raise BrokerUnavailableError(f"derived messages of {record.task}/{record.n}: {sent.failed[:1]}")

    def _read_originals(self, wanted: Iterable[Place]) -> Iterator[tuple[Place, RawMessage | None]]:
        """Originals by place, in few reads and a bounded number at a time; None: the log lost it."""
        for span in spans_of(wanted):
            left = {p for p in wanted if p[:2] == span[:2] and span.start <= p[2] < span.end}
            while left and span.start < span.end:
                try:
                    found, reached = self.read(*span)
                except OperatorError as exc:
                    first = max(self.log_range(span.topic, span.partition)[0], span.start + 1)
                    log.warning("originals before offset %d cannot be copied: %s", first, exc)
                    found, reached = [], first
                for message in found:
                    place = (message.topic, message.partition, message.offset)
                    if place in left:
                        left.remove(place)
                        yield place, message
                span = span._replace(start=reached)  # noqa: PLW2901  (what is left of it)
                self._progress()
            for place in sorted(left):
                yield place, None


class _Deliveries:
    """What became of the messages of one call.

    Attributes:
        refused: Why the broker will never take a message, by its index.
        failed: Errors that may pass.
    """

    def __init__(self) -> None:
        self.content: dict[int, Content] = {}
        self.refused: dict[int, str] = {}
        self.failed: list[str] = []

    def note(self, index: int, topic: str, error: ck.KafkaError | None) -> None:
        """Note the broker's answer."""
        if error is None:
            return
        code = error.code()
        if code in _NEVER or (code in _NOT_THERE and topic not in _OWN_TOPICS):
            self.refused[index] = str(error)
        else:
            self.failed.append(str(error))
