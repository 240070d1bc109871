"""A population's prior of one feature, from quiet periods of its wearers: a random-effects estimate. Pure.

Between wearers: Paule and Mandel's estimate of the variance, over means cut off at ``FAR`` robust
deviations, so that one device moves it by little; for a new wearer widened as Student's t has it, for few
wearers tell little of a variance. Within a wearer windows follow one another slowly: the design effect is
what the means of hours vary by, against what independent windows would (Kish, Survey Sampling).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from model_service.verticals.wearable.quiet_periods import Floats, QuietPeriods
from schemas.verticals.wearable.personal_baseline import QuietMoments
from schemas.verticals.wearable.wearer_prior import FeaturePrior

FEWEST_WEARERS = 5
"""Below this a prior would tell of single wearers: what the profile's bounds say stands in."""
FAR = 3.0
"""Robust deviations from the median at which a wearer's value is cut off."""
SIGNED_REACH = 6.0
"""Deviations between wearers that the baseline of a well-known wearer may lie from the population's: whatever
one peak their distribution has, at most one wearer in eighty is farther away (Vysochanskij and Petunin 1980).
While little is known of a wearer, half as many (``personal_baseline.REACH``)."""
LEAST_LOG_SPREAD = 0.05
_LEAST_WINDOWS = 2
_MAD = 1.4826


@dataclass(frozen=True)
class WearerMoments:
    """Quiet windows of each wearer who has enough of them.

    Attributes:
        wearers: Their ids, sorted.
        n, mean, variance: Shape (J,).
        hours: Shape (J,), hours with a quiet period.
        hour_variance: Shape (J,), weighted variance of the hours' means.
    """

    wearers: tuple[str, ...]
    n: Floats
    mean: Floats
    variance: Floats
    hours: Floats
    hour_variance: Floats

    @property
    def design(self) -> float:
        """Windows that tell as much of a mean as one independent one."""
        per_hour = self.n / self.hours
        weight = self.hours - 1
        if not weight.sum():
            return max(float(np.median(per_hour)), 1.0)
        effects = per_hour * self.hour_variance / self.variance
        return max(float((weight * effects).sum() / weight.sum()), 1.0)

    def moments(self, wearer: int) -> QuietMoments:
        """Of one wearer, as a device would have learnt them."""
        n = float(self.n[wearer])
        return QuietMoments(n, float(self.mean[wearer]), float(self.variance[wearer]) * n)


def wearer_moments(periods: QuietPeriods) -> WearerMoments:
    """Moments of each wearer, pooled over periods; wearers without spread are left out."""
    found = []
    for place, name in enumerate(periods.wearers):
        at = periods.wearer == place
        n, mean = periods.n[at], periods.mean[at]
        total = n.sum()
        if total < _LEAST_WINDOWS:
            continue
        centre = (n * mean).sum() / total
        variance = (periods.m2[at].sum() + (n * (mean - centre) ** 2).sum()) / (total - 1)
        _, hour = np.unique(periods.hour[at], return_inverse=True)
        count = np.bincount(hour, n)
        by_hour = np.bincount(hour, n * mean) / count
        spread = (count * (by_hour - centre) ** 2).sum() / total
        hours = len(count)
        corrected = spread * hours / (hours - 1) if hours > 1 else 0.0
        if variance > 0:
            found.append((name, total, centre, variance, hours, corrected))
    names = tuple(row[0] for row in found)
    columns = np.array([row[1:] for row in found], dtype=np.float64).reshape(len(found), 5)
    return WearerMoments(names, *columns.T)


def feature_prior(wearers: WearerMoments) -> FeaturePrior:
    """The prior of at least ``FEWEST_WEARERS``, not yet within the profile's bounds."""
    design, number = wearers.design, len(wearers.wearers)
    draws = np.maximum(wearers.n / design, 1.0)
    widened = math.sqrt((1 + 1 / number) * (number - 1) / (number - 3))
    logs = 0.5 * np.log(wearers.variance)
    log_mean, log_variance = between(logs, 1 / (2 * np.maximum(draws - 1, 1.0)))
    log_sd = max(math.sqrt(log_variance) * widened, LEAST_LOG_SPREAD)
    within = math.exp(log_mean)
    mean, variance = between(wearers.mean, within**2 / draws)
    spread = max(math.sqrt(variance) * widened, LEAST_LOG_SPREAD * within)
    return FeaturePrior(
        mean=mean,
        between=spread,
        low=mean - SIGNED_REACH * spread,
        high=mean + SIGNED_REACH * spread,
        within=within,
        within_sd=log_sd,
        within_low=within * math.exp(-SIGNED_REACH * log_sd),
        within_high=within * math.exp(SIGNED_REACH * log_sd),
        design=design,
    )


def between(values: Floats, sampling: Floats) -> tuple[float, float]:
    """Mean and variance between wearers (Paule and Mandel 1982).

    Args:
        values: Shape (J,), one of each wearer; J of 2 or more.
        sampling: Shape (J,), variance of each about the wearer's own.
    """
    middle = float(np.median(values))
    reach = FAR * _MAD * float(np.median(np.abs(values - middle)))
    kept = np.clip(values, middle - reach, middle + reach) if reach > 0 else values

    def at(variance: float) -> tuple[float, float]:
        weights = 1 / (variance + sampling)
        mean = float((weights * kept).sum() / weights.sum())
        return mean, float((weights * (kept - mean) ** 2).sum())

    low, high = 0.0, float(np.square(kept - kept.mean()).sum()) + 1e-12
    if at(0.0)[1] <= len(kept) - 1:
        return at(0.0)[0], 0.0
    for _ in range(80):
        half = (low + high) / 2
        low, high = (half, high) if at(half)[1] > len(kept) - 1 else (low, half)
    return at(high)[0], high
