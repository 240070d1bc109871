"""Where a series changed, by how much, and whether at once or step by step.

A detector finds *that* something moved; this module finds *when* and *how far*, by least squares over the
values since the baseline (values are in baseline standard deviations).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from stream_processors.windowing.moments import FloatArray

CONFIRMING = 2
"""Values that a new regime has at least: a single outlier is no regime."""
_CONSIDERED = 256
"""Newest values that are searched; bounds the work."""
_NOISE_FLOOR = 1e-3
"""Squared error added to both models: a series without noise must not divide 0 by 0."""
_SHORT = 3
"""Values after a change that are too few to call the change slow."""


class SeriesChange(NamedTuple):
    """One change within a series.

    Attributes:
        at: Index of the first value that counts to the new regime.
        after: Number of values from there on.
        size: Shift of the median, signed; with an even number of values the smaller of the middle two counts.
        noise: Standard deviation before the change, taken larger where it rests on few values.
        abruptness: 0 to 1: how much better a step explains the series than a ramp that still goes on.
    """

    at: int
    after: int
    size: float
    noise: float
    abruptness: float

    @property
    def abrupt(self) -> bool:
        """Whether it came at once, as far as is known yet."""
        return self.abruptness >= 0.5 or self.after <= _SHORT


def small_sample(n: int) -> float:
    """Factor by which a standard deviation from n values is taken larger, so that it is rarely too small."""
    return 1 + 2 / max(n - 1, 1)


def robust_sd(values: FloatArray) -> float:
    """Standard deviation, from 8 values on by the median absolute deviation; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    if len(values) < 8:
        return float(values.std(ddof=1))
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def find_change(series: FloatArray, least_before: int) -> SeriesChange | None:
    """The most likely change of level.

    Args:
        series: Values in order, none missing.
        least_before: Least number of values before the change.

    Returns:
        None where the series is too short to hold a change.
    """
    skipped = max(0, len(series) - _CONSIDERED)
    values = series[skipped:]
    first, last = max(least_before, 2), len(values) - CONFIRMING
    if last < first:
        return None
    # Gain of a split: how much two means instead of one lower the sum of squared errors.
    splits = np.arange(first, last + 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    before = sums[splits] / splits
    after = (sums[-1] - sums[splits]) / (len(values) - splits)
    gains = splits * (len(values) - splits) / len(values) * (after - before) ** 2
    index = _with_transition(values, int(splits[int(np.argmax(gains))]), first)
    old, new = values[:index], values[index:]
    noise = robust_sd(old) * small_sample(len(old))
    return SeriesChange(skipped + index, len(new), _shift(old, new), noise, _abruptness(values, first, last))


def _with_transition(values: FloatArray, index: int, first: int) -> int:
    """The index of the change, one earlier where the window before it was hit in its middle."""
    level = float(np.median(values[:index]))
    whole, partly = float(np.median(values[index:])) - level, float(values[index - 1]) - level
    spread = robust_sd(values[: index - 1])
    hit = index > first and partly * whole > 0 and abs(partly) > max(abs(whole) / 4, 2 * spread)
    return index - 1 if hit else index


def _shift(old: FloatArray, new: FloatArray) -> float:
    """Shift of the median, signed; of two middle values the one nearer to the old level counts."""
    moved = new - float(np.median(old))
    sign = math.copysign(1.0, float(moved.mean()))
    ordered = np.sort(sign * moved)
    return sign * max(float(ordered[(len(ordered) - 1) // 2]), 0.0)


def _abruptness(values: FloatArray, first: int, last: int) -> float:
    """Squared error of the best ramp over that of the best ramp and the best step together."""
    # A step may hit window k in its middle, so value k counts to neither side.
    step = min(_squared_error(values[:k]) + _squared_error(values[k + 1 :]) for k in range(first, last + 1))
    position = np.arange(len(values))
    ramps = np.maximum(position[None, :] - np.arange(first - 1, last + 1)[:, None], 0).astype(np.float64)
    ramps -= ramps.mean(axis=1, keepdims=True)
    centred = values - values.mean()
    explained = (ramps @ centred) ** 2 / np.maximum((ramps**2).sum(axis=1), 1e-12)
    ramp = max(float((centred**2).sum() - explained.max()), 0.0)
    return (ramp + _NOISE_FLOOR) / (ramp + step + 2 * _NOISE_FLOOR)


def _squared_error(values: FloatArray) -> float:
    """Sum of squared deviations from the mean."""
    return float(((values - values.mean()) ** 2).sum())
