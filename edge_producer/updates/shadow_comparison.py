"""Compares two models on the same windows, and judges the new one by the counts. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any, Literal

from schemas.profile import Profile
from schemas.updates import SCORE_BINS, TOOK_PARTS

BOUND = 0.05
"""Largest share of windows that may lack a score that the old model has, or miss their deadline."""
GAIN_ERROR = 0.001
"""Probability of failing a model that alarms as much more often as the profile allows, and no more."""
EARLY, EARLY_SHARE = 3, 0.2
"""So many bad windows, and such a share of them, fail a watch before its end."""

REPORT_GROWTH = 2.0
"""A soak reports whenever it has so many times the windows of its last report: 16 reports in four weeks."""
Counts = tuple[int, ...]
AlarmPair = tuple[bool, bool]
"""Whether the old and the new model raise an alarm on a window."""

ComparisonState = Literal["wait", "pass", "fail"]


@dataclass(frozen=True, slots=True)
class OneSided:
    """Windows on which only one of two models alarms; a run is an unbroken row of them."""

    active_only: int
    shadow_only: int
    active_only_runs: int
    shadow_only_runs: int


@dataclass(frozen=True, slots=True)
class Detections:
    """Windows that are known to be faulty, by which of two models detects them."""

    windows: int
    active_detected: int
    shadow_detected: int
    active_only: int
    shadow_only: int


@dataclass(frozen=True, slots=True)
class ShadowSummary:
    """The comparison of two models, as a report carries it.

    Attributes:
        active_version: Version of the model that decided.
        windows: Windows that both models scored.
        mean_difference, m2_difference: Of shadow less active score: mean, and sum of squared deviations.
        deadline_misses: Windows on which the new model, active or shadow, took longer than the hop.
        alarms: Windows on which only one of them alarms.
        labelled: Windows that are known to be faulty, and which of them detects them; None: there were none.
        active_took, shadow_took: Windows by how long the score took (``TOOK_PARTS``).
        active_scores, shadow_scores: Windows by score.
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
    alarms: OneSided
    labelled: Detections | None
    active_took: Counts
    shadow_took: Counts
    active_scores: Counts
    shadow_scores: Counts


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """Counts of one trial or watch. Each window makes a new object, so that other threads read whole ones.

    Attributes:
        enter: Score at or above which a window counts as an alarm, where nothing is known of further outputs.
        hop_s: Deadline of a score.
        max_gain: Largest rise of the share of windows with an alarm.
        seen: All windows, scored or not.
        windows: Windows that both models scored.
        lost: Windows that the old model scored and the new one did not.
        missed: Windows on which the new model took longer than the hop.
        difference, m2: Of new less old score: mean, and sum of squared deviations (Welford 1962).
        gained, gained_runs: Windows on which only the new model alarms, and unbroken rows of them.
        lost_alarms, lost_runs: The same of the old model.
        only: Which model alone alarmed on the last window: 1 the new one, -1 the old one, else 0.
        faulty, faulty_old, faulty_new, faulty_both: Windows known to be faulty, and those that the old model,
            the new one, and both of them detect.
        old_took, new_took, old_scores, new_scores: Windows by time and by score.
    """

    old: str
    new: str
    enter: float
    hop_s: float
    max_gain: float
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
    gained: int = 0
    gained_runs: int = 0
    lost_alarms: int = 0
    lost_runs: int = 0
    only: int = 0
    faulty: int = 0
    faulty_old: int = 0
    faulty_new: int = 0
    faulty_both: int = 0
    old_took: Counts = (0,) * (len(TOOK_PARTS) + 1)
    new_took: Counts = (0,) * (len(TOOK_PARTS) + 1)
    old_scores: Counts = (0,) * SCORE_BINS
    new_scores: Counts = (0,) * SCORE_BINS

    @classmethod
    def start(cls, old: str, new: str, profile: Profile) -> ShadowComparison:
        """A comparison without windows."""
        return cls(old, new, profile.decision.alarm, profile.sampling.hop_s, profile.rollout.max_alarm_gain)

    def add(
        self,
        old: float | None,
        new: float | None,
        new_took_s: float,
        old_took_s: float | None = None,
        alarms: AlarmPair | None = None,
    ) -> ShadowComparison:
        """The comparison with one more window; None: no usable score, no known time.

        Args:
            old: Score of the old model.
            new: Score of the new model.
            new_took_s: Seconds that the new score took.
            old_took_s: Seconds that the old score took.
            alarms: Whether each of them raises an alarm, by any output that a rule reads; None: by the score.
        """
        seen = replace(
            self,
            seen=self.seen + 1,
            lost=self.lost + (old is not None and new is None),
            missed=self.missed + (new_took_s > self.hop_s),
            new_took=self._timed(self.new_took, new_took_s),
            old_took=self._timed(self.old_took, old_took_s),
        )
        if old is None or new is None:
            return replace(seen, only=0)
        old_alarm, new_alarm = alarms or (old >= self.enter, new >= self.enter)
        only = int(new_alarm) - int(old_alarm)
        n = self.windows + 1
        step = (new - old) - self.difference
        difference = self.difference + step / n
        return replace(
            seen,
            windows=n,
            old_alarms=self.old_alarms + old_alarm,
            new_alarms=self.new_alarms + new_alarm,
            difference=difference,
            m2=self.m2 + step * ((new - old) - difference),
            old_mean=self.old_mean + (old - self.old_mean) / n,
            new_mean=self.new_mean + (new - self.new_mean) / n,
            gained=self.gained + (only > 0),
            gained_runs=self.gained_runs + (only > 0 >= self.only),
            lost_alarms=self.lost_alarms + (only < 0),
            lost_runs=self.lost_runs + (only < 0 <= self.only),
            only=only,
            old_scores=_counted(self.old_scores, _score_bin(old)),
            new_scores=_counted(self.new_scores, _score_bin(new)),
        )

    def with_faulty(self, windows: int, *, old: int, new: int, both: int) -> ShadowComparison:
        """The comparison with windows known to be faulty, and how many each model, and both, detect."""
        return replace(self, faulty=windows, faulty_old=old, faulty_new=new, faulty_both=both)

    def _timed(self, counts: Counts, took_s: float | None) -> Counts:
        return counts if took_s is None else _counted(counts, bisect_left(TOOK_PARTS, took_s / self.hop_s))

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
        if done and self._alarms_too_often():
            return "fail", (
                f"{self.gained} of {self.windows} windows alarm under {self.new} alone, {self.lost_alarms}"
                f" under {self.old} alone: a rise by {self.max_gain:.0%} of windows is allowed"
            )
        return ("pass" if done else "wait"), ""

    def _alarms_too_often(self) -> bool:
        """Whether more alarms came than the old model's and the allowed rise; runs are what is counted."""
        length = (self.gained + self.lost_alarms + 1) / (self.gained_runs + self.lost_runs + 1)
        allowed = self.lost_runs + self.max_gain * self.windows / length
        return self.gained_runs > allowed and poisson_tail(self.gained_runs, allowed) <= GAIN_ERROR

    def summary(self, *, in_force: bool) -> ShadowSummary:
        """The comparison as a report carries it.

        Args:
            in_force: Whether the new model decides and the old one is the shadow.
        """
        sign = -1.0 if in_force else 1.0
        new = (self.new, self.new_alarms, self.new_mean)
        old = (self.old, self.old_alarms, self.old_mean)
        active, shadow = (new, old) if in_force else (old, new)
        new_only, old_only = (self.gained, self.gained_runs), (self.lost_alarms, self.lost_runs)
        active_only, shadow_only = (new_only, old_only) if in_force else (old_only, new_only)
        new_bins, old_bins = (self.new_took, self.new_scores), (self.old_took, self.old_scores)
        active_bins, shadow_bins = (new_bins, old_bins) if in_force else (old_bins, new_bins)
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
            alarms=OneSided(active_only[0], shadow_only[0], active_only[1], shadow_only[1]),
            labelled=self._detections(in_force=in_force) if self.faulty else None,
            active_took=active_bins[0],
            shadow_took=shadow_bins[0],
            active_scores=active_bins[1],
            shadow_scores=shadow_bins[1],
        )

    def _detections(self, *, in_force: bool) -> Detections:
        new, old = self.faulty_new, self.faulty_old
        active, shadow = (new, old) if in_force else (old, new)
        both = self.faulty_both
        return Detections(self.faulty, active, shadow, active - both, shadow - both)

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
            "alarms_gained": self.gained,
            "alarms_lost": self.lost_alarms,
        }


def poisson_tail(events: int, mean: float) -> float:
    """Probability of so many events or more, if ``mean`` are expected."""
    below = math.fsum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(events))
    return max(0.0, 1.0 - below) if mean > 0 else float(events == 0)


def _counted(counts: Counts, at: int) -> Counts:
    return (*counts[:at], counts[at] + 1, *counts[at + 1 :])


def _score_bin(score: float) -> int:
    return max(0, min(int(score * SCORE_BINS), SCORE_BINS - 1))
