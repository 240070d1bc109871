"""A plan: cycle, offset and splits of one intersection, and what makes it feasible."""

from __future__ import annotations

import math
from dataclasses import dataclass

from schemas.verticals.traffic.junction import Junction

TOLERANCE_S = 1e-6
MOST_PULL = 20.0


@dataclass(frozen=True, slots=True)
class SignalPlan:
    """One intersection's plan.

    Attributes:
        cycle_s: Seconds of a cycle.
        offset_s: Seconds after each whole cycle since 1970 (UTC) at which the first phase's green begins.
        splits: Share of the cycle of each phase, its intergreen included, in the order of the phases; sum 1.
        pull: By how much more the planned phase counts than others, where detectors work; 0: the signal
            chooses freely, and the plan is what it falls back to without detectors.
    """

    cycle_s: float
    offset_s: float
    splits: tuple[float, ...]
    pull: float = 0.0

    def starts_s(self) -> tuple[float, ...]:
        """Seconds into the cycle at which each phase's green begins."""
        return tuple(self.cycle_s * sum(self.splits[:k]) for k in range(len(self.splits)))

    def greens_s(self, junction: Junction) -> tuple[float, ...]:
        """Seconds of green of each phase."""
        return tuple(self.cycle_s * split - junction.intergreen_s for split in self.splits)

    def into_cycle_s(self, now_s: float) -> float:
        """Seconds since the first phase's green began, in [0, cycle_s)."""
        return (now_s - self.offset_s) % self.cycle_s

    def at(self, now_s: float) -> tuple[int, float]:
        """Phase of an instant, and seconds until its part of the cycle ends."""
        into = self.into_cycle_s(now_s)
        for phase, start in reversed(list(enumerate(self.starts_s()))):
            if into >= start:
                return phase, start + self.splits[phase] * self.cycle_s - into
        return 0, self.splits[0] * self.cycle_s - into


def infeasible(plan: SignalPlan, junction: Junction) -> list[str]:
    """Why a junction cannot run a plan; empty where it can."""
    if len(plan.splits) != len(junction.phases):
        return [f"{len(plan.splits)} splits for {len(junction.phases)} phases"]
    numbers = (plan.cycle_s, plan.offset_s, plan.pull, *plan.splits)
    if not all(math.isfinite(number) for number in numbers):
        return ["a number is not finite"]
    found = []
    if plan.cycle_s <= 0 or not 0 <= plan.offset_s < plan.cycle_s:
        found.append(f"offset {plan.offset_s:g} s is not within the cycle of {plan.cycle_s:g} s")
    if abs(sum(plan.splits) - 1) > TOLERANCE_S:
        found.append(f"splits sum to {sum(plan.splits):g}, not to 1")
    for phase, green_s in zip(junction.phases, plan.greens_s(junction), strict=True):
        if green_s < phase.min_green_s - TOLERANCE_S:
            found.append(f"phase {phase.name}: {green_s:.1f} s green, at least {phase.min_green_s:g}")
        if green_s > phase.max_green_s + TOLERANCE_S:
            found.append(f"phase {phase.name}: {green_s:.1f} s green, at most {phase.max_green_s:g}")
    if not 0 <= plan.pull <= MOST_PULL:
        found.append(f"a pull of {plan.pull:g}; it is from 0 to {MOST_PULL:g}")
    return found
