"""Samples from Sparkplug B edge nodes, over MQTT."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from google.protobuf.message import DecodeError

from edge_producer.sources.mqtt_connection import LastWill, MqttCallbacks, MqttConnection
from edge_producer.sources.reported_channels import ReportedChannels
from edge_producer.sources.samples import Sample
from edge_producer.sources.source_access import SourceAccess
from edge_producer.sources.sparkplug_address import NAMESPACE, EdgeNodePlace, Metrics, SparkplugAddress
from edge_producer.sources.sparkplug_node import STALE, EdgeNode
from schemas.errors import SourceLostError
from schemas.instants import to_us
from schemas.profile import Profile
from schemas.proto import sparkplug_subset_pb2 as sparkplug

REBIRTH = "Node Control/Rebirth"
BOOLEAN = 11
REBIRTH_S = 5.0
"""A node is not asked for a birth more often than this."""
LARGEST_BYTES = 1024**2
"""A larger payload is malformed."""
COUNTED = ("subscribed", "retained", "unrouted", "rebirths", STALE)


class SparkplugSource:
    """One connection to a broker, and what its edge nodes say.

    Nodes report changes only: what was not reported again stands until its node or device dies, and is
    repeated in steps of the profile's rate. Births are asked for at the start, and when messages were lost.

    Args:
        address: The broker, and how it is spoken to.
        nodes: Edge nodes, and whose channels their metrics are.
        profile: Channels, rate and ``[source]``.
        access: Credentials.
        wall: What time it is, for what is sent.
        name: Part of the client id.

    Raises:
        SourceError: The profile's time zone is unknown.
        SourceLostError: A file of credentials cannot be read.
    """

    def __init__(
        self,
        address: SparkplugAddress,
        nodes: Mapping[EdgeNodePlace, Metrics],
        profile: Profile,
        access: SourceAccess,
        wall: Callable[[], datetime],
        name: str = "edge",
    ) -> None:
        self._address, self._wall = address, wall
        self._channels = ReportedChannels(profile, COUNTED, own_time=True)
        self._nodes = {place: EdgeNode(metrics) for place, metrics in nodes.items()}
        self._asked_s: dict[EdgeNodePlace, float] = {}
        self._hearing = threading.Lock()
        self._host_topic = f"{NAMESPACE}/STATE/{address.host_id}" if address.host_id else ""
        self._connection = MqttConnection(
            address.broker,
            sorted(topic for place in nodes for topic in place.topics),
            access,
            name,
            MqttCallbacks(self._on_message, self._on_subscribed, self._on_lost),
            LastWill(self._host_topic, self._state(online=False)) if self._host_topic else None,
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """As ``ReportedChannels.counts`` and ``EdgeNode.counts``, of which a payload is a message.

        ``subscribed``: connections on which the broker took the topics; ``rebirths`` that were asked for;
        messages not used: ``retained`` or on a topic that was not asked for (``unrouted``); ``stale`` values:
        no longer known, since their node or device died or messages of it were lost.
        """
        total = Counter(self._channels.counts)
        with self._hearing:
            for node in self._nodes.values():
                total.update(node.counts)
        return total

    def close(self) -> None:
        """Let ``samples`` end."""
        self._channels.close()

    def samples(self) -> Iterator[Sample]:
        """Samples of what the edge nodes report, as they do.

        Raises:
            SourceLostError: The broker cannot be reached, refuses the device, or was lost.
        """
        self._connection.open()
        try:
            while (samples := self._channels.next()) is not None:
                yield from samples
        finally:
            if self._host_topic:
                self._connection.publish(self._host_topic, self._state(online=False), qos=1, retain=True)
            self._connection.close()

    def _on_subscribed(self) -> None:
        if self._host_topic:
            self._connection.publish(self._host_topic, self._state(online=True), qos=1, retain=True)
        for place in self._nodes:
            self._ask(place)
        self._channels.count("subscribed")

    def _on_message(self, topic: str, data: bytes, retained: bool) -> None:
        self._channels.count("payloads")
        place, kind, device = _parts(topic)
        node = self._nodes.get(place)
        if node is None or retained:
            self._channels.count("unrouted" if node is None else "retained")
            return
        payload = _payload(data)
        if payload is None:
            self._channels.count("malformed")
            return
        with self._hearing:
            heard = node.hear(kind, device, payload)
        if heard.rebirth:
            self._ask(place)
        self._channels.take(heard.readings, 1000 * payload.timestamp or self._now_us())

    def _on_lost(self, why: str) -> None:
        self._channels.lose(SourceLostError(f"{self._address.shown}: {why}"))

    def _ask(self, place: EdgeNodePlace) -> None:
        """Ask a node for a birth, unless it was just asked."""
        now_s = time.monotonic()
        if now_s - self._asked_s.get(place, -REBIRTH_S) < REBIRTH_S:
            return
        self._asked_s[place] = now_s
        now_ms = self._now_us() // 1000
        metric = sparkplug.Metric(name=REBIRTH, timestamp=now_ms, datatype=BOOLEAN, boolean_value=True)
        command = sparkplug.Payload(timestamp=now_ms, metrics=[metric])
        self._connection.publish(place.commands, command.SerializeToString())
        self._channels.count("rebirths")

    def _now_us(self) -> int:
        return to_us(self._wall())

    def _state(self, *, online: bool) -> bytes:
        return json.dumps({"online": online, "timestamp": self._now_us() // 1000}).encode()


def _payload(data: bytes) -> sparkplug.Payload | None:
    try:
        return sparkplug.Payload.FromString(data) if len(data) <= LARGEST_BYTES else None
    except DecodeError:
        return None


def _parts(topic: str) -> tuple[EdgeNodePlace, str, str]:
    """Edge node, kind of message and device of a topic; of another topic what is no edge node."""
    parts = topic.split("/")
    if len(parts) not in (4, 5) or parts[0] != NAMESPACE:
        return EdgeNodePlace("", ""), "", ""
    return EdgeNodePlace(parts[1], parts[3]), parts[2], parts[4] if len(parts) == 5 else ""
