"""Which order goes to an actuator next: one at a time for each device, of what waits the newest. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

from edge_producer.acting.action_order import ActionOrder, Cause


@dataclass(frozen=True, slots=True)
class SentOrder:
    """An order that the actuator has not answered.

    Attributes:
        sent_ns: Monotonic clock when it was sent.
    """

    number: int
    order: ActionOrder
    sent_ns: int


class NewestOrders:
    """Every order that is put in is sent, or superseded by a newer one of its device.

    Used by one thread at a time.

    Attributes:
        counts: ``superseded`` before they were sent.
    """

    def __init__(self) -> None:
        self._in_force: dict[str, ActionOrder] = {}
        self._waiting: dict[str, ActionOrder] = {}
        self._sent: dict[int, SentOrder] = {}
        self._busy: dict[str, int] = {}
        self._failed: set[str] = set()
        self._number = 0
        self.counts: Counter[str] = Counter()

    def put(self, order: ActionOrder) -> None:
        """Take an order: it is the device's newest."""
        device = order.device_id
        self.counts["superseded"] += device in self._waiting
        self._in_force[device] = self._waiting[device] = order

    def take(self, now_ns: int) -> SentOrder | None:
        """The next order to send, as sent now; None: none waits whose device is free."""
        free = next((name for name in self._waiting if name not in self._busy), None)
        if free is None:
            return None
        self._number += 1
        sent = SentOrder(self._number, self._waiting.pop(free), now_ns)
        self._sent[sent.number] = sent
        self._busy[free] = sent.number
        return sent

    def answered(self, number: int, *, done: bool) -> SentOrder | None:
        """The order that was answered; None: none of that number is unanswered."""
        sent = self._sent.pop(number, None)
        if sent is not None:
            device = sent.order.device_id
            del self._busy[device]
            (self._failed.discard if done else self._failed.add)(device)
        return sent

    def begin_anew(self) -> None:
        """The actuator has lost everything: what is in force for each device waits to be sent again.

        What it has never answered keeps its cause and its times; the rest is a renewal.
        """
        unanswered = {sent.order.device_id: sent.order for sent in self._sent.values()}
        self._sent.clear()
        self._busy.clear()
        for device, order in self._in_force.items():
            if device in self._waiting:
                continue
            known = unanswered.get(device) is order
            self._waiting[device] = order if known else replace(order, cause=_again(order), arrived_ns=0)

    def sent_ns(self, number: int) -> int | None:
        """When an unanswered order was sent; None: none of that number is unanswered."""
        sent = self._sent.get(number)
        return None if sent is None else sent.sent_ns

    def oldest_sent_ns(self) -> int | None:
        """When the order was sent that is unanswered for the longest; None: none is."""
        return min((sent.sent_ns for sent in self._sent.values()), default=None)

    def settled(self, devices: Collection[str]) -> bool:
        """Whether no order of these devices waits or is unanswered."""
        return not any(name in self._waiting or name in self._busy for name in devices)

    def succeeded(self, devices: Collection[str]) -> bool:
        """Whether the newest order of each was carried out."""
        return self.settled(devices) and not self._failed.intersection(devices)


def _again(order: ActionOrder) -> Cause:
    return "renewal" if order.cause == "decision" else order.cause
