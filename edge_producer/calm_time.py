"""When other work may be done without a window waiting for it. Pure."""

from __future__ import annotations

STOPPED_HOPS = 3.0
"""Hops without a window after which none is expected any more."""
SHORTEST_HOP_S, LONGEST_HOP_S = 0.004, 0.1
"""Windows that come faster leave no calm time, and for slower ones a millisecond does not matter."""


class CalmTime:
    """Finds it right behind a window, where windows of one device come fast and at an even pace.

    Args:
        hop_s: Seconds between windows of a device.
        devices: Devices whose windows come in turn: of several, the next may come at any time.

    Attributes:
        known: Whether there is such a time.
    """

    def __init__(self, hop_s: float, devices: int) -> None:
        self.known = devices == 1 and SHORTEST_HOP_S <= hop_s <= LONGEST_HOP_S
        self._expected_s = STOPPED_HOPS * hop_s if self.known else 0.0
        self._newest_s = -float("inf")
        self._rehearsed = False

    def wait_s(self, now_s: float, *, window: bool) -> float:
        """Seconds until other work may be done; 0: now.

        Args:
            now_s: Steady clock.
            window: A window has just been decided on.
        """
        if window:
            self._newest_s, self._rehearsed = now_s, False
            return 0.0
        return max(self._newest_s + self._expected_s - now_s, 0.0)

    def rehearses(self) -> bool:
        """Whether to prepare for the next window now that one sample of it is missing: once before each."""
        due = self.known and not self._rehearsed
        self._rehearsed = True
        return due
