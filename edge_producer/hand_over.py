"""Decides when which device's update goes to the writer. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from edge_producer.device import Device
from edge_producer.device_update import DeviceUpdate


class HandOver:
    """Rounds over all devices, and what does not wait for them: rows to be sent.

    In a round every device that did something gives its update. While windows are paced the devices do so one
    by one, so that no window waits for all of them.

    Args:
        devices: All devices, by id.
        interval_s: Time from one round to the next.
        row_wait_s: How long a row that is to be sent waits for rows of other devices.
    """

    def __init__(self, devices: Mapping[str, Device], interval_s: float, row_wait_s: float) -> None:
        self._devices = devices
        self._interval_s = interval_s
        self._row_wait_s = row_wait_s
        self._round: deque[str] = deque()
        self._round_at_s = 0.0
        self._ready: dict[str, None] = {}
        self._ready_at_s = 0.0
        self._urgent: deque[str] = deque()

    def begin(self, now_s: float) -> None:
        """Begin the first interval."""
        self._round_at_s = now_s + self._interval_s

    def sensed(self, device_id: str, now_s: float) -> None:
        """Look at a device that has processed a window: it may have rows to send."""
        if self._devices[device_id].has_rows:
            if not self._ready:
                self._ready_at_s = now_s + self._row_wait_s
            self._ready[device_id] = None

    def begins_round(self, now_s: float) -> bool:
        """Whether a round begins now; whoever did not have its turn in the last one is in this one."""
        if now_s < self._round_at_s:
            return False
        self._round_at_s = now_s + self._interval_s
        self._round = deque(name for name, device in self._devices.items() if device.dirty)
        return True

    @property
    def in_round(self) -> bool:
        """Whether devices have their turn in the round still before them."""
        return bool(self._round)

    def wait_s(self, now_s: float) -> float:
        """Seconds until an update is due; 0: one is."""
        if self._round or self._urgent:
            return 0.0
        due_s = min(self._round_at_s, self._ready_at_s) if self._ready else self._round_at_s
        return max(due_s - now_s, 0.0)

    def take(self, now_s: float, *, everything: bool) -> tuple[list[DeviceUpdate], bool]:
        """The next update, or all of them; and whether they should be committed now.

        Args:
            now_s: Steady clock.
            everything: Take what the whole round has.
        """
        if self._ready and now_s >= self._ready_at_s:
            self._urgent.extend(self._ready)
            self._ready.clear()
        while self._urgent:
            device = self._devices[self._urgent.popleft()]
            if device.has_rows:  # the round, or an alert, may have taken them
                return [device.take_update()], not self._urgent
        count = len(self._round) if everything else min(len(self._round), 1)
        updates = _updates(self._devices[self._round.popleft()] for _ in range(count))
        return updates, bool(updates) and not self._round


def _updates(devices: Iterable[Device]) -> list[DeviceUpdate]:
    return [device.take_update() for device in devices]
