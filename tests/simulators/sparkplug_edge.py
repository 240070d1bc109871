"""A Sparkplug B edge node with one device, on a real broker; it gives births when it is asked for them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from schemas.proto import sparkplug_subset_pb2 as sparkplug
from tests.simulators.mqtt_broker import MqttBroker
from tests.waiting import wait_until

DOUBLE, TEXT, BOOLEAN, INT64 = 10, 12, 11, 4
Told = tuple[str, Any, int | None]
"""Metric, value (None: null; bytes: no scalar), and its time in ms since 1970."""


class SparkplugEdge:
    """Tells ``heat`` and ``load`` of the device ``pump``, by aliases.

    Args:
        broker: Where it publishes.
        group: Its group id; the node is ``line``.
        now_ms: Its clock, which stands still.
    """

    def __init__(self, broker: MqttBroker, group: str, now_ms: int) -> None:
        self.group, self.now_ms, self.answers = group, now_ms, True
        self.aliases = {"heat": 1, "load": 2}
        self.values: dict[str, Told] = {}
        self._seq, self._session = 0, 7
        self._publishing = threading.RLock()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, f"edge-{group}", reconnect_on_failure=False)
        self._client.will_set(self.topic("NDEATH"), self._death(7).SerializeToString())
        self._client.on_message = self._on_command
        listening = threading.Event()
        self._client.on_subscribe = lambda *_: listening.set()
        self._client.on_connect = lambda client, *_: client.subscribe(self.topic("NCMD"))
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        wait_until(listening.is_set, what="the edge node")

    def topic(self, kind: str) -> str:
        return f"spBv1.0/{self.group}/{kind}/line{'/pump' if kind.startswith('D') else ''}"

    def address(self, broker: MqttBroker, port: int = 0, **options: object) -> str:
        """Of a source that reads the device."""
        given = "&".join(f"{name}={value}" for name, value in options.items())
        return f"sparkplug://127.0.0.1:{port or broker.port}/{self.group}/line/pump?{given}"

    def birth(self) -> None:
        """Tell all metrics of the node and of its device."""
        with self._publishing:
            self._seq = 0
            self._say("NBIRTH", self._death(self._session))
            born = sparkplug.Payload(timestamp=self.now_ms)
            for name, alias in self.aliases.items():
                metric = _metric(*self.values.get(name, (name, None, self.now_ms)))
                metric.name, metric.alias = name, alias
                born.metrics.append(metric)
            self._say("DBIRTH", born)

    def data(self, *told: Told, stamped: bool = True, historical: bool = False) -> None:
        """Tell metrics that changed."""
        payload = sparkplug.Payload(timestamp=self.now_ms if stamped else None)
        for each in told:
            metric = _metric(*each)
            metric.alias = self.aliases[each[0]]
            if historical:
                metric.is_historical = True
            payload.metrics.append(metric)
        self._say("DDATA", payload)

    def raw(self, data: bytes) -> None:
        self._client.publish(self.topic("DDATA"), data, 1).wait_for_publish(20)

    def lose(self, messages: int = 1) -> None:
        """Count messages that nobody gets."""
        self._seq = (self._seq + messages) % 256

    def device_dies(self) -> None:
        self._say("DDEATH", sparkplug.Payload(timestamp=self.now_ms))

    def dies(self) -> None:
        """Lose the connection, so that the broker tells its last will."""
        connection = self._client.socket()
        assert isinstance(connection, socket.socket)
        connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _say(self, kind: str, payload: sparkplug.Payload) -> None:
        with self._publishing:
            payload.seq, self._seq = self._seq, (self._seq + 1) % 256
            self._client.publish(self.topic(kind), payload.SerializeToString(), 0)

    def _death(self, session: int) -> sparkplug.Payload:
        number = sparkplug.Metric(name="bdSeq", datatype=INT64, long_value=session)
        return sparkplug.Payload(timestamp=self.now_ms, metrics=[number])

    def _on_command(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic != self.topic("NCMD"):
            return  # amqtt gives what is retained on other topics, too
        asked: Iterable[sparkplug.Metric] = sparkplug.Payload.FromString(message.payload).metrics
        if self.answers and any(m.name == "Node Control/Rebirth" and m.boolean_value for m in asked):
            self.birth()


def _metric(_name: str, value: Any, ms: int | None) -> sparkplug.Metric:
    made = sparkplug.Metric(timestamp=ms, datatype=DOUBLE)
    if value is None:
        made.is_null = True
    elif isinstance(value, str):
        made.datatype, made.string_value = TEXT, value
    elif isinstance(value, bytes):
        made.dataset_value = value
    else:
        made.double_value = value
    return made
