"""Decides which sealed message goes next, and what to seal while few are in flight.

Alerts go first, then live rows, summaries and books. The backlog gets what is left, so that it never delays
new rows. While the broker does not answer, only alerts are sealed: unsealed rows can still be thinned.
The same holds for a device that has not joined yet: the cloud refuses messages whose signer it does not know.
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
"""Share of the messages in flight that may be backlog."""
_FOREVER = float("inf")


@dataclass
class _Quota:
    """Number of messages that may still be sealed in this turn."""

    left: int

    def take(self, sealed: Iterable[StoredMessage]) -> list[StoredMessage]:
        taken = list(sealed)
        self.left -= len(taken)
        return taken


class Outbox:
    """Seals inside the spool's transaction, sends after it.

    Args:
        spool: Holds rows and messages.
        sealer: Seals rows into messages.
        sender: Sends messages to Kafka.
        settings: Limits, lingering and intervals.
        admitted: Whether the cloud knows the key of a device, by device id.
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
        """Number of sealed messages that were not handed to Kafka yet."""
        return len(self._unsent)

    def queue(self, messages: Iterable[StoredMessage]) -> None:
        """Queue sealed messages to be sent or sent again, once their device has joined."""
        for message in messages:
            if self._is_admitted(message.device):
                heapq.heappush(self._unsent, (PRIORITY[message.lane], message.id))
            else:
                self._held.append(message)

    def seal_alert(self, device: int, event: bytes) -> None:
        """Seal an alert at once, before everything that waits."""
        self.queue([self._sealer.alert(device, event)])

    def seal(self, now_s: float, states: Mapping[int, bytes], *, draining: bool) -> None:
        """Seal what is due, up to the limit of messages in flight.

        Args:
            now_s: Steady clock.
            states: Device-state events to send, by device.
            draining: No more rows will come: do not wait to fill messages, and state only lines of the
                books that have no pending rows.
        """
        held, self._held = self._held, []
        self.queue(held)
        if self._sender.stalled(self._settings.stall_s):
            return
        quota = _Quota(self._settings.max_in_flight - self._sender.in_flight - len(self._unsent))
        linger_s = 0.0 if draining else self._settings.linger_s
        oldest = {d: s for d, s in self._spool.rows.oldest_s().items() if self._is_admitted(d)}
        fresh_from_s = now_s - self._settings.backlog_after_s
        devices = self._in_turn(oldest)
        for device in devices:
            self._seal_rows(device, Lane.LIVE, (fresh_from_s, _FOREVER), now_s - linger_s, quota)
        for device in self._spool.devices_with_summaries():
            if quota.left > 0 and self._is_admitted(device):
                self.queue(quota.take(self._sealer.summaries(device)))
        self._seal_books(now_s, quota, draining=draining)
        for device, event in states.items():
            if quota.left > 0 and self._is_admitted(device):
                self.queue(quota.take([self._sealer.device_state(device, event)]))
        quota.left -= round((1 - BACKLOG_SHARE) * self._settings.max_in_flight)
        for device in devices:
            if oldest[device] < fresh_from_s:
                self._seal_rows(device, Lane.BACKLOG, (-_FOREVER, fresh_from_s), _FOREVER, quota)

    def send(self) -> None:
        """Hand unsent messages to Kafka, the most urgent first. Call it outside a transaction."""
        while self._unsent and self._sender.online:
            _, id_ = self._unsent[0]
            if not self._sender.send(id_, self._spool.messages.read(id_)):
                return
            heapq.heappop(self._unsent)

    def _is_admitted(self, device: int) -> bool:
        return self._admits(self._spool.names[device])

    def _in_turn(self, devices: Iterable[int]) -> list[int]:
        """Devices in order, starting behind the one that came first last time: so all get their share."""
        order = sorted(devices)
        later = [d for d in order if d > self._first_device]
        rotated = later + [d for d in order if d <= self._first_device]
        self._first_device = rotated[0] if rotated else 0
        return rotated

    def _seal_rows(
        self, device: int, lane: Lane, span_s: tuple[float, float], ripe_s: float, quota: _Quota
    ) -> None:
        limit = self._settings.message_rows
        while quota.left > 0:
            rows = self._spool.rows.read(device, *span_s, limit)
            if not rows or (len(rows) < limit and rows[0].sensed_s > ripe_s):
                return
            self.queue(quota.take(self._sealer.rows(device, lane, rows, rows[-1].sensed_s)))

    def _seal_books(self, now_s: float, quota: _Quota, *, draining: bool) -> None:
        interval_s = 0.0 if draining else self._settings.books_interval_s
        due = self._spool.books.due(now_s, interval_s, settled_only=draining)
        for device, lines in groupby(due, key=lambda line: line.device):
            if quota.left > 0 and self._is_admitted(device):
                self.queue(quota.take(self._sealer.books(device, list(lines), now_s)))
