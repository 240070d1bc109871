"""Statistics of the quality guard: is the new model's alarm rate worse, however often that is tested?

The unit is the device, because windows of one device are alike. Each device gives one number, the gain g: the
share of windows by which the new model raises more alarms than the old one on the same rows, in [-1, 1].

Student's quantile and the binomial bound are computed here, not by SciPy, so that the guard's process stays
light: ``scipy.stats`` would add some 60 MB and a second of start-up to it for 30 lines of arithmetic, and one
more dependency to the code that decides whether a key signs. The tests compare both with SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
"""Error budget of one rollout: once for aborting a model that is no worse, once for promoting one that is."""
BETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""Bets as parts of the largest allowed one; the wealth is the mean over them."""

Array = NDArray[np.float64]
Answer = Literal["shown", "harmful", "not_shown", "skipped"]


@dataclass(frozen=True)
class GuardFinding:
    """What the statistics show about a model's alarms.

    A *look* is one evaluation of accumulating data, as in sequential analysis.

    Attributes:
        devices: Number of devices with a paired shadow.
        gain: Mean over these devices.
        low: Lower end of the confidence sequence of the mean gain; holds at all looks together.
        high: Upper end at this look, which spends this look's part of the error budget.
        bound: The profile's ``max_alarm_gain``.
        unseen: Largest share of the fleet that may be worse, given how many of these are (95 %).
        text: Explanation for people.
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
    """What the paired shadows show.

    Args:
        first: Gain of each device in its first comparison. The test for harm, which runs at every
            observation, uses these: one value a device, however many reports follow.
        newest: Gain of each device in its newest comparison. A promotion uses these.
        bound: Largest allowed mean gain.
        min_devices: Fewer devices show nothing.
        looks: For how many promotions the rollout asks; each spends its part of the error budget.
    """
    n = len(newest)
    if n == 0:
        return GuardFinding(
            "not_shown", 0, 0.0, -1.0, 1.0, bound, 1.0, "no device has compared both models yet"
        )
    # Half of the budget for harm here, a quarter for each end of the comparison with the holdout.
    low = lower_end(first, ALPHA / 2) if first else -1.0
    high = largest_mean(newest, ALPHA / looks)
    gain = math.fsum(newest) / n
    text = f"alarms {gain:+.1%} of windows on {n} devices, at most {high:+.1%}; allowed {bound:+.1%}"
    unseen = could_be_worse(sum(g > 0 for g in newest), n, ALPHA)
    if low > bound:
        text = f"alarms rise by at least {low:.1%} of windows on {n} devices; allowed {bound:.1%}"
        return GuardFinding("harmful", n, gain, low, high, bound, unseen, text)
    if n < min_devices:
        text = f"{n} devices compared both models, {min_devices} are needed; {text}"
        return GuardFinding("not_shown", n, gain, low, high, bound, unseen, text)
    answer: Answer = "shown" if high <= bound else "not_shown"
    return GuardFinding(answer, n, gain, low, high, bound, unseen, text)


def holdout_harm(treated: Sequence[float], holdout: Sequence[float], bound: float) -> str:
    """How much more treated devices alarm than those held out, in words; empty: no harm is shown.

    Both are alarm rates per device in [0, 1] and independent samples, so the difference of two confidence
    sequences bounds the harm. Each end gets a quarter of the error budget; the paired test gets the rest.
    """
    if not treated or not holdout or math.fsum(treated) / len(treated) <= bound:
        return ""  # neither end of an interval lies beyond its mean
    gap = lower_end(treated, ALPHA / 4, 0.0, 1.0) - upper_end(holdout, ALPHA / 4, 0.0, 1.0)
    if gap <= bound:
        return ""
    return f"treated devices alarm at least {gap:.1%} of windows more than the {len(holdout)} held out"


def wealth(values: Sequence[float], mean: float) -> float:
    """Wealth of a gambler who bets that the mean is above ``mean``, from values in [0, 1].

    Under any distribution whose mean is ``mean`` or less, the wealth is a supermartingale that starts at 1,
    so the probability that it ever reaches 1/alpha is at most alpha (Ville 1939). It is the mean over fixed
    bets of the capital process of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
    betting" (JRSS B 2024); compare Howard et al., "Time-uniform, nonparametric, nonasymptotic confidence
    sequences" (2021). Fixed bets make it independent of the order of the values.
    """
    x: Array = np.asarray(values, dtype=np.float64) - mean
    bets: Array = np.asarray(BETS) / max(mean, 1e-9)  # a bet of 1/mean would lose all on a value of 0
    logs = np.log1p(np.outer(bets, x)).sum(axis=1)  # the product over values of 1 + bet * (value - mean)
    # exp(700) is near the largest double; beyond it only the order of magnitude is lost.
    return float(np.exp(np.minimum(logs, 700.0)).mean())


def lower_end(values: Sequence[float], alpha: float, least: float = -1.0, most: float = 1.0) -> float:
    """A bound that the mean exceeds at all sample sizes together, with probability 1 - alpha.

    Args:
        values: One per device, within [least, most].
        alpha: One-sided error probability.
        least: Smallest possible value.
        most: Largest possible value.
    """
    return _lower_end(tuple(values), alpha, least, most)


@lru_cache(maxsize=256)
def _lower_end(values: tuple[float, ...], alpha: float, least: float, most: float) -> float:
    span = most - least
    x = [(v - least) / span for v in values]
    if wealth(x, 1e-9) < 1 / alpha:
        return least  # not even the smallest mean is rejected
    # All means whose wealth reaches 1/alpha are rejected; the wealth falls as the assumed mean grows, so
    # bisection finds the largest rejected one. 30 halvings: to about 1e-9 of the span.
    below, above = 1e-9, float(np.mean(x))
    for _ in range(30):
        middle = (below + above) / 2
        below, above = (middle, above) if wealth(x, middle) >= 1 / alpha else (below, middle)
    return least + span * below


def upper_end(values: Sequence[float], alpha: float, least: float, most: float) -> float:
    """A bound that the mean stays below at all sample sizes together, with probability 1 - alpha."""
    return -lower_end([-v for v in values], alpha, -most, -least)


def largest_mean(gains: Sequence[float], alpha: float) -> float:
    """Upper end of the mean gain at one look that was planned beforehand.

    It is the smaller of two bounds, each with half of alpha: Student's (1908) for the gains, and Student's
    for the rises alone. The second counts a fall as zero, so its mean is never smaller, and devices that
    became much quieter do not widen it. Both assume that the mean of few, discrete numbers is normal;
    ``could_be_worse`` shows how much that may hide.
    """
    rises = [max(g, 0.0) for g in gains]
    return min(_student(gains, alpha / 2), _student(rises, alpha / 2))


@lru_cache(maxsize=1024)
def could_be_worse(worse: int, n: int, alpha: float) -> float:
    """Largest share of all devices that may be worse when ``worse`` of n are (Clopper and Pearson 1934)."""
    if worse >= n:
        return 1.0
    low, high = worse / n, 1.0  # the exact bound is where seeing so few becomes as unlikely as alpha
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(worse, n, middle) > alpha else (low, middle)
    return high


def _at_most(k: int, n: int, p: float) -> float:
    """Probability of k successes at most among n, each with probability p."""
    if n > 500:  # the exact sum costs k terms a call; from here on the normal approximation is close enough
        return _normal(k, n, p)
    return math.fsum(math.comb(n, i) * p**i * (1.0 - p) ** (n - i) for i in range(k + 1))


def _normal(k: int, n: int, p: float) -> float:
    """The same by the normal approximation with continuity correction."""
    spread = math.sqrt(n * p * (1 - p))
    return NormalDist().cdf((k + 0.5 - n * p) / spread)


def _student(values: Sequence[float], alpha: float) -> float:
    """Student's upper bound of the mean."""
    n = len(values)
    if n < 2:
        return 1.0  # one value has no spread: nothing better than the largest possible gain is known
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return mean + student_quantile(1 - alpha, n - 1) * spread / math.sqrt(n)


@lru_cache(maxsize=4096)
def student_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's distribution, for p > 0.5."""
    if freedom > 300:  # at the levels used here, within one part in a hundred of the normal quantile
        return NormalDist().inv_cdf(p)
    low, high = 0.0, 1.0
    # Step 1: double the upper end until it lies above the quantile. Step 2: bisect to double precision.
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
    # The probability of [-t, t] is a sum of powers of cos(theta), where tan(theta) = t / sqrt(f):
    # odd f:  2/pi * (theta + sin * (cos + 2/3 cos^3 + 2*4/(3*5) cos^5 + ...)), up to cos^(f-2)
    # even f: sin * (1 + 1/2 cos^2 + 1*3/(2*4) cos^4 + ...), up to cos^(f-2)
    theta = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = freedom % 2 == 1
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0  # f = 1 (Cauchy): theta alone
    for i in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine**2 * (i - 1) / i
        total += term
    within = 2 / math.pi * (theta + sine * total) if odd else sine * total
    return (1 + within) / 2
