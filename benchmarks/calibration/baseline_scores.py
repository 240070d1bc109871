"""How well three baselines tell a wearer's deviation from the wearer's usual, by number of quiet windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration.simulated_wearers import MINUTES, PER_MINUTE, SimulatedWearer
from schemas.verticals.wearable.personal_baseline import (
    MEMORY,
    PersonalBaseline,
    QuietMoments,
    population_baseline,
    shrunk,
)
from schemas.verticals.wearable.wearer_prior import FeaturePrior

Floats = NDArray[np.float64]
METHODS = ("population only", "wearer only", "personal")
COUNTS = (6, 30, 120, 600, 2400, 9600)
"""Quiet windows of ten seconds that a device has learnt: one minute to 27 hours."""
RISE = 10.0
"""1/min by which a resting pulse rises in a fever of a degree or so."""
FALSE_ALARMS = 0.01
"""Share of usual quiet windows that may deviate."""
LEARN_DAYS, TEST_DAYS = 20, 6
ILL_RISE = 20.0
"""1/min by which a wearer's pulse is up throughout calibration, where that is tried."""
EVERY = 60
"""Of the windows that are judged, one in so many: they lie ten minutes apart."""
_LEAST_SPREAD = 1.0
"""1/min: a wearer-only spread of few windows is not taken for less."""


@dataclass(frozen=True)
class WearerScores:
    """One held-out wearer at one number of quiet windows.

    Attributes:
        error: Own mean by the baseline less the true one, 1/min, by method.
        usual, ill: Absolute deviations of windows in standard deviations, by method.
    """

    error: Mapping[str, float]
    usual: Mapping[str, Floats]
    ill: Mapping[str, Floats]


@cache
def quiet_windows(wearer: SimulatedWearer, days: int, begin_day: int) -> Floats:
    """Pulses of the windows at rest, in order."""
    minutes, begin = days * MINUTES, begin_day * MINUTES
    quiet = np.repeat(wearer.quiet_minutes(minutes, begin), PER_MINUTE)
    return wearer.pulse(minutes, begin)[quiet]


def moments(prior: FeaturePrior, values: Floats, counts: Sequence[int]) -> dict[int, QuietMoments]:
    """What a device has learnt after each number of windows."""
    own, found = QuietMoments(), {}
    for number, value in enumerate(values[: max(counts)].tolist(), 1):
        own = own.with_value(value, MEMORY * prior.design)
        if number in counts:
            found[number] = own
    return found


def baselines(prior: FeaturePrior, learnt: Floats, own: QuietMoments) -> dict[str, PersonalBaseline]:
    """What each method makes of the windows."""
    spread = max(float(np.std(learnt, ddof=1)), _LEAST_SPREAD)
    return {
        "population only": population_baseline(prior),
        "wearer only": PersonalBaseline(float(np.mean(learnt)), spread, spread / math.sqrt(len(learnt))),
        "personal": shrunk(prior, own)[0],
    }


def wearer_scores(
    prior: FeaturePrior, wearer: SimulatedWearer, counts: Sequence[int] = COUNTS, ill: float = 0.0
) -> dict[int, WearerScores]:
    """Scores by number of windows learnt; numbers that the wearer did not reach are left out.

    Args:
        ill: Rise of the pulse while calibrating, 1/min.
    """
    learnable = quiet_windows(wearer, LEARN_DAYS, 0) + ill
    tested = quiet_windows(wearer, TEST_DAYS, LEARN_DAYS)[::EVERY]
    found = {}
    for count, own in moments(prior, learnable, counts).items():
        made = baselines(prior, learnable[:count], own)
        found[count] = WearerScores(
            {name: own.mean - wearer.level for name, own in made.items()},
            {
                name: np.abs((tested - own.mean) / math.hypot(own.spread, own.error))
                for name, own in made.items()
            },
            {
                name: np.abs((tested + RISE - own.mean) / math.hypot(own.spread, own.error))
                for name, own in made.items()
            },
        )
    return found


@dataclass(frozen=True)
class MethodScore:
    """One method at one number of windows.

    Attributes:
        rms_error: Of the own mean, 1/min.
        detected: Share of windows of a deviation that are told, wearers weighing alike, at ``FALSE_ALARMS``.
        low, high: 95 % interval of that, wearers drawn anew.
    """

    rms_error: float
    detected: float
    low: float
    high: float


def method_scores(found: Sequence[WearerScores], seed: int) -> dict[str, MethodScore]:
    """Scores of each method at equal false alarms over all these wearers."""
    return {name: _scored(found, name, seed) for name in METHODS}


def _scored(found: Sequence[WearerScores], name: str, seed: int) -> MethodScore:
    def share(chosen: Sequence[WearerScores]) -> float:
        # Each wearer weighs alike, however many quiet windows there are.
        usual = np.concatenate([w.usual[name] for w in chosen])
        weights = np.concatenate([np.full(len(w.usual[name]), 1 / len(w.usual[name])) for w in chosen])
        order = np.argsort(usual)[::-1]
        passed = np.cumsum(weights[order]) / weights.sum() > FALSE_ALARMS
        limit = float(usual[order][int(np.argmax(passed))])
        return float(np.mean([np.mean(w.ill[name] > limit) for w in chosen]))

    detected = share(found)
    rng = np.random.default_rng(seed)
    drawn = [share([found[k] for k in rng.integers(len(found), size=len(found))]) for _ in range(200)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    errors = np.array([w.error[name] for w in found])
    return MethodScore(float(np.sqrt(np.mean(errors**2))), detected, float(low), float(high))
