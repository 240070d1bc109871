"""What the broker says about the cloud: how large a message each topic takes, and which messages it reads.

Sizes are counted as the broker counts them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from edge_producer.clock import Clock
from schemas.envelope import SealedMessage
from schemas.topics import DEVICE_TOPICS, MAX_MESSAGE_BYTES, WIRE_READ

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 10.0
PATIENCE_S = 20.0
"""How long to wait for a first answer before messages are sealed up to ``MAX_MESSAGE_BYTES``."""
ASK_EVERY_S, ASK_SOON_S = 300.0, 15.0
"""Time between two questions: usually, and while a message is too large or the cloud reads none."""
_BATCH = 61
"""Bytes of a record batch before its records (Kafka's message format, version 2)."""
_TRANSIENT = frozenset(
    {
        KafkaError._TIMED_OUT,  # noqa: SLF001  (the library's own names)
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.LEADER_NOT_AVAILABLE,
    }
)
_ABSENT = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})  # noqa: SLF001


def wire_size(message: SealedMessage) -> int:
    """Bytes of the message as the broker holds them against ``max.message.bytes``: a batch of its own.

    Compression, which makes a batch smaller if anything, is left out.
    """
    fields = _varint(len(message.key)) + len(message.key) + _varint(len(message.value)) + len(message.value)
    headers = sum(_varint(len(k)) + len(k) + _varint(len(v)) + len(v) for k, v in message.headers)
    record = 1 + _varint(0) + _varint(0) + fields + _varint(len(message.headers)) + headers
    return _BATCH + _varint(record) + record


def _varint(n: int) -> int:
    """Bytes of a length as Kafka writes it: seven bits a byte, after one for the sign."""
    return max((n.bit_length() + 1 + 6) // 7, 1)


class TopicLimits:
    """The limit of each device topic, and whether the cloud is new enough. Asks in the background.

    Nothing here ever waits.

    Args:
        bootstrap_servers: ``host:port``, comma separated.
        topics: Full name by base name.
        clock: Steady seconds.

    Attributes:
        known: The broker has answered, or does not want to: what is sealed now fits as far as can be known.
        answers: How often it has.
        cloud_is_older: The cloud does not read what this release seals, so nothing should be sealed. False
            where the broker does not say.
    """

    def __init__(self, bootstrap_servers: str, topics: Mapping[str, str], clock: Clock) -> None:
        self._config: dict[str, Any] = {
            "bootstrap.servers": bootstrap_servers,
            "client.id": "edge-limits",
            "log_level": 0,  # the producer says the same
            "reconnect.backoff.max.ms": 1000,
        }
        self._names = {topic.base: topics[topic.base] for topic in DEVICE_TOPICS}
        self._wire_read = topics[WIRE_READ.base]
        self._clock = clock
        self._limits = dict.fromkeys(self._names, MAX_MESSAGE_BYTES)
        self._client: AdminClient | None = None
        self._asked: dict[str, Future[Any]] = {}
        self._asking_since_s: float | None = None
        self._due_s = float("-inf")
        self._again = False
        self._told: set[str] = set()
        self.known = False
        self.answers = 0
        self.cloud_is_older = False

    def secure(self, client_settings: Mapping[str, str]) -> None:
        """Ask over connections with these settings from the next question on."""
        self._config.update(client_settings)

    @property
    def why_wait(self) -> str:
        """Why nothing should be sealed, in one line; empty: it may be."""
        if not self.cloud_is_older:
            return ""
        return (
            f"the cloud is of an earlier release, and cannot read what this device sends (no topic "
            f"{self._wire_read}): it waits in the spool. Bring the cloud to this release first"
        )

    def limit(self, topic: str) -> int:
        """Largest message on a topic, by its base name; never above what the project allows."""
        return min(self._limits.get(topic, MAX_MESSAGE_BYTES), MAX_MESSAGE_BYTES)

    @property
    def smallest(self) -> int:
        """The limit of the topic that takes least."""
        return min(self.limit(topic) for topic in self._names)

    def is_assumed(self, topic: str) -> bool:
        """Whether the limit is a guess, because the broker does not say: then only a try can tell."""
        return topic not in self._told

    def ask_again(self, within_s: float = 0.0) -> None:
        """Have the broker asked, if not sooner: it may have been set anew."""
        self._due_s = min(self._due_s, self._clock() + within_s)
        self._again = True

    def refused(self, topic: str, size: int) -> None:
        """Take note that a message of this size was too large, where the broker does not say what is not."""
        if topic not in self._told and size <= self.limit(topic):
            self._limits[topic] = max(size // 2, 1)

    def taken(self, topic: str, size: int) -> None:
        """Take note that a message of this size was taken although the limit was assumed to be smaller."""
        if topic not in self._told and size > self.limit(topic):
            self._limits[topic] = size

    def poll(self, *, reachable: bool) -> bool:
        """Ask if that is due, and take what was answered; whether a limit has changed.

        Args:
            reachable: The broker answers other questions. Until it does, nothing has to be sealed.
        """
        now_s = self._clock()
        if not reachable and self._asking_since_s is not None:
            self._asking_since_s = now_s
        if self._asking_since_s is None and now_s >= self._due_s:
            self._ask(now_s)
        if self._asked and all(future.done() for future in self._asked.values()):
            return self._take(now_s)
        if self._asking_since_s is not None and now_s - self._asking_since_s >= PATIENCE_S:
            self.known = True
        return False

    def drop(self) -> None:
        """Drop the connection; the limits are asked again at the next, because they may have shrunk."""
        self._client, self._asked, self._asking_since_s = None, {}, None
        self._due_s = float("-inf")
        self.known = False

    def _ask(self, now_s: float) -> None:
        self._asking_since_s, self._again = now_s, False
        self._send()

    def _send(self) -> None:
        names = {**self._names, WIRE_READ.base: self._wire_read}
        resources = {b: ConfigResource(ResourceType.TOPIC, name) for b, name in names.items()}
        try:
            self._client = self._client or AdminClient(self._config)
            answers = self._client.describe_configs(list(resources.values()), request_timeout=ASK_TIMEOUT_S)
        except (KafkaException, ValueError) as exc:
            log.warning("the broker cannot be asked for its limits: %s", exc)
            self._end(self._clock(), ASK_EVERY_S)
            return
        self._asked = {base: answers[resource] for base, resource in resources.items()}

    def _take(self, now_s: float) -> bool:
        answers, self._asked = self._asked, {}
        before, away = dict(self._limits), False
        wire = answers.pop(WIRE_READ.base).exception()
        for base, future in answers.items():
            error = future.exception()
            if error is None:
                self._limits[base] = int(future.result()["max.message.bytes"].value)
                self._told.add(base)
            elif _code(error) in _TRANSIENT:
                away = True
            elif not self.known:
                log.warning("the limit of %s is not known: %s", self._names[base], error)
        if away or (wire is not None and _code(wire) in _TRANSIENT):
            self._send()
            return False
        self._note_wire(wire)
        self._end(now_s, ASK_SOON_S if self.cloud_is_older else ASK_EVERY_S)
        if self._limits != before:
            small = {b: n for b, n in self._limits.items() if n < MAX_MESSAGE_BYTES}
            log.warning("topics take messages of at most %s bytes", small or MAX_MESSAGE_BYTES)
        return self._limits != before

    def _note_wire(self, error: BaseException | None) -> None:
        before = self.cloud_is_older
        self.cloud_is_older = error is not None and _code(error) in _ABSENT
        if self.cloud_is_older and not before:
            log.warning("%s", self.why_wait)
        elif before and not self.cloud_is_older:
            log.warning("the cloud reads what this device sends by now; what waited leaves")

    def _end(self, now_s: float, again_s: float) -> None:
        self._client, self._asking_since_s = None, None
        self._due_s = now_s + (ASK_SOON_S if self._again else again_s)
        self.known = True
        self.answers += 1


def _code(error: BaseException) -> int | None:
    if isinstance(error, KafkaException) and error.args and isinstance(error.args[0], KafkaError):
        return int(error.args[0].code())
    return None
