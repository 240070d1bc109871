"""How much a statistic moves from window to window while nothing happens, and how long it remembers.

The spread is that of the statistic itself (a window's mean, or the logarithm of its standard deviation), over
windows in order. It is not the spread of the samples within a window: of n independent samples the mean moves
sqrt(n) times less than they do, of samples that resemble each other it moves nearly as much. Which of the two
holds shows in the windows alone, for one device as for many.

Windows that resemble their neighbours say less than as many independent ones: their own deviation from their
own mean is too small, and a mean over a few of them is no surer than one. Both are taken from an
autoregressive process of first order, whose coefficient is taken high where few windows tell it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from stream_processors.windowing.moments import FloatArray

_LONGEST_MEMORY = 0.98
"""Largest coefficient: beyond it no number of windows that is kept would say anything."""
_FAR = 6.0
"""Robust standard deviations beyond which a value counts as if it lay there: a glitch blinds nothing."""
_SURE = 2.0
"""Standard errors by which the memory is taken larger: too small a memory makes healthy windows a drift."""
_FEW = 8
"""Values below which no value can be called far from the others."""


class StatisticSpread(NamedTuple):
    """Spread of a statistic over windows in which nothing happened.

    Attributes:
        sd: Standard deviation, taken larger where it rests on few windows or on windows that resemble each
            other.
        memory: Correlation of a window with the next, 0 to below 1; an upper estimate.
        windows: Number of windows that it rests on.
    """

    sd: float
    memory: float
    windows: int

    @property
    def lasting(self) -> float:
        """Windows that say as much as one independent window."""
        return (1 + self.memory) / (1 - self.memory)

    def chance(self, after: int) -> float:
        """Standard deviation by which the mean of later windows differs from the mean of these by chance.

        Args:
            after: Number of later windows.
        """
        return self.sd * math.sqrt(_share(self.memory, after) + _share(self.memory, self.windows))


def small_sample(n: float) -> float:
    """Factor by which a standard deviation from n values is taken larger, so that it is rarely too small."""
    return 1 + 2 / max(n - 1, 1)


def robust_sd(values: FloatArray) -> float:
    """Standard deviation, from 8 values on by the median absolute deviation; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    if len(values) < _FEW:
        return float(values.std(ddof=1))
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def spread_of(values: FloatArray) -> StatisticSpread:
    """The spread of a statistic, from its values over windows in order.

    Args:
        values: At least one.
    """
    kept, n = _without_glitches(values), len(values)
    if n < 3:
        return StatisticSpread(small_sample(n) * robust_sd(kept), _LONGEST_MEMORY, n)
    memory = memory_of(kept, _SURE)
    independent = n * (1 - memory) / (1 + memory)
    return StatisticSpread(float(kept.std(ddof=1)) * small_sample(independent), memory, n)


def _without_glitches(values: FloatArray) -> FloatArray:
    """The values, those far out moved in. Where most are equal, none is far: the rest are all that varies."""
    robust = robust_sd(values)
    if len(values) < _FEW or robust == 0:
        return values
    middle = float(np.median(values))
    return np.clip(values, middle - _FAR * robust, middle + _FAR * robust)


def memory_of(values: FloatArray, errors: float = 0.0) -> float:
    """First autocorrelation, 0 to below 1, corrected for short series (Marriott and Pope 1954).

    Args:
        values: In order.
        errors: Standard errors by which it is taken larger.
    """
    n = len(values)
    if n < 2:
        return 0.0
    centred = values - values.mean()
    total = float(centred @ centred)
    if total <= 0:
        return 0.0
    observed = float(centred[:-1] @ centred[1:]) / total
    unbiased = observed + (1 + 4 * max(observed, 0.0)) / n
    upper = unbiased + errors * math.sqrt(max(1 - observed**2, 0.0) / n)
    return min(max(upper, 0.0), _LONGEST_MEMORY)


def _share(memory: float, n: int) -> float:
    """Variance of the mean of n successive values, as a share of the variance of one."""
    lags = np.arange(1, n)
    return float(1 + 2 * ((1 - lags / n) * memory**lags).sum()) / n
