"""Rules for when to retrain a fleet's model: the drift watch, river's detectors as they come, always, never.

A fleet is a number of cohorts, each with one series of window means per feature. The detectors of river get
the window means as they are, one detector a series, with their default parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from river.drift import ADWIN, KSWIN, PageHinkley

from schemas.drift_vocabulary import DriftKind
from schemas.profile import Profile
from stream_processors.drift.cohort_judge import CohortJudge
from stream_processors.drift.false_discoveries import FleetTests, VerdictCounts
from stream_processors.drift.watched_feature import STATISTICS
from stream_processors.windowing.moments import Moments
from stream_processors.windowing.partials import TaskShare
from stream_processors.windowing.windows import CohortScope, TumblingWindow

_LEARNT = (DriftKind.SENSOR_RECALIBRATION, DriftKind.COVARIATE)
"""Kinds that a model is trained for without a person."""

Windows = Sequence[Mapping[str, np.ndarray | None]]
"""Of one cohort, in order: by feature the values of a window, shape (devices, rows); None: no values."""


class Alarm(NamedTuple):
    """One alarm of a rule.

    Attributes:
        cohort: Number of the cohort.
        window: Number of the window that gave it.
        onset: Number of the first window that it is about.
        retrains: Whether it starts a training run without a person.
    """

    cohort: int
    feature: str
    window: int
    onset: int
    retrains: bool = True


Rule = Callable[[Sequence[Windows], Profile], list[Alarm]]


def ours(fleet: Sequence[Windows], profile: Profile) -> list[Alarm]:
    """The drift watch, all cohorts in one task."""
    judges = [
        CohortJudge(CohortScope(profile.name, f"{profile.name}/s/{n}/h"), profile, {})
        for n in range(len(fleet))
    ]
    length_us, found, counts = round(profile.drift.window_s * 1e6), [], VerdictCounts({})
    series = len(STATISTICS) * sum(len(cohort[0]) for cohort in fleet)
    for number in range(max(map(len, fleet))):
        window = TumblingWindow(number * length_us, length_us)
        for cohort, judge in enumerate(judges):
            values = fleet[cohort][number] if number < len(fleet[cohort]) else {}
            shares = {("m@1", f): _share(v) for f, v in values.items() if v is not None}
            tests = FleetTests(series, counts.at(window.end_us, profile.drift))
            verdicts = judge.window(window, shares, fleet=tests) if shares else []
            counts.add(window.end_us, profile.drift, len(verdicts))
            for v in verdicts:
                onset = round(v["onset"].timestamp() * 1e6) // length_us
                found.append(Alarm(cohort, v["feature"], number, onset, v["kind"] in _LEARNT))
    return found


def _river(build: Callable[[], ADWIN | KSWIN | PageHinkley]) -> Rule:
    def rule(fleet: Sequence[Windows], profile: Profile) -> list[Alarm]:
        found = []
        for cohort, windows in enumerate(fleet):
            detectors = {feature: build() for feature in windows[0]}
            for number, values in enumerate(windows):
                for feature, detector in detectors.items():
                    if (of_window := values[feature]) is not None:
                        detector.update(float(of_window.mean()))
                        if detector.drift_detected:
                            found.append(Alarm(cohort, feature, number, number))
        return found

    return rule


def always(fleet: Sequence[Windows], profile: Profile) -> list[Alarm]:
    """A retrain after each window of each cohort."""
    return [
        Alarm(cohort, feature, number, number)
        for cohort, windows in enumerate(fleet)
        for number, values in enumerate(windows)
        for feature in list(values)[:1]
    ]


def never(fleet: Sequence[Windows], profile: Profile) -> list[Alarm]:
    """No retrain."""
    return []


RULES: Mapping[str, Rule] = {
    "edgeloop": ours,
    "river ADWIN": _river(ADWIN),
    "river Page-Hinkley": _river(PageHinkley),
    "river KSWIN": _river(lambda: KSWIN(seed=7)),
    "always": always,
    "never": never,
}


def _share(values: np.ndarray) -> TaskShare:
    mean = float(values.mean())
    m2 = float(((values - mean) ** 2).sum())
    return TaskShare(Moments(values.size, mean, m2, float(values.min()), float(values.max())), len(values))
