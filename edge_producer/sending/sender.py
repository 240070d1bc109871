"""The room's only door to Kafka: an idempotent producer that survives outages of the broker.

``send`` takes sealed messages; ``poll`` returns what became of each: acknowledged, refused for good, or
returned to be sent again. Nothing here is durable; the spool is.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from edge_producer.clock import Clock
from schemas.envelope import SealedMessage
from schemas.topics import ALL_TOPICS, MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

_PERMANENT = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
    }
)
"""Errors of the message itself: no retry can help. All others are errors of the broker or the network."""
BROKER_ALLOWANCE = 1.04
RETURN_DELAY_S = 1.0


@dataclass
class DeliveryReports:
    """Ids of the messages that got a delivery report."""

    acked: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.acked or self.refused or self.returned)


class Sender:
    """Sends sealed messages; used by one thread.

    Args:
        bootstrap_servers: ``host:port``, comma separated.
        namespace: Prefix of topic names.
        client_id: Name in the broker's logs.
        clock: Steady seconds.

    Attributes:
        counts: ``messages_sent`` and ``bytes_sent`` (key, headers and value; a resend counts again),
            ``wire_bytes`` (what the sockets carried, protocol included), ``messages_returned``,
            ``messages_refused``, ``connections_lost``, ``producers_failed``.
    """

    def __init__(self, bootstrap_servers: str, namespace: str, client_id: str, clock: Clock) -> None:
        self._config = {
            "bootstrap.servers": bootstrap_servers,
            "client.id": client_id,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "partitioner": "murmur2",
            "linger.ms": 5,
            "message.max.bytes": int(MAX_MESSAGE_BYTES * BROKER_ALLOWANCE),
            "message.timeout.ms": 0,
            "reconnect.backoff.ms": 100,
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.refresh.interval.ms": 30_000,
            "socket.keepalive.enable": True,
            "statistics.interval.ms": 1000,
            "stats_cb": self._on_stats,
            "error_cb": self._on_error,
            "logger": logging.getLogger(f"{__name__}.librdkafka"),
        }
        self._topics = {topic.base: topic.named(namespace) for topic in ALL_TOPICS}
        self._clock = clock
        self._producer: Producer | None = None
        self._generation = 0
        self._in_flight: set[int] = set()
        self._outcomes = DeliveryReports()
        self._last_progress_s = clock()
        self._not_before_s = 0.0
        self._counted_tx_bytes = 0
        self._failed = False
        self.counts: Counter[str] = Counter()
        self.online = False
        self.connect()

    @property
    def in_flight(self) -> int:
        """Number of messages that were handed to Kafka and have no delivery report yet."""
        return len(self._in_flight)

    def stalled(self, patience_s: float) -> bool:
        """Whether nothing may be sent now, or messages in flight got no acknowledgement for so long."""
        now = self._clock()
        if not self.online or now < self._not_before_s:
            return True
        return bool(self._in_flight) and now - self._last_progress_s > patience_s

    def connect(self) -> None:
        """Start to use the network."""
        if self._producer is None:
            self._producer = Producer(self._config)
            self._generation += 1
            self._counted_tx_bytes = 0
            self._last_progress_s = self._clock()
            self.online = True

    def disconnect(self) -> None:
        """Drop every connection at once; the next ``poll`` returns what was in flight.

        It may have arrived or not: it is sent again later, byte for byte, and the cloud drops duplicates.
        """
        producer, self._producer = self._producer, None
        if producer is None:
            return
        self._generation += 1
        self.online = False
        producer.purge(in_queue=True, in_flight=True, blocking=True)
        producer.poll(0)
        self._outcomes.returned += sorted(self._in_flight)
        self._in_flight.clear()

    def send(self, id_: int, message: SealedMessage) -> bool:
        """Hand a message to Kafka; False where that is not possible now: try again later."""
        if self._producer is None:
            return False
        if not self._in_flight:
            self._last_progress_s = self._clock()
        try:
            self._producer.produce(
                self._topics[message.topic],
                value=message.value,
                key=message.key,
                headers=list(message.headers),
                on_delivery=partial(self._on_delivery, id_, self._generation),
            )
        except BufferError:
            return False
        except KafkaException as exc:
            return self._not_produced(id_, exc.args[0])
        self._in_flight.add(id_)
        self.counts["messages_sent"] += 1
        self.counts["bytes_sent"] += message.size
        return True

    def poll(self, timeout_s: float = 0.0) -> DeliveryReports:
        """Wait for delivery reports for at most ``timeout_s`` seconds, and return what came in."""
        if self._producer is not None:
            self._producer.poll(timeout_s)
        self._recover()
        outcomes, self._outcomes = self._outcomes, DeliveryReports()
        return outcomes

    def close(self) -> None:
        """Stop; the spool still holds what is in flight."""
        self.disconnect()

    def _not_produced(self, id_: int, error: KafkaError) -> bool:
        if error.code() in _PERMANENT:
            self._refuse(id_, error)
            return True
        log.warning("Kafka did not take a message: %s", error)
        self._not_before_s = self._clock() + RETURN_DELAY_S
        return False

    def _on_delivery(self, id_: int, generation: int, error: KafkaError | None, _message: Message) -> None:
        if generation != self._generation:
            return  # of an earlier producer, whose messages were all returned when it was dropped
        self._in_flight.discard(id_)
        if error is None:
            self._last_progress_s = self._clock()
            self._outcomes.acked.append(id_)
        elif error.code() in _PERMANENT:
            self._refuse(id_, error)
        else:
            self.counts["messages_returned"] += 1
            self._not_before_s = self._clock() + RETURN_DELAY_S
            self._outcomes.returned.append(id_)

    def _refuse(self, id_: int, error: KafkaError) -> None:
        log.error("the broker refuses a message for good: %s", error)
        self.counts["messages_refused"] += 1
        self._outcomes.refused.append(id_)

    def _recover(self) -> None:
        """Start another producer after a fatal error, which breaks the sequence of an idempotent one."""
        if self._producer is not None and self._failed:
            self._failed = False
            log.warning("the Kafka producer failed for good; starting another and sending again")
            self.disconnect()
            self.connect()
            self._not_before_s = self._clock() + RETURN_DELAY_S

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.counts["producers_failed"] += 1
            self._failed = True
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001  (the library's own name for it)
            self.counts["connections_lost"] += 1
        log.info("Kafka: %s", error)

    def _on_stats(self, text: str) -> None:
        sent = int(json.loads(text).get("tx_bytes", 0))
        self.counts["wire_bytes"] += max(sent - self._counted_tx_bytes, 0)
        self._counted_tx_bytes = sent
