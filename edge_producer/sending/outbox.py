"""Decides which sealed message goes next, and what to seal while few are in flight.

Alerts go first, then live rows, summaries and books. The backlog gets what is left, so that it never delays
new rows. While the broker does not answer, only alerts are sealed: unsealed rows can still be thinned.
The same holds for a device that has not joined yet: the cloud refuses messages whose signer it does not know.

A message that the broker does not take as it is waits aside, and others go on around it. If it is too large
and cannot be in the log, what it holds is sealed anew in smaller messages.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from edge_producer.excerpts.excerpt_desk import ExcerptDesk
from edge_producer.sending.blocked import BlockedMessage, BlockedMessages
from edge_producer.sending.delivery_attempts import Rejection
from edge_producer.sending.excerpt_lane import ExcerptLane, without
from edge_producer.sending.pace import SendingPace
from edge_producer.sending.sealing import Sealer
from edge_producer.sending.sealing_turn import PRIORITY, SealingQuota, Turns
from edge_producer.sending.sender import Sender
from edge_producer.sending.topic_limits import ASK_SOON_S, wire_size
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_books import LINES_AT_ONCE, DueLine
from edge_producer.spool.spool_messages import StoredMessage
from schemas.envelope import SealedMessage
from schemas.profile import Profile
from schemas.topics import EXCERPT, Lane

log = logging.getLogger(__name__)

BACKLOG_SHARE = 0.5
"""Share of the messages in flight that may be backlog."""
KEYLESS_ALERTS = 1000
"""Alerts that wait in memory while their device's key cannot be read; the oldest give way."""
STATED_AT_ONCE = 4096
"""Lines of the books that one turn states: after a week offline they take many turns, each a short one."""
_FOREVER = float("inf")


class Outbox:
    """Seals inside the spool's transaction, sends after it.

    Args:
        spool: Holds rows and messages.
        sealer: Seals rows into messages.
        sender: Sends messages to Kafka.
        settings: Limits, lingering and intervals.
        admitted: Whether the device has its key and the cloud knows it, by device id.
        desk: Gives excerpts, and says whether they may leave; None: there are none.
    """

    def __init__(
        self,
        spool: Spool,
        sealer: Sealer,
        sender: Sender,
        settings: EdgeSettings,
        admitted: Callable[[str], bool] = lambda _: True,
        desk: ExcerptDesk | None = None,
    ) -> None:
        self.excerpts = ExcerptLane(desk, spool, sealer, settings.spool_max_bytes)
        self._spool = spool
        self._sealer = sealer
        self._sender = sender
        self._settings = settings
        self._admits = admitted
        self._pace = SendingPace.of(settings, sealer.profile)
        self._sealing, self._stating = Turns(), Turns()
        self._unsent: list[tuple[int, int]] = []
        self._held: list[StoredMessage] = []
        self._blocked = BlockedMessages()
        self._lanes: dict[int, Lane] = {}
        # Messages of which no attempt can have reached the broker; and those of them that are in flight.
        self._untried: set[int] = set()
        self._first_try: set[int] = set()
        self._to_note: dict[int, str] = {}
        self._damaged: list[int] = []
        self._forced: set[int] = set()
        self._alerts: deque[tuple[int, bytes]] = deque(maxlen=KEYLESS_ALERTS)
        self._answers = 0
        self._now_s = 0.0
        for message in spool.messages.stored():
            self._take_up(message)

    def follow(self, profile: Profile) -> None:
        """Wait as another profile says, from the next turn on."""
        self._pace = SendingPace.of(self._settings, profile)

    @property
    def unsent(self) -> int:
        """Number of sealed messages that were not handed to Kafka yet; blocked ones are not among them."""
        return len(self._unsent) + len(self._held)

    @property
    def blocked(self) -> int:
        """Number of messages that the broker does not take as they are."""
        return len(self._blocked)

    def _take_up(self, message: StoredMessage) -> None:
        """Go on with a message of an earlier start, or of before the spool was opened again."""
        self._lanes[message.id] = message.lane
        if message.may_have_landed:
            self._requeue(message)
            return
        found = self._spool.messages.read(message.id)
        if found is None:
            self._damaged.append(message.id)
            return
        # Due at once: before it is tried, the spool must say that it was.
        self._untried.add(message.id)
        self._blocked.add(BlockedMessage(message.id, found.topic, 0, message.blocked, False), -_FOREVER)

    def queue(self, messages: Iterable[StoredMessage]) -> None:
        """Queue messages that were sealed just now, to be sent once their device is admitted."""
        for message in messages:
            self._lanes[message.id] = message.lane
            if not message.may_have_landed:
                self._untried.add(message.id)
            self._requeue(message)

    def _requeue(self, message: StoredMessage) -> None:
        if self._is_admitted(message.device):
            heapq.heappush(self._unsent, (PRIORITY[message.lane], message.id))
        else:
            self._held.append(message)

    def arrived(self, ids: Iterable[int]) -> None:
        """The broker has acknowledged messages."""
        for id_ in ids:
            self.excerpts.arrived(id_, self._lanes.pop(id_, None))
            self._first_try.discard(id_)
            self._untried.discard(id_)
            self._forced.discard(id_)
            blocked = self._blocked.forget(id_)
            if blocked is not None:
                self._sender.limits.taken(blocked.topic, blocked.size)

    def returned(self, ids: Iterable[int]) -> None:
        """Attempts ended without an answer: the messages may have arrived, and are sent again as they are."""
        for id_ in ids:
            self._first_try.discard(id_)
            if id_ in self._lanes:
                heapq.heappush(self._unsent, (PRIORITY[self._lanes[id_]], id_))

    def rejected(self, rejections: Iterable[Rejection]) -> None:
        """The broker does not take messages as they are: they wait aside."""
        for rejection in rejections:
            first = rejection.id in self._first_try
            self._first_try.discard(rejection.id)
            found = self._spool.messages.read(rejection.id)
            if found is None or rejection.id not in self._lanes:
                continue
            self._forced.discard(rejection.id)
            if first and rejection.cannot_have_landed:
                self._untried.add(rejection.id)
            reason = f"{found.topic}: {rejection.reason}"
            if rejection.too_large:
                self._sender.limits.refused(found.topic, wire_size(found))
                reason = f"{found.topic} does not take {wire_size(found)} bytes"
            self._block(rejection.id, found, reason, too_large=rejection.too_large)

    def seal_alert(self, device: int, event: bytes) -> None:
        """Seal an alert at once, before everything that waits; without a key, as soon as there is one."""
        if self._sealer.can_seal(device):
            self.queue([self._sealer.alert(device, event)])
            return
        if len(self._alerts) == KEYLESS_ALERTS:
            self._spool.count({"alerts_unkept": 1})
        self._alerts.append((device, event))

    def seal(
        self,
        now_s: float,
        states: Mapping[int, bytes],
        *,
        draining: bool,
        settled_only: bool | None = None,
        room_bytes: float = _FOREVER,
    ) -> None:
        """Seal what is due, up to the limit of messages in flight.

        Args:
            now_s: Steady clock.
            states: Device-state events to send, by device.
            draining: No more rows will come: do not wait to fill messages.
            settled_only: State only lines of the books that have no pending rows; None: while draining.
            room_bytes: What is sealed in this turn may take so much.
        """
        self._now_s = now_s
        held, self._held = self._held, []
        for message in held:
            self._requeue(message)
        for _ in range(len(self._alerts)):
            self.seal_alert(*self._alerts.popleft())
        self._forget_withdrawn(self.excerpts.withdraw())
        self._note_attempts(now_s)
        if self._sender.stalled(self._settings.stall_s):
            return
        settled = draining if settled_only is None else settled_only
        with self._sealer.turn():
            self._seal_due(now_s, states, room_bytes, draining=draining, settled_only=settled)
        self.queue(self.excerpts.seal())

    def _forget_withdrawn(self, gone: set[int]) -> None:
        """Messages that are deleted; what the broker's client still has of them is taken out of it."""
        if not gone:
            return
        self._unsent = without(self._unsent, gone)
        self._held = [message for message in self._held if message.id not in gone]
        for id_ in gone:
            self._lanes.pop(id_, None)
            self._untried.discard(id_)
            self._to_note.pop(id_, None)
            self._blocked.forget(id_)
        self._sender.disconnect()

    def _seal_due(
        self,
        now_s: float,
        states: Mapping[int, bytes],
        room_bytes: float,
        *,
        draining: bool,
        settled_only: bool,
    ) -> None:
        count = self._settings.max_in_flight - self._sender.in_flight - len(self._unsent)
        quota = SealingQuota(count, self._spool.messages, room_bytes)
        self._retry_blocked(now_s, quota)
        pace = self._pace.draining() if draining else self._pace
        oldest = {d: s for d, s in self._spool.rows.oldest_s().items() if self._is_admitted(d)}
        fresh_from_s = now_s - pace.backlog_s
        devices = self._sealing.order(oldest)
        ready = [d for d in devices if not self._may_wait(d, now_s - oldest[d], pace)]
        for group in self._sealer.together(ready):
            self._seal_rows(group, Lane.LIVE, (fresh_from_s, _FOREVER), now_s - pace.linger_s, quota)
        summed = [d for d in self._spool.devices_with_summaries() if self._is_admitted(d)]
        for group in self._sealer.together(summed):
            if quota.left > 0:
                self.queue(quota.take(self._sealer.summaries_of(group)))
        self._seal_books(now_s, quota, pace, settled_only=settled_only)
        for group in self._sealer.together([d for d in states if self._is_admitted(d)]):
            if quota.left > 0:
                self.queue(quota.take(self._sealer.device_states({d: states[d] for d in group})))
        quota.spend(round((1 - BACKLOG_SHARE) * self._settings.max_in_flight))
        for group in self._sealer.together([d for d in devices if oldest[d] < fresh_from_s]):
            self._seal_rows(group, Lane.BACKLOG, (-_FOREVER, fresh_from_s), _FOREVER, quota)

    def only_blocked_left(self) -> bool:
        """Whether nothing can be sent any more but what the broker does not take."""
        left = self._spool.left()
        waits = self._unsent or self._sender.in_flight or self._sender.judging
        return bool(len(self._blocked)) and not waits and left == (0, 0, len(self._blocked))

    def send(self) -> None:
        """Hand unsent messages to Kafka, the most urgent first. Call it outside a transaction.

        Only alerts, which are small, leave before the limits of the topics are known.
        """
        while self._unsent and self._sender.online:
            priority, id_ = self._unsent[0]
            if not self._sender.limits.known and priority > PRIORITY[Lane.ALERT]:
                return
            message = self._spool.messages.read(id_)
            if message is None:
                self._damaged.append(id_)
            elif id_ not in self._forced and wire_size(message) > self._sender.limits.limit(message.topic):
                self._block(id_, message, self._too_large(message), too_large=True)
            elif message.topic == EXCERPT.base and not self.excerpts.may_leave(id_, message):
                log.info("message %d waits: there is no consent for it", id_)  # the next turn deletes it
            elif not self._sender.send(id_, message):
                return
            elif id_ in self._untried:
                self._untried.discard(id_)
                self._first_try.add(id_)
            heapq.heappop(self._unsent)

    # Blocked messages ------------------------------------------------------------------------------------

    def _too_large(self, message: SealedMessage) -> str:
        limit = self._sender.limits.limit(message.topic)
        return f"{message.topic} takes {limit} bytes, not {wire_size(message)}"

    def _block(self, id_: int, message: SealedMessage, reason: str, *, too_large: bool) -> None:
        log.error("message %d is blocked: %s", id_, reason)
        blocked = BlockedMessage(id_, message.topic, wire_size(message), reason, too_large)
        self._blocked.add(blocked, self._now_s)
        self._to_note[id_] = reason

    def _note_attempts(self, now_s: float) -> None:
        """Make durable what is known about blocked messages; give up damaged ones."""
        for id_, reason in self._to_note.items():
            self._spool.messages.note(id_, may_have_landed=id_ not in self._untried, blocked=reason)
        self._to_note = {}
        for id_ in self._damaged:
            log.error("message %d in the spool is damaged and given up", id_)
            self._spool.messages.give_up(id_, now_s)
            self._spool.count({"messages_damaged": 1})
        self._damaged = []

    def _retry_blocked(self, now_s: float, quota: SealingQuota) -> None:
        """Seal anew what is too large and cannot have landed; try the rest again where that is due."""
        limits = self._sender.limits
        if not len(self._blocked):
            return
        limits.ask_again(ASK_SOON_S)
        if limits.answers != self._answers:
            self._answers = limits.answers
            self._blocked.limits_changed()
        for message in self._blocked.all():
            too_large = message.too_large and message.size > limits.limit(message.topic)
            if too_large and message.id in self._untried and not message.indivisible and quota.left > 0:
                self._reseal(message, quota)
        for message in self._blocked.due(now_s, limits.limit, limits.is_assumed):
            if quota.left > 0:
                quota.spend(1)
                self._retry(message)

    def _retry(self, message: BlockedMessage) -> None:
        self._blocked.release(message.id)
        if message.too_large and self._sender.limits.is_assumed(message.topic):
            self._forced.add(message.id)
        # From here on an attempt may reach the broker: that must be on disk before the message leaves.
        self._spool.messages.note(message.id, may_have_landed=True, blocked="")
        heapq.heappush(self._unsent, (PRIORITY[self._lanes[message.id]], message.id))

    def _reseal(self, message: BlockedMessage, quota: SealingQuota) -> None:
        sealed = self._sealer.reseal(message.id)
        if sealed is None:
            message.indivisible = True
            return
        log.warning("a message of %d bytes is sealed anew in %d", message.size, len(sealed))
        self._blocked.forget(message.id)
        self._untried.discard(message.id)
        self._lanes.pop(message.id, None)
        self.queue(quota.take(sealed))

    # What is due -----------------------------------------------------------------------------------------

    def _is_admitted(self, device: int) -> bool:
        return self._admits(self._spool.names[device])

    def _seal_rows(
        self,
        devices: Sequence[int],
        lane: Lane,
        span_s: tuple[float, float],
        ripe_s: float,
        quota: SealingQuota,
    ) -> None:
        """Seal rows of devices that share messages, the oldest of each first."""
        limit = self._settings.message_rows
        while quota.left > 0:
            found, left = {}, limit
            for device in devices:
                rows = self._spool.rows.read(device, *span_s, left)
                if rows:
                    found[device] = rows
                    left -= len(rows)
                if not left:
                    break
            if not found or (left and min(rows[0].sensed_s for rows in found.values()) > ripe_s):
                return
            self.queue(quota.take(self._sealer.rows_of(found, lane)))

    def _may_wait(self, device: int, age_s: float, pace: SendingPace) -> bool:
        """Whether all of a device's rows may wait for more: none is old, and no rule has selected one."""
        if age_s >= pace.delay_s:
            return False
        return self._spool.rows.waits_without_rule(device, self._settings.message_rows)

    def _seal_books(
        self, now_s: float, quota: SealingQuota, pace: SendingPace, *, settled_only: bool
    ) -> None:
        """State lines of the books, a message at a time: memory may not hold all of them at once."""
        books, left, interval_s = self._spool.books, STATED_AT_ONCE, pace.interval_s
        waiting = books.devices_due(now_s, interval_s, settled_only=settled_only, gather_s=pace.gather_s)
        for group in self._sealer.together(self._stating.order(d for d in waiting if self._is_admitted(d))):
            devices, lines = deque(group), list[DueLine]()
            while devices and left > 0 and quota.left > 0:
                room = min(left, LINES_AT_ONCE - len(lines))
                due = books.due(devices[0], now_s, interval_s, settled_only=settled_only, limit=room)
                lines, left = lines + due, left - len(due)
                if len(due) < room:
                    devices.popleft()
                if lines and (len(due) == room or not devices):
                    self.queue(quota.take(self._sealer.books(lines, now_s)))
                    lines = []
