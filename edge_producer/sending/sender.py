"""The room's door to Kafka: an idempotent producer that survives outages of the broker.

``send`` takes sealed messages; ``poll`` returns what became of each: acknowledged, returned to be sent again,
or rejected: the broker does not take this message as it is, and others may go on. Nothing here is durable;
the spool is. The limits of the topics are asked at each connection: see ``topic_limits.py``.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer, ThrottleEvent

from edge_producer.certificate_files import BrokerCertificate, CertificateWatch
from edge_producer.clock import Clock
from edge_producer.sending.broker_problem import NOT_ALLOWED, broker_problem
from edge_producer.sending.delivery_attempts import Attempts, Rejection
from edge_producer.sending.topic_limits import TopicLimits
from schemas.envelope import SealedMessage
from schemas.topics import MAX_MESSAGE_BYTES, PROVISIONED_TOPICS

log = logging.getLogger(__name__)

_ALL_DOWN = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001  (the library's own name for it)
"""Said beside the reason why each one is."""
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_OF_THE_MESSAGE = _TOO_LARGE | {
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001  (the library's own names)
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
}
"""Errors of the message or of its topic, which others do not share. All else is of broker or network."""
BATCH_BYTES = 1_000_000
"""Most bytes of messages that travel together, where all topics take as much."""
RENEW_S = 10.0
"""Longest wait for messages in flight before smaller batches are made."""
BROKER_ALLOWANCE = 1.04
RETURN_DELAY_S = 1.0
REFUSED_S = 30.0
"""Pause after a broker has said that this device may not write."""


@dataclass
class DeliveryReports:
    """Ids of the messages that got a delivery report."""

    acked: list[int] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.acked or self.returned or self.rejected)

    def add(self, other: DeliveryReports) -> None:
        """Add later ones."""
        self.acked += other.acked
        self.returned += other.returned
        self.rejected += other.rejected


class Sender:
    """Sends sealed messages; used by one thread.

    Args:
        bootstrap_servers: ``host:port``, comma separated.
        namespace: Prefix of topic names.
        client_id: Name in the broker's logs.
        clock: Steady seconds.
        certificates: Give the device's certificate where the broker wants mutual TLS; None: it does not.

    Attributes:
        counts: ``messages_sent`` and ``bytes_sent`` (key, headers and value; a resend counts again),
            ``wire_bytes`` (what the sockets carried, protocol included), ``messages_returned``,
            ``messages_rejected``, ``connections_lost``, ``producers_failed``, ``throttled_ms`` (how long the
            broker made this client wait, which writes more than it may).
        limits: How large a message each topic takes, and whether the cloud reads them.
        broker_problem: Why the broker cannot be used over TLS; empty: nothing says so.
        ends: By topic and partition the offset behind the last message of ours that the broker acknowledged;
            -1: it did not say where one is.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        namespace: str,
        client_id: str,
        clock: Clock,
        certificates: CertificateWatch | None = None,
    ) -> None:
        self._config: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "client.id": client_id,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "partitioner": "murmur2",
            "linger.ms": 5,
            "batch.size": BATCH_BYTES,
            "message.max.bytes": int(MAX_MESSAGE_BYTES * BROKER_ALLOWANCE),
            "message.timeout.ms": 0,
            "reconnect.backoff.ms": 100,
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.refresh.interval.ms": 30_000,
            "socket.keepalive.enable": True,
            "statistics.interval.ms": 1000,
            "stats_cb": self._on_stats,
            "error_cb": self._on_error,
            "throttle_cb": self._on_throttle,
            "log_level": 0,  # it repeats what ``_on_error`` hears, a dozen lines a second
        }
        self._topics = {topic.base: topic.named(namespace) for topic in PROVISIONED_TOPICS}
        self._clock = clock
        self._producer: Producer | None = None
        self._generation = 0
        self._attempts = Attempts()
        self._outcomes = DeliveryReports()
        self._last_progress_s = clock()
        self._not_before_s = 0.0
        self._counted_tx_bytes = 0
        self._failed = self._refused = False
        self._refused_until_s = float("-inf")
        self._renew_by_s: float | None = None
        self._connects = 0
        self._certificates = certificates
        self._shown: BrokerCertificate | None = None
        self._said = {_ALL_DOWN}
        self.broker_problem = ""
        self.counts: Counter[str] = Counter()
        self.ends: dict[str, dict[int, int]] = {}
        self.limits = TopicLimits(bootstrap_servers, self._topics, clock)
        self.online = False
        self.connect()

    @property
    def in_flight(self) -> int:
        """Number of messages that were handed to Kafka and have no delivery report yet."""
        return len(self._attempts)

    @property
    def judging(self) -> int:
        """Number of messages that the broker refused, and of which it is not yet clear what that means."""
        return self._attempts.judging

    def stalled(self, patience_s: float) -> bool:
        """Whether nothing may be sent now, or messages in flight got no acknowledgement for so long.

        Nor may it be while the cloud cannot read what would be sealed: an acknowledgement would be the end of
        it. Sealed messages of an earlier release, and alerts, are sent all the same.
        """
        now = self._clock()
        if not self.online or not self.limits.known or now < self._not_before_s or self.limits.cloud_is_older:
            return True
        return bool(len(self._attempts)) and now - self._last_progress_s > patience_s

    def connect(self) -> None:
        """Start to use the network; without a certificate, where one is needed, a later call does."""
        if self._clock() < self._refused_until_s:
            return
        if self._producer is None and self._has_certificate():
            self._config["batch.size"] = min(BATCH_BYTES, self.limits.smallest)
            self._producer = Producer(self._config)
            self._generation += 1
            self._counted_tx_bytes = self._connects = 0
            self._last_progress_s = self._clock()
            self._renew_by_s = None
            self.online = True

    def _has_certificate(self) -> bool:
        """Take the newest certificate for the next connection; whether there is one, or none is needed."""
        if self._certificates is None:
            return True
        self._shown = self._certificates.current()
        if self._shown is None:
            self.broker_problem = self._certificates.problem
            return False
        self._config.update(self._shown.client_settings())
        self.limits.secure(self._shown.client_settings())
        return True

    @property
    def certificate_until(self) -> datetime | None:
        """End of the certificate that the broker is shown; None: it is shown none."""
        return None if self._shown is None else self._shown.until

    def disconnect(self) -> None:
        """Drop every connection at once; the next ``poll`` returns what was in flight.

        It may have arrived or not: it is sent again later, byte for byte, and the cloud drops duplicates.
        """
        producer, self._producer = self._producer, None
        if producer is None:
            return
        self._generation += 1
        self.online = False
        self.limits.drop()
        producer.purge(in_queue=True, in_flight=True, blocking=True)
        with suppress(KafkaException):  # a client that has failed for good says so again
            producer.poll(0)
        returned, rejected = self._attempts.drop()
        self._outcomes.returned += returned
        self._outcomes.rejected += rejected

    def send(self, id_: int, message: SealedMessage) -> bool:
        """Hand a message to Kafka; False where that is not possible now: try again later."""
        if self._producer is None or self._renew_by_s is not None:
            return False
        if not len(self._attempts):
            self._last_progress_s = self._clock()
        try:
            self._producer.produce(
                self._topics[message.topic],
                value=message.value,
                key=message.key,
                headers=list(message.headers),
                on_delivery=partial(self._on_delivery, id_, message.topic, self._generation),
            )
        except BufferError:
            return False
        except KafkaException as exc:
            return self._not_produced(id_, exc.args[0])
        self._attempts.hand_over(id_)
        self.counts["messages_sent"] += 1
        self.counts["bytes_sent"] += message.size
        return True

    def poll(self, timeout_s: float = 0.0) -> DeliveryReports:
        """Wait for delivery reports for at most ``timeout_s`` seconds, and return what came in."""
        if self._producer is not None:
            try:
                self._producer.poll(timeout_s)
            except KafkaException as exc:  # a log that was set back refuses this client for good
                self._on_error(exc.args[0])
            self._poll_limits()
        self._recover()
        outcomes, self._outcomes = self._outcomes, DeliveryReports()
        return outcomes

    def close(self) -> None:
        """Stop; the spool still holds what is in flight."""
        self.disconnect()

    def _poll_limits(self) -> None:
        """Take new limits, and make batches that fit: the client's own limit holds for all topics."""
        changed = self.limits.poll(reachable=self._connects > 0)
        if changed and self.limits.smallest < self._config["batch.size"]:
            self._renew_by_s = self._renew_by_s or self._clock() + RENEW_S
        if self._certificates is not None and self._certificates.current() not in (None, self._shown):
            # The client cannot take another certificate: another client can, once little is in flight.
            self._renew_by_s = self._renew_by_s or self._clock() + RENEW_S
        if self._renew_by_s is not None:
            busy = len(self._attempts) or self._attempts.judging
            if not busy or self._clock() >= self._renew_by_s:
                self._renew()

    def _renew(self) -> None:
        """Start another producer; what is asked of the broker meanwhile goes on."""
        known = self.limits.known
        self.disconnect()
        self.connect()
        self.limits.known = known

    def _not_produced(self, id_: int, error: KafkaError) -> bool:
        if error.code() in _OF_THE_MESSAGE:
            # The client itself refuses it: it has not left the device.
            self._reject(Rejection(id_, str(error), error.code() in _TOO_LARGE, True))
            return True
        log.warning("Kafka did not take a message: %s", error)
        self._not_before_s = self._clock() + RETURN_DELAY_S
        return False

    def _on_delivery(
        self, id_: int, topic: str, generation: int, error: KafkaError | None, message: Message
    ) -> None:
        if generation != self._generation:
            return  # of an earlier producer, whose messages were all returned when it was dropped
        if error is None:
            self.broker_problem = ""
            self._said = {_ALL_DOWN}
            self._attempts.end(id_)
            self._last_progress_s = self._clock()
            self._outcomes.acked.append(id_)
            self._note_end(topic, message)
        elif error.code() in _OF_THE_MESSAGE:
            self._last_progress_s = self._clock()
            self._attempts.refuse(id_, str(error), too_large=error.code() in _TOO_LARGE)
        else:
            self._attempts.end(id_)
            self.counts["messages_returned"] += 1
            self._not_before_s = self._clock() + RETURN_DELAY_S
            self._outcomes.returned.append(id_)

    def _note_end(self, topic: str, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        if partition is None:
            return
        known = self.ends.setdefault(topic, {})
        before = known.get(partition, 0)
        # A resend that the broker has already gets no offset: where the message is, is not known any more.
        known[partition] = -1 if offset is None or offset < 0 or before < 0 else max(before, offset + 1)

    def _reject(self, rejection: Rejection) -> None:
        self.counts["messages_rejected"] += 1
        if rejection.too_large:
            self.limits.ask_again()
        self._outcomes.rejected.append(rejection)

    def _recover(self) -> None:
        """Start another producer after a fatal error, which breaks the sequence of an idempotent one."""
        if self._producer is not None and self._failed:
            self._failed = False
            if self._refused:
                # What the broker does not allow now it will hardly allow at once.
                self._refused, self._refused_until_s = False, self._clock() + REFUSED_S
                self.disconnect()
                return
            log.warning("the Kafka producer failed for good; starting another and sending again")
            self.disconnect()
            self.connect()
            self._not_before_s = self._clock() + RETURN_DELAY_S

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.counts["producers_failed"] += 1
            self._failed, self._refused = True, error.code() in NOT_ALLOWED
        elif error.code() == _ALL_DOWN:
            self.counts["connections_lost"] += 1
        self._attempts.disturbed()
        servers = self._config["bootstrap.servers"]
        problem = broker_problem(error, servers, self.certificate_until, datetime.now(UTC))
        if problem and problem != self.broker_problem:
            log.error("%s", problem)
            self.broker_problem = problem
        elif not problem and error.code() not in self._said:
            self._said.add(error.code())
            log.warning("the broker at %s: %s; rows wait in the spool", servers, error.str())

    def _on_throttle(self, event: ThrottleEvent) -> None:
        self.counts["throttled_ms"] += round(event.throttle_time * 1000)

    def _on_stats(self, text: str) -> None:
        stats = json.loads(text)
        sent = int(stats.get("tx_bytes", 0))
        self.counts["wire_bytes"] += max(sent - self._counted_tx_bytes, 0)
        self._counted_tx_bytes = sent
        # Without those that are only addresses to begin with: no message goes there.
        brokers = [b for b in stats.get("brokers", {}).values() if int(b.get("nodeid", -1)) >= 0]
        connects = sum(int(b.get("connects", 0)) for b in brokers)
        if connects > self._connects:
            self._connects = connects
            self.limits.ask_again()
        names = ("disconnects", "req_timeouts", "txretries", "txerrs", "rxerrs")
        for rejection in self._attempts.report(sum(int(b.get(name, 0)) for b in brokers for name in names)):
            self._reject(rejection)
