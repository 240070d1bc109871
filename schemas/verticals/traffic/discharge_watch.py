"""Alarm of an incident: a phase is green, vehicles wait, and fewer leave than the saturation flow lets. Pure.

In ordinary traffic, also at the peak, a standing queue leaves at about the saturation flow. Behind a
blocked lane it does not, however much green it gets. Each detector counts for itself: a phase serves several
approaches, and where one is blocked the others go on.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from schemas.verticals.traffic.junction import Junction
from schemas.verticals.traffic.phase_control import Counts

WINDOW_S = 300
LEAST_WAITING = 4.0
"""Vehicles before a detector's stop line from which on its green counts as used by a queue."""
STARTED_S = 4.0
"""Seconds of a green before departures are looked at."""
LEAST_GREEN_S = 30
"""Seconds of such green in a window below which there is no score."""
ALARM = 0.75
"""Three quarters of the saturation flow are missing."""


@dataclass
class _UsedGreen:
    """Seconds of green that a queue used, with the departures in each, and their sum."""

    seconds: deque[tuple[int, float]] = field(default_factory=deque)
    left: float = 0.0

    def add(self, second: int, departed: float) -> None:
        self.seconds.append((second, departed))
        self.left += departed

    def forget(self, before: int) -> None:
        while self.seconds and self.seconds[0][0] < before:
            self.left -= self.seconds.popleft()[1]


class DischargeWatch:
    """One intersection's windows; a sample a second.

    Args:
        junction: Its phases, with their saturation flows; a phase's detectors count as equally wide.
        window: Samples of a window.
    """

    def __init__(self, junction: Junction, window: int = WINDOW_S) -> None:
        self._junction = junction
        self._used: dict[tuple[int, int], _UsedGreen] = {}
        self._window = window
        self._second = 0

    def add(self, green: int | None, green_s: float, vehicles: Counts, departed: Counts) -> float:
        """Take a second; the score of the window that ends with it.

        Args:
            green: The phase that is green; None: none.
            green_s: Since its green began.
            vehicles: Waiting or approaching, by phase and detector; NaN: the second is not used.
            departed: Vehicles that passed the stop line in this second, likewise.

        Returns:
            In [0, 1]: the largest share of a detector's saturation flow that is missing; 0 where too little
            green was used by a queue.
        """
        if green is not None and green_s >= STARTED_S:
            for place, (count, left) in enumerate(zip(vehicles[green], departed[green], strict=True)):
                if not math.isnan(left) and count >= LEAST_WAITING:
                    self._used.setdefault((green, place), _UsedGreen()).add(self._second, left)
        self._second += 1
        detectors = {phase: len(counts) for phase, counts in enumerate(vehicles)}
        return max(
            (self._missing(used, phase, detectors[phase]) for (phase, _), used in self._used.items()),
            default=0.0,
        )

    def _missing(self, used: _UsedGreen, phase: int, detectors: int) -> float:
        used.forget(self._second - self._window)
        if len(used.seconds) < LEAST_GREEN_S:
            return 0.0
        full = len(used.seconds) * self._junction.phases[phase].saturation / detectors
        return min(max(1 - used.left / full, 0.0), 1.0)
