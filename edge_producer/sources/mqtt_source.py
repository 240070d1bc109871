"""Samples from messages of an MQTT broker."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from edge_producer.sources.fair_inbox import FairInbox
from edge_producer.sources.mqtt_address import MqttAddress, Route
from edge_producer.sources.mqtt_connection import MqttCallbacks, MqttConnection
from edge_producer.sources.payloads import PayloadReader
from edge_producer.sources.samples import Sample
from edge_producer.sources.source_access import SourceAccess
from schemas.errors import SourceLostError
from schemas.profile import Profile

INBOX_MESSAGES, INBOX_BYTES = 10_000, 8 * 1024**2
"""What may wait to be read; beyond it the oldest messages of whatever has most are dropped, and counted."""
_TOPICS = 4096
"""Topics of which it is remembered whose they are."""


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
        self._connection = MqttConnection(
            address,
            sorted({route.topic for route in routes}),
            access,
            name,
            MqttCallbacks(self._on_message, lambda: self._count("subscribed"), self._lose),
        )

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
        self._connection.open()
        try:
            while (received := self._next()) is not None:
                yield from self._read(received)
        finally:
            self._connection.close()

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

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        with self._changed:
            self._counts["overrun"] += self._inbox.put(
                self._sender(topic), _Received(topic, payload, retained)
            )
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
