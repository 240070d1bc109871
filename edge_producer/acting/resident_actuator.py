"""What every resident actuator does: takes orders at once, never raises, and tries again where it fails."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

from edge_producer.acting.action_order import ActionOrder
from edge_producer.acting.newest_orders import NewestOrders
from edge_producer.acting.receipt_times import ReceiptTimes
from edge_producer.realtime_class import REALTIME
from edge_producer.switch_interval import SWITCH_INTERVAL

log = logging.getLogger(__name__)

FIRST_S, LONGEST_S = 0.1, 5.0
"""Wait before a lost actuator is tried again: the first, and the longest; it doubles between."""
DETAIL = 300
"""Characters of what is wrong that are kept: it is in the status, and may be a user's text."""
_URGENT_S = 0.05


class ActuatorTimeoutError(OSError):
    """The actuator did not answer in its time."""


class GarbledAnswerError(OSError):
    """What came from the actuator is no answer."""


class ResidentActuator(ABC):
    """Hands orders to an actuator from a thread of its own, or before that from the caller's.

    Args:
        address: Names it for people.
        timeout_s: Seconds within which an order is to be answered.

    Attributes:
        address: As given.
        times: Latencies and counts.
    """

    def __init__(self, address: str, timeout_s: float) -> None:
        self.address = address
        self.times = ReceiptTimes()
        self._timeout_ns = round(timeout_s * 1e9)
        self._orders = NewestOrders()
        self._changed = threading.Condition()
        self._failures = 0
        self._urgent = self._closing = self._connected = self._opened = False
        self._error = self._logged = ""

    def open(self) -> None:
        """Start the thread, which reaches for the actuator; once."""
        if self._opened:
            return
        self._opened = True
        threading.Thread(target=self._run, name="actuator", daemon=True).start()

    def close(self) -> None:
        """End the thread; what waits is not sent any more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._wake()

    def hand_over(self, order: ActionOrder) -> None:
        """Take an order and send it, from this thread where that is possible at once; never waits for it.

        Where windows come fast, the deciding thread rests then, so that nothing keeps the order from its
        reader.
        """
        with self._changed:
            self._orders.put(order)
            self._send_next()
            urgent = order.cause == "stop"
            if urgent:
                self._urgent = True
                self._changed.notify_all()
        if urgent:
            self._wake()
        SWITCH_INTERVAL.rests()

    def wait_until_settled(self, devices: Collection[str], timeout_s: float) -> bool:
        """Wait until nothing of these devices waits or is unanswered; whether the newest orders were done."""
        with self._changed:
            self._changed.wait_for(lambda: self._orders.settled(devices), timeout_s)
            return self._orders.succeeded(devices)

    def status(self) -> dict[str, Any]:
        """For the status file."""
        found = self.times.status()
        with self._changed:
            superseded = self._orders.counts["superseded"]
            state = "connected" if self._connected else "failed" if self._error else "opening"
            error = self._error
        counts = {**found.pop("counts"), **({"superseded": superseded} if superseded else {})}
        return {"address": self.address, "state": state, "error": error, **counts, **found}

    @abstractmethod
    def _send_next(self) -> None:
        """Send, or have the thread send, what may be sent now; with the lock. Never waits or raises."""

    @abstractmethod
    def _serve(self) -> None:
        """Reach the actuator and send orders until the end; raises where it is lost."""

    def _wake(self) -> None:  # noqa: B027  (who waits on the condition needs no more)
        """Have the thread look at once whether it is to end."""

    def _reached(self) -> None:
        """Note that the actuator is there; with the lock."""
        self._connected = True
        self.times.count("connected")

    def _answered(self, number: int, at_ns: int, refused: str = "") -> None:
        """Take note of an answer, and send the device's next order; with the lock."""
        sent = self._orders.answered(number, done=not refused)
        if sent is None:
            self.times.count("unexpected")
            return
        self._failures = 0
        if refused:
            self.times.count("refused")
            self._log(f"it refuses {sent.order.action} of {sent.order.device_id}: {refused}")
        else:
            self._error = self._logged = ""
            self.times.received(sent, at_ns)
        self._send_next()
        if self._urgent:
            self._changed.notify_all()

    def _run(self) -> None:
        REALTIME.join()
        while not self._closing:
            try:
                self._serve()
            except (Exception, SystemExit) as exc:  # noqa: BLE001  (whatever it is: it is tried again)
                self._lose(exc)
            self._pause()

    def _lose(self, exc: BaseException) -> None:
        timed_out, garbled = isinstance(exc, ActuatorTimeoutError), isinstance(exc, GarbledAnswerError)
        self.times.count("timed_out" if timed_out else "garbled" if garbled else "failed")
        with self._changed:
            self._connected = False
            self._failures += 1
            self._orders.begin_anew()
            self._log(str(exc) if isinstance(exc, OSError) else f"{type(exc).__name__}: {exc}")

    def _log(self, error: str) -> None:
        """Keep what is wrong, and log it unless that is what was logged last."""
        error = error[:DETAIL]
        self._error = error
        if error != self._logged:
            self._logged = error
            log.warning("actuator %s: %s", self.address, error)

    def _pause(self) -> None:
        """Back off; an order of the end cuts that short."""
        backoff_s = min(FIRST_S * 2.0 ** min(max(self._failures - 1, 0), 30), LONGEST_S)
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._urgent, backoff_s)
            if self._urgent:
                self._changed.wait_for(lambda: self._closing, _URGENT_S)

    def _now_ns(self) -> int:
        return time.monotonic_ns()
