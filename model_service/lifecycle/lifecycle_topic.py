"""The door to Kafka: sends lifecycle events to ``lifecycle.v1`` at least once, never waiting for a broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import confluent_kafka as ck

from schemas.derived_seal import seal_derived
from schemas.envelope import MessageSigner
from schemas.topics import LIFECYCLE

log = logging.getLogger(__name__)

_CLOSE_S = 3.0
_RETRY_S = 5.0


class LifecycleTopic:
    """Sends events, and returns later which of them the broker has confirmed.

    Args:
        bootstrap_servers: Addresses of the cluster.
        namespace: Prefix of the topic.
        signer: Key that signs the events.
        monotonic: Seconds; clock of the back-off.

    Attributes:
        failures: Deliveries that the broker did not confirm in time.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        namespace: str,
        signer: MessageSigner,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = LIFECYCLE.named(namespace)
        self._signer = signer
        self._monotonic = monotonic
        self._in_flight: set[str] = set()
        self._confirmed: set[str] = set()
        self._retry_at = 0.0
        self._failing = False
        self.failures = 0
        self._producer = ck.Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "partitioner": "murmur2",
                "linger.ms": 5,
                "message.timeout.ms": 30_000,
                "log_level": 0,  # it would repeat itself while the broker is away; `_failed` logs that once
            }
        )

    def send(self, event_id: str, key: str, value: bytes) -> None:
        """Send an event, unless it is in flight already, or the last failure is too recent."""
        if event_id in self._in_flight or event_id in self._confirmed or self._monotonic() < self._retry_at:
            return
        headers = [("event_id", event_id.encode())]
        try:
            self._producer.produce(
                self._topic,
                key=key.encode(),
                value=value,
                headers=seal_derived(LIFECYCLE.base, key.encode(), headers, value, self._signer),
                on_delivery=lambda error, _message: self._delivered(event_id, error),
            )
        except BufferError:
            self._failed("the client's own queue is full")  # the broker has been away for long
            return
        self._in_flight.add(event_id)

    def confirmed(self) -> set[str]:
        """Ids of the events that the broker has confirmed since the last call."""
        self._producer.poll(0)
        found, self._confirmed = self._confirmed, set()
        return found

    def close(self) -> None:
        """Wait a short time for events in flight, and close."""
        self._producer.flush(_CLOSE_S)

    def _delivered(self, event_id: str, error: object) -> None:
        self._in_flight.discard(event_id)
        if error is None:
            self._failing = False
            self._confirmed.add(event_id)
        else:
            self._failed(str(error))

    def _failed(self, reason: str) -> None:
        if not self._failing:
            log.warning("lifecycle events do not reach %s and wait: %s", self._topic, reason)
        self._failing = True
        self.failures += 1
        self._retry_at = self._monotonic() + _RETRY_S
