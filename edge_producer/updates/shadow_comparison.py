"""Compares two models on the same windows, and judges the new one by the counts. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from schemas.profile import Profile

BOUND = 0.05
"""Largest share of windows that may lack a score that the old model has, or miss their deadline."""
EARLY, EARLY_SHARE = 3, 0.2
"""So many bad windows, and such a share of them, fail a watch before its end."""

ComparisonState = Literal["wait", "pass", "fail"]


@dataclass(frozen=True, slots=True)
class ShadowSummary:
    """The comparison of two models, as a report carries it.

    Attributes:
        active_version: Version of the model that decided.
        windows: Windows that both models scored.
        mean_difference, m2_difference: Of shadow less active score: mean, and sum of squared deviations.
        deadline_misses: Windows on which the new model, active or shadow, took longer than the hop.
    """

    active_version: str
    shadow_version: str
    windows: int
    active_alarms: int
    shadow_alarms: int
    mean_difference: float
    m2_difference: float
    deadline_misses: int
    active_mean: float
    shadow_mean: float


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """Counts of one trial or watch. Each window makes a new object, so that other threads read whole ones.

    Attributes:
        enter: Score at or above which a window counts as an alarm.
        hop_s: Deadline of a score.
        seen: All windows, scored or not.
        windows: Windows that both models scored.
        lost: Windows that the old model scored and the new one did not.
        missed: Windows on which the new model took longer than the hop.
        difference, m2: Of new less old score: mean, and sum of squared deviations (Welford 1962).
    """

    old: str
    new: str
    enter: float
    hop_s: float
    seen: int = 0
    windows: int = 0
    lost: int = 0
    missed: int = 0
    old_alarms: int = 0
    new_alarms: int = 0
    difference: float = 0.0
    m2: float = 0.0
    old_mean: float = 0.0
    new_mean: float = 0.0

    @classmethod
    def start(cls, old: str, new: str, profile: Profile) -> ShadowComparison:
        """A comparison without windows. The first rule of the profile defines an alarm."""
        rules = profile.decision.rules
        return cls(old, new, rules[0].enter if rules else 1.0, profile.sampling.hop_s)

    def add(self, old: float | None, new: float | None, new_took_s: float) -> ShadowComparison:
        """The comparison with one more window; a score of None means no usable one."""
        seen = replace(
            self,
            seen=self.seen + 1,
            lost=self.lost + (old is not None and new is None),
            missed=self.missed + (new_took_s > self.hop_s),
        )
        if old is None or new is None:
            return seen
        n = self.windows + 1
        step = (new - old) - self.difference
        difference = self.difference + step / n
        return replace(
            seen,
            windows=n,
            old_alarms=self.old_alarms + (old >= self.enter),
            new_alarms=self.new_alarms + (new >= self.enter),
            difference=difference,
            m2=self.m2 + step * ((new - old) - difference),
            old_mean=self.old_mean + (old - self.old_mean) / n,
            new_mean=self.new_mean + (new - self.new_mean) / n,
        )

    def judge(self, wanted: int, *, early: bool) -> tuple[ComparisonState, str]:
        """Whether the new model passes after ``wanted`` windows; and the reason where it fails.

        Args:
            wanted: Windows to compare.
            early: Whether a bad start fails it before that: it does where the new model is in force.
        """
        done = self.seen >= wanted
        for bad, what in ((self.lost, "had no usable score"), (self.missed, "missed the deadline")):
            share = bad / max(self.seen, 1)
            if (done and share > BOUND) or (early and bad >= EARLY and share > EARLY_SHARE):
                return "fail", f"{bad} of {self.seen} windows {what} under {self.new}"
        return ("pass" if done else "wait"), ""

    def summary(self, *, in_force: bool) -> ShadowSummary:
        """The comparison as a report carries it.

        Args:
            in_force: Whether the new model decides and the old one is the shadow.
        """
        sign = -1.0 if in_force else 1.0
        new = (self.new, self.new_alarms, self.new_mean)
        old = (self.old, self.old_alarms, self.old_mean)
        active, shadow = (new, old) if in_force else (old, new)
        return ShadowSummary(
            active_version=active[0],
            shadow_version=shadow[0],
            windows=self.windows,
            active_alarms=active[1],
            shadow_alarms=shadow[1],
            mean_difference=sign * self.difference,
            m2_difference=self.m2,
            deadline_misses=self.missed,
            active_mean=active[2],
            shadow_mean=shadow[2],
        )

    def to_status(self) -> dict[str, Any]:
        """For the status file."""
        return {
            "old": self.old,
            "new": self.new,
            "windows": self.windows,
            "old_alarms": self.old_alarms,
            "new_alarms": self.new_alarms,
            "old_mean": round(self.old_mean, 4),
            "new_mean": round(self.new_mean, 4),
            "lost": self.lost,
            "missed": self.missed,
        }
