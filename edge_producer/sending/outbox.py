"""Which sealed message goes next, and what to seal while there is room.

Alerts go first, then live rows, summaries and books; backlog gets what is left, so that it never delays
what is new. While the broker is silent nothing but alerts is sealed: unsealed rows can still be thinned.
The same holds for a device that has not joined yet: the cloud would refuse what it cannot tell the signer
of.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from edge_producer.sending.sealing import Sealer
from edge_producer.sending.sender import Sender
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_messages import StoredMessage
from schemas.topics import Lane

PRIORITY = {
    Lane.ALERT: 0,
    Lane.LIVE: 1,
    Lane.SUMMARY: 2,
    Lane.BOOKS: 3,
    Lane.STATE: 3,
    Lane.LABEL: 3,
    Lane.BACKLOG: 4,
}
BACKLOG_SHARE = 0.5
"""Share of the room that backlog may fill."""
_EVER = float("inf")


@dataclass
class _Room:
    """Messages that may still be sealed in this turn."""

    left: int

    def take(self, sealed: Iterable[StoredMessage]) -> list[StoredMessage]:
        taken = list(sealed)
        self.left -= len(taken)
        return taken


class Outbox:
    """Seals inside the spool's transaction, sends after it.

    Args:
        spool: Where rows and messages are.
        sealer: Makes messages of them.
        sender: Takes them to Kafka.
        settings: Room, lingering, intervals.
        admitted: Whether the cloud knows a device's key.
    """

    def __init__(
        self,
        spool: Spool,
        sealer: Sealer,
        sender: Sender,
        settings: EdgeSettings,
        admitted: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._spool = spool
        self._sealer = sealer
        self._sender = sender
        self._settings = settings
        self._admits = admitted
        self._first_device = 0
        self._unsent: list[tuple[int, int]] = []
        self._held: list[StoredMessage] = []
        self.queue(spool.messages.stored())

    @property
    def unsent(self) -> int:
        """Sealed messages that Kafka has not been handed."""
        return len(self._unsent)

    def queue(self, messages: Iterable[StoredMessage]) -> None:
        """Have sealed messages sent, again or for the first time, once their device has joined."""
        for message in messages:
            if self._is_admitted(message.device):
                heapq.heappush(self._unsent, (PRIORITY[message.lane], message.id))
            else:
                self._held.append(message)

    def seal_alert(self, device: int, event: bytes) -> None:
        """Seal an alert at once, whatever else waits."""
        self.queue([self._sealer.alert(device, event)])

    def seal(self, now_s: float, states: Mapping[int, bytes], *, draining: bool) -> None:
        """Seal what is due while there is room.

        Args:
            now_s: Steady clock.
            states: Device-state events to send, by device.
            draining: Nothing more will come: do not wait for company, and state only lines of the
                books that have no pending rows.
        """
        held, self._held = self._held, []
        self.queue(held)
        if self._sender.stalled(self._settings.stall_s):
            return
        room = _Room(self._settings.max_in_flight - self._sender.in_flight - len(self._unsent))
        linger_s = 0.0 if draining else self._settings.linger_s
        oldest = {d: s for d, s in self._spool.rows.oldest_s().items() if self._is_admitted(d)}
        fresh_from_s = now_s - self._settings.backlog_after_s
        devices = self._in_turn(oldest)
        for device in devices:
            self._seal_rows(device, Lane.LIVE, (fresh_from_s, _EVER), now_s - linger_s, room)
        for device in self._spool.summarised():
            if room.left > 0 and self._is_admitted(device):
                self.queue(room.take(self._sealer.summaries(device)))
        self._seal_books(now_s, room, draining=draining)
        for device, event in states.items():
            if room.left > 0 and self._is_admitted(device):
                self.queue(room.take([self._sealer.device_state(device, event)]))
        room.left -= round((1 - BACKLOG_SHARE) * self._settings.max_in_flight)
        for device in devices:
            if oldest[device] < fresh_from_s:
                self._seal_rows(device, Lane.BACKLOG, (-_EVER, fresh_from_s), _EVER, room)

    def send(self) -> None:
        """Hand unsent messages to Kafka, the most urgent first. Not inside a transaction."""
        while self._unsent and self._sender.online:
            _, id_ = self._unsent[0]
            if not self._sender.send(id_, self._spool.messages.read(id_)):
                return
            heapq.heappop(self._unsent)

    def _is_admitted(self, device: int) -> bool:
        return self._admits(self._spool.names[device])

    def _in_turn(self, devices: Iterable[int]) -> list[int]:
        """Devices in order, starting where the last turn did not: room is shared fairly."""
        order = sorted(devices)
        later = [d for d in order if d > self._first_device]
        turned = later + [d for d in order if d <= self._first_device]
        self._first_device = turned[0] if turned else 0
        return turned

    def _seal_rows(
        self, device: int, lane: Lane, span_s: tuple[float, float], ripe_s: float, room: _Room
    ) -> None:
        limit = self._settings.message_rows
        while room.left > 0:
            rows = self._spool.rows.read(device, *span_s, limit)
            if not rows or (len(rows) < limit and rows[0].sensed_s > ripe_s):
                return
            self.queue(room.take(self._sealer.rows(device, lane, rows, rows[-1].sensed_s)))

    def _seal_books(self, now_s: float, room: _Room, *, draining: bool) -> None:
        interval_s = 0.0 if draining else self._settings.books_interval_s
        due = self._spool.books.due(now_s, interval_s, settled_only=draining)
        for device, lines in groupby(due, key=lambda line: line.device):
            if room.left > 0 and self._is_admitted(device):
                self.queue(room.take(self._sealer.books(device, list(lines), now_s)))
