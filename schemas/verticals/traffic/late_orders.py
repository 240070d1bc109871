"""Orders to signals that arrive some seconds after they were sent, as over a slow link. Pure."""

from __future__ import annotations

from collections import deque

from schemas.verticals.traffic.signal_head import SignalHead


class LateOrders:
    """Orders on their way, in the order in which they were sent.

    Args:
        late_s: Seconds that each takes; 0: it arrives in its own second.
    """

    def __init__(self, late_s: int) -> None:
        self._late_s = late_s
        self._sent: deque[tuple[int, SignalHead, int]] = deque()

    def send(self, second: int, head: SignalHead, phase: int) -> None:
        """Send an order in a second."""
        self._sent.append((second + self._late_s, head, phase))

    def arrive(self, second: int) -> None:
        """Tell the heads what has arrived by a second."""
        while self._sent and self._sent[0][0] <= second:
            _, head, phase = self._sent.popleft()
            head.tell(phase)
