"""One connection to an MQTT broker. The one door to paho-mqtt, which the extra ``[mqtt]`` installs."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_producer.sources.mqtt_address import MqttAddress
from edge_producer.sources.source_access import SourceAccess
from schemas.errors import SourceLostError

PROTOCOLS = {"3.1.1": MQTTProtocolVersion.MQTTv311, "5": MQTTProtocolVersion.MQTTv5}
CONNECT_TIMEOUT_S = 10.0


class LastWill(NamedTuple):
    """What the broker publishes, retained, when the connection is lost."""

    topic: str
    payload: bytes


class MqttCallbacks(NamedTuple):
    """Called from a thread of the library's.

    Attributes:
        message: With a message's topic and payload, and whether the broker had retained it.
        subscribed: Once the broker has taken all filters.
        lost: With the reason, when the broker refuses something or is lost.
    """

    message: Callable[[str, bytes, bool], None]
    subscribed: Callable[[], None]
    lost: Callable[[str], None]


class MqttConnection:
    """A clean session: what was sent while it was away is not asked for. It is opened once.

    Args:
        address: The broker, and how it is spoken to.
        topics: Filters that are subscribed to.
        access: Credentials.
        name: Part of the client id.
        tell: What happens.
        will: What is published when the connection is lost.

    Raises:
        SourceLostError: A file of credentials cannot be read.
    """

    def __init__(
        self,
        address: MqttAddress,
        topics: Sequence[str],
        access: SourceAccess,
        name: str,
        tell: MqttCallbacks,
        will: LastWill | None = None,
    ) -> None:
        self._address, self._topics, self._tell = address, tuple(topics), tell
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
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_disconnect = self._on_disconnect

    def open(self) -> None:
        """Connect; what comes of it is told by the callbacks.

        Raises:
            SourceLostError: The broker cannot be reached.
        """
        try:
            self._client.connect(self._address.host, self._address.port, self._address.keepalive_s)
        except (OSError, ValueError) as exc:
            raise SourceLostError(f"{self._address.shown}: {exc}") from exc
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> None:
        """Send a message; it may be lost with the connection."""
        self._client.publish(topic, payload, qos, retain)

    def close(self) -> None:
        """End the connection, and the library's thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self._tell.lost(f"the broker refuses the connection: {reason}")
            return
        with contextlib.suppress(ValueError):  # a filter that is none is refused below, by name
            client.subscribe([(topic, self._address.qos) for topic in self._topics])
            return
        self._tell.lost(f"no topic filter: {', '.join(self._topics)}")

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Sequence[Any], _more: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._tell.lost(f"the broker refuses a subscription: {', '.join(refused)}")
        else:
            self._tell.subscribed()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        self._tell.lost(f"the connection was lost: {reason}")

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._tell.message(message.topic, bytes(message.payload), message.retain)
