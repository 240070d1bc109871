"""One wearer's own mean and spread of a feature, shrunk towards the population's. Pure.

Between wearers the means are taken for normal, and the variances for scaled inverse chi-squared, with the
moments that the prior states: the empirical Bayes estimate under a random-effects model (Gelman et al.,
Bayesian Data Analysis, 2.5 and 2.6). Windows of one wearer follow one another slowly, so only one in
``design`` counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from schemas.verticals.wearable.wearer_prior import FeaturePrior

MEMORY = 200.0
"""Independent windows that are remembered: older ones fade, so that a wearer may change over months."""
REACH = 3.0
"""Deviations from the population within which a baseline stays while little is known of its wearer."""
WELL_KNOWN = 10.0
"""Independent windows from which it may go half of the way from there to the prior's bounds."""


@dataclass(frozen=True, slots=True)
class QuietMoments:
    """Moments of a wearer's quiet windows.

    Attributes:
        n: Windows; older ones count for less once ``MEMORY`` is full, so it need not be whole.
        mean: Of them.
        m2: Sum of squared deviations from it.
    """

    n: float = 0.0
    mean: float = 0.0
    m2: float = 0.0

    def with_value(self, value: float, most: float) -> QuietMoments:
        """The moments with one more window (Welford); at most ``most`` windows are remembered."""
        n, m2 = self.n, self.m2
        if n + 1 > most:
            n, m2 = most - 1, m2 * (most - 1) / n
        delta = value - self.mean
        mean = self.mean + delta / (n + 1)
        return QuietMoments(n + 1, mean, m2 + delta * (value - mean))


@dataclass(frozen=True, slots=True)
class PersonalBaseline:
    """What is usual of one feature for one wearer.

    Attributes:
        mean: In the feature's unit.
        spread: Standard deviation of windows around it.
        error: Standard error of the mean: how little is known of this wearer yet.
    """

    mean: float
    spread: float
    error: float

    def z(self, value: float) -> float:
        """Deviation of a window, in standard deviations of what is expected of the next one."""
        return (value - self.mean) / math.hypot(self.spread, self.error)


def population_baseline(prior: FeaturePrior) -> PersonalBaseline:
    """What is expected of a wearer of whom nothing is known."""
    return PersonalBaseline(prior.mean, prior.within, prior.between)


def shrunk(prior: FeaturePrior, own: QuietMoments) -> tuple[PersonalBaseline, tuple[str, ...]]:
    """The baseline of a wearer, within the bounds of the prior.

    It is a limited translation estimate (Efron and Morris 1972): a few windows move it by ``REACH``
    deviations between wearers at most. As they grow in number it may go on to the prior's bounds, so that one
    who is unlike the others is judged by the own windows in the end.

    Returns:
        The baseline, and which of ``mean`` and ``spread`` lay outside the bounds.
    """
    if own.n < 1:
        return population_baseline(prior), ()
    # However alike windows in a row are, together they tell no less than the first of them.
    draws = max(own.n / prior.design, 1.0)
    weight = 0.5 / prior.within_sd**2  # degrees of freedom that give a log-spread of within_sd
    variance = own.m2 / own.n
    spread = math.sqrt((weight * prior.within**2 + draws * variance) / (weight + draws))
    known = draws / (draws + WELL_KNOWN)
    spread, clipped_spread = _within(spread, *_spread_bounds(prior, known))
    sampling = spread**2 / draws
    share = prior.between**2 / (prior.between**2 + sampling)
    mean, clipped_mean = _within(prior.mean + share * (own.mean - prior.mean), *_mean_bounds(prior, known))
    moved = (("mean",) if clipped_mean else ()) + (("spread",) if clipped_spread else ())
    return PersonalBaseline(mean, spread, math.sqrt(share * sampling)), moved


def _mean_bounds(prior: FeaturePrior, known: float) -> tuple[float, float]:
    """Bounds of a mean, known being 0 for a new wearer and close to 1 for one who is known well."""
    near = (
        max(prior.low, prior.mean - REACH * prior.between),
        min(prior.high, prior.mean + REACH * prior.between),
    )
    return near[0] + known * (prior.low - near[0]), near[1] + known * (prior.high - near[1])


def _spread_bounds(prior: FeaturePrior, known: float) -> tuple[float, float]:
    """Likewise of a spread, by ratios."""
    factor = math.exp(REACH * prior.within_sd)
    near = max(prior.within_low, prior.within / factor), min(prior.within_high, prior.within * factor)
    return near[0] * (prior.within_low / near[0]) ** known, near[1] * (prior.within_high / near[1]) ** known


def _within(value: float, low: float, high: float) -> tuple[float, bool]:
    kept = min(max(value, low), high)
    return kept, kept != value
