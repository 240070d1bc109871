"""This room's only Kafka client: topics, offsets, a few messages."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from infra.kafka.device_acls import BrokerRule
from infra.kafka.kafka_config import NODE_ID
from schemas.errors import BrokerUnavailableError, StackError
from schemas.topics import PROVISIONED_TOPICS, Topic

if TYPE_CHECKING:
    from schemas.envelope import Headers  # it brings pyarrow, which `edgeloop doctor` does not need

_CLIENT_LOG = logging.getLogger(f"{__name__}.librdkafka")
_RETRY_S = 0.5
_POLL_S = 0.05


class OffsetSpan(NamedTuple):
    """Offsets of a partition: ``low`` is the first kept, ``end`` the next to be written."""

    low: int
    end: int


class LogMessage(NamedTuple):
    """One message as the broker keeps it.

    Attributes:
        topic: Full name.
        partition: Its partition.
        offset: Its offset.
        at: Timestamp of the broker (or of the producer, as the topic says), UTC.
        key: Bytes of the key.
        headers: In their order.
        value: Bytes of the value; None: a tombstone.
    """

    topic: str
    partition: int
    offset: int
    at: datetime
    key: bytes | None
    headers: Headers
    value: bytes | None


Poll = Callable[[float], LogMessage | None]
"""The newest message within so many seconds; None: none came."""

_TRANSIENT = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,  # as above, just after a topic was made
        KafkaError.UNKNOWN_TOPIC_OR_PART,  # metadata of a new topic spreads late
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)
"""Errors that pass by themselves; `KafkaError.retriable()` is false for those of admin requests."""


def _is_transient(error: KafkaError) -> bool:
    return bool(error.retriable() or error.code() in _TRANSIENT)


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as exc:
        error: KafkaError = exc.args[0]
        kind = BrokerUnavailableError if _is_transient(error) else StackError
        raise kind(f"{doing}: {error.str()}") from exc


class KafkaAdmin:
    """Administers one cluster.

    Args:
        bootstrap_servers: ``host:port[,host:port]``.
        timeout_s: Longest wait of one request.
    """

    def __init__(self, bootstrap_servers: str, timeout_s: float = 10.0) -> None:
        self.bootstrap_servers = bootstrap_servers
        self._timeout_s = timeout_s
        self._base = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
        self._admin = AdminClient(dict(self._base), logger=_CLIENT_LOG)

    def wait_ready(self, timeout_s: float) -> None:
        """Return once the cluster has a controller and serves metadata.

        Raises:
            BrokerUnavailableError: Not within ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with _translated(f"broker {self.bootstrap_servers} is not ready"):
                    if self._admin.list_topics(timeout=min(2.0, timeout_s)).brokers:
                        return
            except BrokerUnavailableError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise BrokerUnavailableError(f"no broker at {self.bootstrap_servers}")
            time.sleep(_RETRY_S)

    def topics(self) -> dict[str, int]:
        """Partition count per topic, internal topics left out."""
        with _translated("cannot list topics"):
            found = self._admin.list_topics(timeout=self._timeout_s).topics
        return {n: len(t.partitions) for n, t in sorted(found.items()) if not n.startswith("__")}

    def create_topics(self, namespace: str = "", topics: Sequence[Topic] = PROVISIONED_TOPICS) -> list[str]:
        """Create the topics that do not exist yet; returns their full names.

        Raises:
            StackError: A topic exists with another number of partitions.
            BrokerUnavailableError: No answer; calling again is safe.
        """
        existing = self.topics()
        for topic in topics:
            have = existing.get(topic.named(namespace), topic.partitions)
            if have != topic.partitions:
                raise StackError(
                    f"topic {topic.named(namespace)} has {have} partitions, this version needs "
                    f"{topic.partitions}: use another EDGELOOP_NAMESPACE, or delete the topic and its tables"
                )
        missing = [t for t in topics if t.named(namespace) not in existing]
        new = [NewTopic(t.named(namespace), t.partitions, -1, config=dict(t.config)) for t in missing]
        if new:
            self._create(new)
        return [t.topic for t in new]

    def _create(self, new: list[NewTopic]) -> None:
        futures = self._admin.create_topics(new, request_timeout=self._timeout_s)
        for name, future in futures.items():
            with _translated(f"cannot create topic {name}"):
                try:
                    future.result()
                except KafkaException as exc:
                    if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                        raise
        self._await_served([t.topic for t in new])

    def _await_served(self, names: Sequence[str]) -> None:
        """Wait for the new topics' partitions: they are served a moment later; clients fail until then."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                if {topic for topic, _ in self.spans(names)} == set(names):
                    return
            except BrokerUnavailableError:
                if time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise BrokerUnavailableError(f"topics are not served after {self._timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete topics; unknown names are ignored."""
        if not names:
            return
        for name, future in self._admin.delete_topics(list(names)).items():
            with _translated(f"cannot delete topic {name}"):
                try:
                    future.result()
                except KafkaException as exc:
                    if exc.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise

    def add_access(self, rules: Sequence[BrokerRule]) -> None:
        """Add entries to the broker's access list; those that it has already change nothing.

        Raises:
            BrokerUnavailableError: No answer; calling again is safe.
            StackError: The broker keeps no access list.
        """
        bindings = [_binding(rule) for rule in rules]
        for future in self._admin.create_acls(bindings, request_timeout=self._timeout_s).values():
            with _translated("cannot set what devices may do"):
                future.result()

    def set_broker(self, settings: Mapping[str, str]) -> None:
        """Set the local broker's settings while it runs; a file that is named anew is read anew.

        Raises:
            BrokerUnavailableError: No answer; calling again is safe.
            StackError: The broker refuses them, or cannot read the file.
        """
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in settings.items()
        ]
        resource = ConfigResource(ResourceType.BROKER, NODE_ID, incremental_configs=entries)
        done = self._admin.incremental_alter_configs([resource], request_timeout=self._timeout_s)
        for future in done.values():
            with _translated("cannot set the broker's certificate"):
                future.result()

    def spans(self, names: Sequence[str]) -> dict[tuple[str, int], OffsetSpan]:
        """First kept and next offset of every partition of the topics; unknown topics are left out."""
        counts = self.topics()
        parts = [TopicPartition(n, p) for n in names for p in range(counts.get(n, 0))]
        if not parts:
            return {}
        low = self._offsets(parts, OffsetSpec.earliest())
        end = self._offsets(parts, OffsetSpec.latest())
        return {key: OffsetSpan(low[key], end[key]) for key in low}

    def end_offsets(self, names: Sequence[str]) -> dict[tuple[str, int], int]:
        """Next offset to be written, per (topic, partition)."""
        return {key: span.end for key, span in self.spans(names).items()}

    def _offsets(self, parts: Sequence[TopicPartition], spec: OffsetSpec) -> dict[tuple[str, int], int]:
        """Offsets by partition; retries while a broker that has just started is not ready."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._offsets_once(parts, spec)
            except BrokerUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)

    def _offsets_once(self, parts: Sequence[TopicPartition], spec: OffsetSpec) -> dict[tuple[str, int], int]:
        with _translated("cannot read offsets"):
            futures = self._admin.list_offsets(dict.fromkeys(parts, spec), request_timeout=self._timeout_s)
            return {(p.topic, p.partition): f.result().offset for p, f in futures.items()}

    def send(self, topic: str, key: bytes | None, headers: Headers, value: bytes | None) -> None:
        """Write one message and wait for the broker's acknowledgement.

        Raises:
            BrokerUnavailableError: No acknowledgement in time.
        """
        self.send_all(topic, [(key, headers, value)])

    def send_all(self, topic: str, messages: Iterable[tuple[bytes | None, Headers, bytes | None]]) -> None:
        """Write messages in order and wait until the broker acknowledged all of them.

        Raises:
            BrokerUnavailableError: Not all were acknowledged in time; some may have been written.
        """
        failures: list[KafkaError] = []
        producer = Producer(
            {**self._base, "acks": "all", "partitioner": "murmur2_random"}, logger=_CLIENT_LOG
        )
        with _translated(f"cannot write to {topic}"):
            for key, headers, value in messages:
                producer.produce(
                    topic,
                    value,
                    key,
                    headers=headers,
                    on_delivery=lambda error, _: failures.append(error) if error else None,
                )
                producer.poll(0)
            left = producer.flush(self._timeout_s)
        if failures or left:
            reason = failures[0].str() if failures else "no acknowledgement"
            raise BrokerUnavailableError(f"cannot write to {topic}: {reason}")

    def read(self, spans: dict[tuple[str, int], OffsetSpan]) -> Iterator[LogMessage]:
        """Messages of the given spans, each partition in order, ending at the spans' ends."""
        todo = {k: s for k, s in spans.items() if s.end > s.low}
        with self._reader({k: s.low for k, s in todo.items()}) as poll:
            idle = 0
            while todo and idle * _RETRY_S < self._timeout_s:
                message = poll(_RETRY_S)
                idle = 0 if message else idle + 1
                if message is None:
                    continue
                key = (message.topic, message.partition)
                if key in todo and message.offset < todo[key].end:
                    yield message
                if key in todo and message.offset + 1 >= todo[key].end:
                    del todo[key]

    def follow(self, starts: dict[tuple[str, int], int]) -> Iterator[LogMessage | None]:
        """Messages from the given offsets on, for ever; None after each half second of silence."""
        with self._reader(starts) as poll:
            while True:
                yield poll(_RETRY_S)

    @contextlib.contextmanager
    def _reader(self, starts: dict[tuple[str, int], int]) -> Iterator[Poll]:
        settings = {
            **self._base,
            "group.id": "edgeloop-reader",  # librdkafka requires one; nothing is committed under it
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
        consumer = Consumer(settings, logger=_CLIENT_LOG)
        try:
            parts = [TopicPartition(t, p, o if o >= 0 else OFFSET_BEGINNING) for (t, p), o in starts.items()]
            consumer.assign(parts)
            yield lambda timeout_s: _read_one(consumer, timeout_s)
        finally:
            consumer.close()


def _binding(rule: BrokerRule) -> AclBinding:
    return AclBinding(
        ResourceType[rule.kind],
        rule.name,
        ResourcePatternType.PREFIXED if rule.prefixed else ResourcePatternType.LITERAL,
        f"User:{rule.principal}",
        "*",
        AclOperation[rule.operation],
        AclPermissionType.ALLOW if rule.allow else AclPermissionType.DENY,
    )


def _read_one(consumer: Consumer, timeout_s: float) -> LogMessage | None:
    raw = consumer.poll(timeout_s)
    if raw is None:
        return None
    if raw.error() is not None:
        if _is_transient(raw.error()):
            return None
        raise StackError(f"cannot read {raw.topic()}: {raw.error().str()}")
    at = datetime.fromtimestamp(raw.timestamp()[1] / 1000, UTC)
    return LogMessage(raw.topic(), raw.partition(), raw.offset(), at, raw.key(), _headers(raw), raw.value())


def _headers(raw: Message) -> Headers:
    """The headers; none where a name is no UTF-8, which the client cannot show: anybody may send one."""
    try:
        return list(raw.headers() or ())
    except (SystemError, UnicodeDecodeError):
        return []
