"""Alarm of an incident: a phase is green, vehicles wait, and fewer leave than its saturation flow lets. Pure.

In ordinary traffic, also at the peak, a standing queue leaves at about the saturation flow. Behind a
blocked lane it does not, however much green it gets.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from schemas.verticals.traffic.junction import Junction

WINDOW_S = 300
LEAST_WAITING = 6.0
"""Vehicles before a phase's stop lines from which on its green counts as used by a queue."""
STARTED_S = 4.0
"""Seconds of a green before departures are looked at."""
LEAST_GREEN_S = 30
"""Seconds of such green in a window below which there is no score."""
ALARM = 0.75
"""Three quarters of the saturation flow are missing."""


class DischargeWatch:
    """One intersection's windows; a sample a second.

    Args:
        junction: Its phases, with their saturation flows.
        window: Samples of a window.
    """

    def __init__(self, junction: Junction, window: int = WINDOW_S) -> None:
        self._junction = junction
        # Per phase: second, and departures in it, of green that a queue used.
        self._used: list[deque[tuple[int, float]]] = [deque() for _ in junction.phases]
        self._left = [0.0] * len(junction.phases)
        self._window = window
        self._second = 0

    def add(
        self, green: int | None, green_s: float, vehicles: Sequence[float], departed: Sequence[float]
    ) -> float:
        """Take a second; the score of the window that ends with it.

        Args:
            green: The phase that is green; None: none.
            green_s: Since its green began.
            vehicles: Waiting or approaching, by phase; NaN: the second is not used.
            departed: Vehicles that passed the stop line in this second, by phase.

        Returns:
            In [0, 1]: the largest share of a phase's saturation flow that is missing; 0 where
            too little green was
            used by a queue.
        """
        if green is not None and green_s >= STARTED_S and self._queued(vehicles[green], departed[green]):
            self._used[green].append((self._second, departed[green]))
            self._left[green] += departed[green]
        self._second += 1
        return max(self._missing(phase) for phase in range(len(self._used)))

    @staticmethod
    def _queued(count: float, departed: float) -> bool:
        return not math.isnan(departed) and count >= LEAST_WAITING

    def _missing(self, phase: int) -> float:
        used = self._used[phase]
        while used and used[0][0] < self._second - self._window:
            self._left[phase] -= used.popleft()[1]
        if len(used) < LEAST_GREEN_S:
            return 0.0
        share = self._left[phase] / (len(used) * self._junction.phases[phase].saturation)
        return min(max(1 - share, 0.0), 1.0)
