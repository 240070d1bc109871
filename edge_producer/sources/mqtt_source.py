"""Samples from an MQTT broker. The one door to paho-mqtt, which the extra ``[mqtt]`` installs."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_producer.sources.fair_inbox import FairInbox
from edge_producer.sources.mqtt_address import MqttAddress, Route
from edge_producer.sources.payloads import PayloadReader
from edge_producer.sources.samples import Sample
from edge_producer.sources.source_access import SourceAccess
from schemas.errors import SourceLostError
from schemas.profile import Profile

PROTOCOLS = {"3.1.1": MQTTProtocolVersion.MQTTv311, "5": MQTTProtocolVersion.MQTTv5}
INBOX_MESSAGES, INBOX_BYTES = 10_000, 8 * 1024**2
"""What may wait to be read; beyond it the oldest messages of whatever has most are dropped, and counted."""
_TOPICS = 4096
"""Topics of which it is remembered whose they are."""
CONNECT_TIMEOUT_S = 10.0


class _Received(NamedTuple):
    topic: str
    payload: bytes
    retained: bool


class MqttSource:
    """One connection to a broker.

    It does not ask for what was sent while it was away: that would be late. A retained message without a time
    of its own says what was once, not what is: it is not used.

    Args:
        address: The broker, and how it is spoken to.
        routes: What is subscribed to.
        profile: Channels and ``[source]``.
        access: Credentials.
        name: Part of the client id.

    Raises:
        SourceError: The profile's time zone is unknown.
        SourceLostError: A file of credentials cannot be read.
    """

    def __init__(
        self,
        address: MqttAddress,
        routes: Sequence[Route],
        profile: Profile,
        access: SourceAccess,
        name: str = "edge",
    ) -> None:
        self._address = address
        self._routes = routes
        self._stamped = bool(profile.source.time_field)
        self._reader = PayloadReader(profile)
        self._counts: Counter[str] = Counter(subscribed=0, overrun=0, retained=0, unrouted=0)
        self._inbox: FairInbox[_Received] = FairInbox(INBOX_MESSAGES, INBOX_BYTES)
        self._senders: dict[str, Hashable] = {}
        self._changed = threading.Condition()
        self._lost = ""
        self._closed = False
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=address.client_id or f"edgeloop-{name}-{secrets.token_hex(4)}",
            protocol=PROTOCOLS[address.version],
            reconnect_on_failure=False,  # another connection is another source, with a wait of ours
        )
        self._client.connect_timeout = CONNECT_TIMEOUT_S
        if access.username:
            self._client.username_pw_set(access.username, access.password())
        if address.secure:
            self._client.tls_set_context(access.tls())
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_disconnect = self._on_disconnect

    @property
    def counts(self) -> Mapping[str, int]:
        """As ``PayloadReader.counts``; ``subscribed``: connections on which the broker took the topics.

        ``overrun``: dropped unread; ``retained`` and ``unrouted``: not used.
        """
        with self._changed:
            return {**self._reader.counts, **self._counts}

    def close(self) -> None:
        """Let ``samples`` end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def samples(self) -> Iterator[Sample]:
        """Samples of the messages, as they come.

        Raises:
            SourceLostError: The broker cannot be reached, refuses the device, or was lost.
        """
        try:
            self._client.connect(self._address.host, self._address.port, self._address.keepalive_s)
        except (OSError, ValueError) as exc:
            raise SourceLostError(f"{self._address.shown}: {exc}") from exc
        self._client.loop_start()
        try:
            while (received := self._next()) is not None:
                yield from self._read(received)
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def _next(self) -> _Received | None:
        with self._changed:
            self._changed.wait_for(lambda: self._inbox or self._lost or self._closed)
            if self._closed:
                return None
            if self._inbox:
                return self._inbox.get()
            raise SourceLostError(f"{self._address.shown}: {self._lost}")

    def _read(self, received: _Received) -> list[Sample]:
        if received.retained and not self._stamped:
            self._count("retained")
            return []
        found = [route for route in self._routes if route.matches(received.topic)]
        if not found:
            self._count("unrouted")
            return []
        samples = []
        for route in [route for route in found if route.declared] or found:
            plain = route.plain(received.topic)
            samples += self._reader.payload(received.payload, route.device_id, route.channels, plain)
        return samples

    def _count(self, name: str) -> None:
        with self._changed:
            self._counts[name] += 1

    def _lose(self, why: str) -> None:
        with self._changed:
            self._lost = self._lost or why
            self._changed.notify_all()

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self._lose(f"the broker refuses the connection: {reason}")
            return
        wanted = sorted({route.topic for route in self._routes})
        with contextlib.suppress(ValueError):  # a filter that is none is refused below, by name
            client.subscribe([(topic, self._address.qos) for topic in wanted])
            return
        self._lose(f"no topic filter: {', '.join(wanted)}")

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Sequence[Any], _more: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._lose(f"the broker refuses a subscription: {', '.join(refused)}")
        else:
            self._count("subscribed")

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        self._lose(f"the connection was lost: {reason}")

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        received = _Received(message.topic, bytes(message.payload), message.retain)
        with self._changed:
            self._counts["overrun"] += self._inbox.put(self._sender(received.topic), received)
            self._changed.notify_all()

    def _sender(self, topic: str) -> Hashable:
        """Whose messages a topic's are: a device's channel's, or with all others that are nobody's."""
        found = self._senders.get(topic)
        if found is None:
            if len(self._senders) >= _TOPICS:
                self._senders.clear()
            routes = [route for route in self._routes if route.matches(topic)]
            found = self._senders[topic] = tuple((r.device_id, r.plain(topic)) for r in routes)
        return found
