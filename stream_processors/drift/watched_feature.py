"""One watched feature of a cohort: the series of its level and of its spread, and their cool-down.

Each is a window statistic: the mean, and the logarithm of the standard deviation. A window of other devices
than the baseline's is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from schemas.learning_policy import DriftPolicy
from stream_processors.drift.change import SeriesChange
from stream_processors.drift.change_evidence import ChangeTest
from stream_processors.drift.series import Reading, Series
from stream_processors.windowing.moments import Moments

Statistic = Literal["level", "spread"]
STATISTICS: tuple[Statistic, ...] = ("level", "spread")
_PHASE_MEMORY = 8
"""Seasons that the expectation for a phase remembers."""
_FLAT = 1e-6
"""Relative spread below which a window counts as constant: it then has no spread to watch."""


def readings_of(moments: Moments, devices: int) -> dict[Statistic, Reading | None]:
    """Level (mean) and spread (log standard deviation) of a window.

    The spread's own uncertainty follows from the fourth moment, of which the extremes give a lower bound:
    var(log s) is about (kurtosis - 1) / 4 per independent value.
    """
    sd = math.sqrt(moments.variance)
    level = Reading(moments.mean, sd, devices, moments.n)
    if moments.n < 3 or sd <= _FLAT * abs(moments.mean):
        return {"level": level, "spread": None}
    # No value of n lies further out than sqrt(n) standard deviations; moments off the wire may claim it.
    farthest = math.sqrt(moments.n)
    high = min(abs(moments.max - moments.mean) / sd, farthest)
    low = min(abs(moments.mean - moments.min) / sd, farthest)
    extremes = high**4 + low**4
    kurtosis = max(3.0, extremes / moments.n)
    spread = Reading(math.log(sd), math.sqrt((kurtosis - 1) / 4), devices, moments.n)
    return {"level": level, "spread": spread}


class SeasonPhase(NamedTuple):
    """What is expected at one phase of the season.

    Attributes:
        seasons: Seasons that had a value at this phase, counted up to ``_PHASE_MEMORY``.
    """

    seasons: int
    level: float

    def learn(self, value: float) -> SeasonPhase:
        """The expectation after one more season."""
        seasons = min(self.seasons + 1, _PHASE_MEMORY)
        return SeasonPhase(seasons, self.level + (value - self.level) / seasons)


@dataclass(frozen=True)
class WatchedFeature:
    """One feature of one cohort and model version.

    Attributes:
        newest: Number of the newest window judged: start over length.
        cooldown: Windows left in which no verdict is given.
        onset: Number of the first window of the last verdict's new regime; None: no verdict yet, or the last
            one was on a single device.
        resized: Windows in a row that were not compared: they had other devices than the baseline.
    """

    newest: int
    cooldown: int = 0
    onset: int | None = None
    resized: int = 0
    series: Mapping[Statistic, Series] = field(default_factory=lambda: {s: Series() for s in STATISTICS})

    def observe(
        self, window: int, readings: Mapping[Statistic, Reading | None], policy: DriftPolicy
    ) -> WatchedFeature:
        """The watch after a window; windows left out between are windows without a value.

        A window that lacks devices of the baseline, or has others, has no value either, and neither have the
        windows beside it, which some devices may have reached in part only. After a while of these the
        devices that are there are the cohort, and its baseline is taken anew.
        """
        gap = max(window - self.newest - 1, 0)
        level, cooldown = readings["level"], max(self.cooldown - 1 - gap, 0)
        series = {s: self.series[s].skip(gap) for s in STATISTICS}
        others = level is not None and not self.series["level"].compares(level, policy)
        resized = self.resized + 1 if others else 0
        if resized > policy.warmup_windows + policy.cooldown_windows:
            return WatchedFeature(window, cooldown, self.onset)
        if others and not self.resized:
            series = {s: one.without_newest() for s, one in series.items()}
        compared = not others and not self.resized
        series = {s: one.observe(readings[s] if compared else None, policy) for s, one in series.items()}
        if cooldown:  # an alarm in the cool-down is examined when the cool-down ends
            series = {s: _held(one) for s, one in series.items()}
        return replace(self, newest=window, cooldown=cooldown, resized=resized, series=series)

    def changes(
        self, policy: DriftPolicy, test: ChangeTest, *, few: bool = False
    ) -> dict[Statistic, SeriesChange]:
        """Changes that deserve a verdict now, by statistic; see ``Series.change``."""
        if self.cooldown:
            return {}
        found = {s: self.series[s].change(policy, test, few=few) for s in STATISTICS}
        return {s: change for s, change in found.items() if change is not None}

    def after_verdict(self, onset: int | None, policy: DriftPolicy) -> WatchedFeature:
        """The watch after a verdict: it cools down, and takes its baseline from the windows to come.

        Args:
            onset: Of the cohort's new regime; None where a single device is the cause.
            policy: Says how long the cool-down lasts.
        """
        return WatchedFeature(self.newest, policy.cooldown_windows, onset)

    def has_moved(self, onset: int, policy: DriftPolicy) -> bool | None:
        """Whether level or spread moved enough for a verdict since that window, or a recent verdict found so.

        None: not known, because there is no baseline from before that window.
        """
        recent = policy.cooldown_windows + policy.warmup_windows
        if self.onset is not None and abs(self.onset - onset) <= recent:
            return True
        moved = [s.moved_since(self.newest - onset, policy) for s in self.series.values()]
        known = [m for m in moved if m is not None]
        return any(known) if known else None

    def to_state(self) -> dict[str, Any]:
        """As JSON."""
        series = {name: s.to_state() for name, s in self.series.items()}
        own = {"newest": self.newest, "silent": self.cooldown, "onset": self.onset, "resized": self.resized}
        return {**own, "series": series}

    @classmethod
    def from_state(cls, raw: Mapping[str, Any]) -> WatchedFeature:
        """From JSON."""
        series: dict[Statistic, Series] = {s: Series.from_state(raw["series"][s]) for s in STATISTICS}
        return cls(raw["newest"], raw["silent"], raw["onset"], raw["resized"], series)


def _held(series: Series) -> Series:
    """The series with its alarm, if any, kept as if it were new."""
    return series if series.since_alarm is None else replace(series, since_alarm=0)
