"""The signal itself: takes commands for a phase, and keeps shortest and longest green and intergreen. Pure.

Whatever it is told, and whether it is told anything, one phase at most is green, no green is shorter or
longer than its phase allows, and between two greens lies the whole intergreen.
"""

from __future__ import annotations

import math

from schemas.verticals.traffic.junction import Junction
from schemas.verticals.traffic.phase_control import SignalView, equal_plan, fixed_phase
from schemas.verticals.traffic.signal_plan import SignalPlan

SILENT_S = 10.0
"""Seconds without a command after which the fixed plan is in force."""


class SignalHead:
    """One intersection's signal.

    Args:
        junction: Phases and bounds.
        fixed: The plan that is in force without commands; by default one of equal greens.
        now_s: Seconds since 1970 of the first step; the first phase's green begins then.
    """

    def __init__(self, junction: Junction, now_s: float, fixed: SignalPlan | None = None) -> None:
        self._junction = junction
        self._fixed = fixed or equal_plan(junction)
        self._phase, self._since_s = 0, now_s
        self._wanted: int | None = None
        self._told_s = now_s
        self._now_s = now_s
        self._last_green_s = [now_s] * len(junction.phases)
        self.fallbacks = 0
        """Steps in which the fixed plan was in force for want of commands."""

    @property
    def view(self) -> SignalView:
        """What it shows."""
        red = tuple(
            0.0 if k == self._phase else self._now_s - last for k, last in enumerate(self._last_green_s)
        )
        return SignalView(self._phase, max(self._now_s - self._since_s, 0.0), red)

    @property
    def green_s(self) -> float:
        """Seconds since the green began; 0 in the intergreen."""
        return max(self._now_s - self._since_s, 0.0)

    def tell(self, phase: int) -> None:
        """Show a phase as soon as the bounds allow; a phase that does not exist is left out of account."""
        if 0 <= phase < len(self._junction.phases):
            self._wanted, self._told_s = phase, self._now_s

    def release(self) -> None:
        """Follow the fixed plan, until something is told again."""
        self._told_s = -math.inf

    @property
    def falls_back(self) -> bool:
        """Whether the fixed plan is in force for want of commands."""
        return self._now_s - self._told_s > SILENT_S

    def step(self, now_s: float) -> int | None:
        """The phase that is green from now on; None in the intergreen.

        Args:
            now_s: Seconds since 1970; never less than at the step before.
        """
        self._now_s = max(now_s, self._now_s)
        if self._now_s < self._since_s:
            return None
        self._last_green_s[self._phase] = self._now_s
        wanted = self._next()
        if wanted == self._phase:
            return self._phase
        self._phase, self._since_s = wanted, self._now_s + self._junction.intergreen_s
        return None

    def _next(self) -> int:
        green_s, shown = self._now_s - self._since_s, self._junction.phases[self._phase]
        if green_s < shown.min_green_s:
            return self._phase
        if self.falls_back:
            self.fallbacks += 1
            wanted = fixed_phase(self._junction, self.view, self._now_s, self._fixed, 1.0).phase
        else:
            wanted = self._phase if self._wanted is None else self._wanted
        if wanted == self._phase and green_s >= shown.max_green_s:
            return (self._phase + 1) % len(self._junction.phases)
        return wanted
