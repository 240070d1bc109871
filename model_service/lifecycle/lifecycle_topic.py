"""The door to Kafka: lifecycle events onto ``lifecycle.v1``, at least once, never waiting for a broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import confluent_kafka as ck

from schemas.topics import LIFECYCLE

log = logging.getLogger(__name__)

_CLOSE_S = 3.0
_RETRY_S = 5.0


class LifecycleTopic:
    """Hands events to the broker and learns later which arrived.

    Args:
        bootstrap_servers: The cluster.
        namespace: Prefix of the topic.
        monotonic: Clock of the back-off.

    Attributes:
        failures: Deliveries that the broker did not confirm in time.
    """

    def __init__(
        self, bootstrap_servers: str, namespace: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._topic = LIFECYCLE.named(namespace)
        self._monotonic = monotonic
        self._flying: set[str] = set()
        self._arrived: set[str] = set()
        self._again_at = 0.0
        self._away = False
        self.failures = 0
        self._producer = ck.Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "partitioner": "murmur2",
                "linger.ms": 5,
                "message.timeout.ms": 30_000,
                "log_level": 0,  # it repeats itself while the broker is away: we say so once
            }
        )

    def offer(self, event_id: str, key: str, value: bytes) -> None:
        """Send an event, unless it is under way, or the last failure is too recent."""
        if event_id in self._flying or event_id in self._arrived or self._monotonic() < self._again_at:
            return
        try:
            self._producer.produce(
                self._topic,
                key=key.encode(),
                value=value,
                headers=[("event_id", event_id.encode())],
                on_delivery=lambda error, _message: self._delivered(event_id, error),
            )
        except BufferError:
            self._failed("the client's own queue is full")  # the broker has been away for long
            return
        self._flying.add(event_id)

    def arrived(self) -> set[str]:
        """Events that the broker has confirmed since the last call."""
        self._producer.poll(0)
        found, self._arrived = self._arrived, set()
        return found

    def close(self) -> None:
        """Give what is under way a short while."""
        self._producer.flush(_CLOSE_S)

    def _delivered(self, event_id: str, error: object) -> None:
        self._flying.discard(event_id)
        if error is None:
            self._away = False
            self._arrived.add(event_id)
        else:
            self._failed(str(error))

    def _failed(self, why: str) -> None:
        if not self._away:
            log.warning("lifecycle events do not reach %s, they wait: %s", self._topic, why)
        self._away = True
        self.failures += 1
        self._again_at = self._monotonic() + _RETRY_S
