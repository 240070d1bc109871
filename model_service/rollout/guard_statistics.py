"""Statistics of the quality guard: is the new model's alarm rate worse, however often one looks.

The unit is the device: windows of one device are alike, devices are not. Per device one number, the gain g:
share of windows by which the new model raises more alarms than the old one on the same rows, in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
"""Error budget of one rollout: once for aborting a model that is no worse, once for promoting one that is."""
BETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Parts of the largest allowed bet; the wealth is the mean over them."""

Array = NDArray[np.float64]
Answer = Literal["shown", "harmful", "not_shown", "skipped"]


@dataclass(frozen=True)
class GuardFinding:
    """What the guard says of a model's alarms.

    Attributes:
        devices: With a paired shadow.
        gain: Mean over devices.
        low: Lower end of the confidence sequence of the mean gain; holds at all looks together.
        high: Upper end at this look, its part of the error budget spent.
        bound: The profile's ``max_alarm_gain``.
        unseen: Share of devices that could be worse without one of these showing it (95 %).
        text: For people.
    """

    answer: Answer
    devices: int
    gain: float
    low: float
    high: float
    bound: float
    unseen: float
    text: str


def judge(
    first: Sequence[float],
    newest: Sequence[float],
    bound: float,
    min_devices: int,
    looks: int,
) -> GuardFinding:
    """Verdict of the paired shadows.

    Args:
        first: Gain of each device in its first comparison: what the test that is always on rests on.
        newest: Gain of each device in its newest comparison: what a promotion rests on.
        bound: Largest allowed mean gain.
        min_devices: Fewer show nothing.
        looks: How many promotions the rollout asks for; each spends its part of the error budget.
    """
    n = len(newest)
    if n == 0:
        return GuardFinding(
            "not_shown", 0, 0.0, -1.0, 1.0, bound, 1.0, "no device has compared both models yet"
        )
    low = lower_end(first, ALPHA / 2) if first else -1.0
    high = largest_mean(newest, ALPHA / looks)
    gain = float(np.mean(newest))
    told = f"alarms {gain:+.1%} of windows on {n} devices, at most {high:+.1%}; allowed {bound:+.1%}"
    unseen = could_be_worse(sum(g > 0 for g in newest), n, ALPHA)
    if low > bound:
        text = f"alarms rise by at least {low:.1%} of windows on {n} devices; allowed {bound:.1%}"
        return GuardFinding("harmful", n, gain, low, high, bound, unseen, text)
    if n < min_devices:
        text = f"{n} devices compared both models, {min_devices} are needed; {told}"
        return GuardFinding("not_shown", n, gain, low, high, bound, unseen, text)
    answer: Answer = "shown" if high <= bound else "not_shown"
    return GuardFinding(answer, n, gain, low, high, bound, unseen, told)


def holdout_harm(treated: Sequence[float], holdout: Sequence[float], bound: float) -> str:
    """What is wrong with treated devices against those held out; empty: nothing is shown.

    Both are alarm rates per device in [0, 1], independent samples: the difference of two confidence
    sequences, each end with a quarter of the budget, so that with the paired test the whole is spent.
    """
    if not treated or not holdout:
        return ""
    gap = lower_end(treated, ALPHA / 4, 0.0, 1.0) - upper_end(holdout, ALPHA / 4, 0.0, 1.0)
    if gap <= bound:
        return ""
    return f"treated devices alarm at least {gap:.1%} of windows more than the {len(holdout)} held out"


def wealth(values: Sequence[float], mean: float) -> float:
    """Wealth of a gambler who bets that the mean is above ``mean``, from values in [0, 1].

    Under any distribution whose mean is ``mean`` or less it is a supermartingale from 1, so it ever
    reaches 1/alpha with probability alpha at most (Ville 1939). The mean over fixed bets of the capital
    process of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B
    2024); of the kind of Howard et al., "Time-uniform, nonparametric, nonasymptotic confidence sequences"
    (2021). Fixed bets make it independent of the order of the values.
    """
    x: Array = np.asarray(values, dtype=np.float64) - mean
    bets: Array = np.asarray(BETS) / max(mean, 1e-9)
    logs = np.log1p(np.outer(bets, x)).sum(axis=1)
    return float(np.exp(np.minimum(logs, 700.0)).mean())


def lower_end(values: Sequence[float], alpha: float, least: float = -1.0, most: float = 1.0) -> float:
    """The mean is above it at all sample sizes together, with probability 1 - alpha.

    Args:
        values: One per device, within [least, most].
        alpha: One-sided.
        least: Smallest possible value.
        most: Largest possible value.
    """
    span = most - least
    x = [(v - least) / span for v in values]
    if wealth(x, 1e-9) < 1 / alpha:
        return least
    below, above = 1e-9, float(np.mean(x))  # the wealth falls as the assumed mean grows
    for _ in range(30):
        middle = (below + above) / 2
        below, above = (middle, above) if wealth(x, middle) >= 1 / alpha else (below, middle)
    return least + span * below


def upper_end(values: Sequence[float], alpha: float, least: float = -1.0, most: float = 1.0) -> float:
    """The mean is below it at all sample sizes together, with probability 1 - alpha."""
    return -lower_end([-v for v in values], alpha, -most, -least)


def largest_mean(gains: Sequence[float], alpha: float) -> float:
    """Upper end of the mean gain at one look planned beforehand.

    The smaller of two bounds, each with half of alpha: Student's (1908) of the gains, and Student's of the
    rises alone (falls counted as zero: a mean that is never smaller), which devices that became much quieter
    do not widen. Both rest on normality of a mean of few, discrete numbers: ``could_be_worse`` says what
    that hides.
    """
    rises = [max(g, 0.0) for g in gains]
    return min(_student(gains, alpha / 2), _student(rises, alpha / 2))


def could_be_worse(worse: int, n: int, alpha: float) -> float:
    """Largest share of devices that may be worse when ``worse`` of n are (Clopper and Pearson 1934)."""
    if worse >= n:
        return 1.0
    low, high = worse / n, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(worse, n, middle) > alpha else (low, middle)
    return high


def _at_most(k: int, n: int, p: float) -> float:
    if n > 500:
        return _normal(k, n, p)
    return math.fsum(math.comb(n, i) * p**i * (1.0 - p) ** (n - i) for i in range(k + 1))


def _normal(k: int, n: int, p: float) -> float:
    spread = math.sqrt(n * p * (1 - p)) or 1e-12
    return NormalDist().cdf((k + 0.5 - n * p) / spread)


def _student(values: Sequence[float], alpha: float) -> float:
    n = len(values)
    if n < 2:
        return 1.0
    return float(np.mean(values)) + student_quantile(1 - alpha, n - 1) * float(
        np.std(values, ddof=1)
    ) / math.sqrt(n)


def student_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's distribution, for p > 0.5."""
    if freedom > 300:
        return NormalDist().inv_cdf(p)
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < p else (low, middle)
    return high


def student_cdf(t: float, freedom: int) -> float:
    """Distribution function of Student's distribution for t >= 0.

    Finite sums for whole degrees of freedom: Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
    """
    theta = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for i in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (i - 1) / i
        total += term
    within = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return (1 + within) / 2
