"""Where a series changed, by how much, and whether at once or step by step.

A detector finds *that* something moved; this module finds *when* and *how far*, by least squares over the
values since the baseline.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from stream_processors.drift.statistic_spread import robust_sd, spread_of
from stream_processors.windowing.moments import FloatArray

CONFIRMING = 2
"""Values that a new regime has at least: a single outlier is no regime."""
_CONSIDERED = 256
"""Newest values that are searched; bounds the work."""
_CLEAR = 4.0
"""Squared error, in squared standard deviations, by which a step or a ramp must be better: few values."""
_SHORT = 3
"""Values after a change that are few."""
_NOISE_FLOOR = 1e-3
"""Squared error added to both models: a series without noise must not divide 0 by 0."""


class SeriesChange(NamedTuple):
    """One change within a series.

    Attributes:
        at: Index of the first value that counts to the new regime.
        after: Number of values from there on.
        size: Shift of the median, signed; with an even number of values the smaller of the middle two counts.
        noise: Standard deviation before the change (``statistic_spread.StatisticSpread.sd``).
        abruptness: 0 to 1: how much better a step explains the series than a ramp that still goes on.
        chance: Standard deviation of such a shift where nothing changed: after so many values, in a series
            that resembles itself from value to value as this one did.
        lead: Squared error of the best ramp less that of the best step, in squared standard deviations.
        evidence: Natural logarithm of the e-value against no change (``change_evidence``).
    """

    at: int
    after: int
    size: float
    noise: float
    abruptness: float
    chance: float = 0.0
    lead: float = math.inf
    evidence: float = 0.0

    @property
    def abrupt(self) -> bool:
        """Whether it came at once, as far as is known yet: where a ramp explains it better, it goes on."""
        return self.abruptness >= 0.5

    @property
    def unclear(self) -> bool:
        """Whether a few values more would tell whether it came at once."""
        return self.after <= _SHORT and abs(self.lead) < _CLEAR


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
    usual = spread_of(old)
    ramp, step = _errors(values, first, last)
    return SeriesChange(
        at=skipped + index,
        after=len(new),
        size=_shift(old, new),
        noise=usual.sd,
        abruptness=(ramp + _NOISE_FLOOR) / (ramp + step + 2 * _NOISE_FLOOR),
        chance=usual.chance(len(new)),
        lead=(ramp - step) / max(usual.sd**2, _NOISE_FLOOR),
    )


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


def _errors(values: FloatArray, first: int, last: int) -> tuple[float, float]:
    """Squared error of the best ramp that still goes on, and of the best step."""
    # A step may hit window k in its middle, so value k counts to neither side.
    step = min(_squared_error(values[:k]) + _squared_error(values[k + 1 :]) for k in range(first, last + 1))
    position = np.arange(len(values))
    ramps = np.maximum(position[None, :] - np.arange(first - 1, last + 1)[:, None], 0).astype(np.float64)
    ramps -= ramps.mean(axis=1, keepdims=True)
    centred = values - values.mean()
    explained = (ramps @ centred) ** 2 / np.maximum((ramps**2).sum(axis=1), 1e-12)
    ramp = max(float((centred**2).sum() - explained.max()), 0.0)
    return ramp, step


def _squared_error(values: FloatArray) -> float:
    """Sum of squared deviations from the mean."""
    return float(((values - values.mean()) ** 2).sum())
