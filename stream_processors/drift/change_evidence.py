"""How strong the evidence is that a series changed its level: an e-value that holds under autocorrelation.

The null hypothesis is an autoregressive process of first order about one level, whose level, noise and
coefficient (0 to below 1) are all unknown. The e-value is a ratio of two likelihoods of the series so far:

* above, a mixture over when the level moved, by how much, and over the coefficient;
* below, the largest over the coefficient, without any move.

Level and noise are integrated out by their right Haar prior in both, so neither has to be estimated. Under
any coefficient the ratio is at most that of a mixture to the truth, so its expectation is at most 1 at every
stopping time: a series may be examined after each window, and the chance that it ever reaches 1/a is at most
a (Ville's inequality; Wasserman, Ramdas and Balakrishnan 2020 for the ratio with a maximum below, Perez-Ortiz
et al. 2022 for the integral). It holds for four values as for four hundred, and no simulation enters it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from stream_processors.windowing.moments import FloatArray

MOST_VALUES = 512
"""Values over which the time of a change is drawn."""
_LEAST_VALUES = 4
_STEP = 0.04
"""Distance between coefficients: the largest likelihood lies close to one of them."""
_ROW_MEMORY = 0.99
"""Largest correlation of a row with the next that the null hypothesis holds."""
_SIZES = {2.0: 0.4, 8.0: 0.4, 32.0: 0.2}
"""Standard deviations of a change's size, in those of the noise, and the weight of each in the mixture."""
_RAMPS = (1, 2, 5, 15, 45)
"""Values over which a change comes: a step, a step within a window, and ramps."""


class ChangeTest(NamedTuple):
    """What the evidence for a change must show.

    Attributes:
        needed: Natural logarithm of the e-value that it must reach (``false_discoveries``).
        memory: Largest correlation of a window with the next that may be behind it (``longest_memory``); more
            where the windows before the change show more.
    """

    needed: float
    memory: float


def longest_memory(rows: float) -> float:
    """Correlation of a window's mean with the next, of rows that each correlate .99 with the next.

    Args:
        rows: Rows of one device in a window.
    """
    n, m = max(round(rows), 1), _ROW_MEMORY
    lags = np.arange(1, n)
    own = n + 2 * float(((n - lags) * m**lags).sum())
    return m * ((1 - m**n) / (1 - m)) ** 2 / own


def log_evidence(values: FloatArray, least_noise: float, memory: float) -> float:
    """Natural logarithm of the e-value against "the level never changed".

    Args:
        values: In order, none missing; the newest ``MOST_VALUES`` count.
        least_noise: Standard deviation below which a series counts as constant.
        memory: Largest coefficient of the null hypothesis.
    """
    n = len(values[-MOST_VALUES:])
    if n < _LEAST_VALUES:
        return 0.0
    v = values[-n:] - float(np.median(values[-n:]))
    memories = np.append(np.arange(0.0, memory, _STEP), memory)[:, None]
    # Whitened: of an AR(1) with coefficient m, v[t] - m v[t-1] is independent noise, as is sqrt(1-m^2) v[0].
    y, level = _whitened(v, memories), _whitened(np.ones(n), memories)
    per_unit = (level**2).sum(1, keepdims=True)
    shift = (level * y).sum(1, keepdims=True) / per_unit
    rest = y - shift * level
    floor, half = n * least_noise**2, (n - 1) / 2
    quiet = (rest**2).sum(1, keepdims=True) + floor
    common = 0.5 * np.log1p(-(memories**2)) - 0.5 * np.log(per_unit)
    below = float((common - half * np.log(quiet)).max())
    parts = []
    for along, power in _shapes(rest, per_unit, memories):
        for size, weight in _SIZES.items():
            left = np.maximum(quiet - along**2 / (1 / size**2 + power), floor)
            parts.append(common - half * np.log(left) - 0.5 * np.log1p(size**2 * power) + math.log(weight))
    likely = np.array(parts) - math.log(MOST_VALUES)
    most = float(likely.max())
    return most + math.log(float(np.exp(likely - most).sum()) / (len(_RAMPS) * len(memories))) - below


def log_evidence_of_one(size: float, devices: float) -> float:
    """The same where one device of a cohort has moved, from the spread between devices.

    What no other device shows has no cause that all have in common, and a device that wanders does not wander
    farther than devices lie apart. So without a change a device's level differs from before by at most the
    square root of two of that spread, however long its memory. Which device moved, and when, is not known.

    Args:
        size: Move of the mean over all devices, in standard errors of a mean over as many.
        devices: Devices behind the mean: one that moved alone moved so many times as far.
    """
    z, wide = size * math.sqrt(devices / 2), max(_SIZES) ** 2
    ways = math.log(devices) + math.log(MOST_VALUES)
    return z**2 / 2 * wide / (1 + wide) - math.log(1 + wide) / 2 - ways


def _shapes(
    rest: FloatArray, per_unit: FloatArray, memories: FloatArray
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Of each shape of a change: its product with the values, and with itself, each without the level.

    Args:
        rest: Whitened values without their level, shape (coefficients, n).
        per_unit: Square of a whitened constant, shape (coefficients, 1).
        memories: The coefficients, shape (coefficients, 1).

    Yields:
        Both of shape (coefficients, n - 2): for a change at each value but the first and the last.
    """
    n, slope = rest.shape[1], 1 - memories
    places, none = np.arange(n), np.zeros((len(memories), 2 * _RAMPS[-1]))
    sums, moments = (
        np.concatenate([np.cumsum(part[:, ::-1], axis=1)[:, ::-1], none], axis=1)
        for part in (rest, places * rest)
    )
    k = places[1:-1]
    for length in _RAMPS:
        # A ramp that starts at k is (j + 1) / length at k + j; whitened 1 / length + j (1 - m) / length.
        within = sums[:, 1 : n - 1] - sums[:, 1 + length : n - 1 + length]
        weighted = moments[:, 1 : n - 1] - moments[:, 1 + length : n - 1 + length] - k * within
        along = (within + slope * weighted) / length + slope * sums[:, 1 + length : n - 1 + length]
        climbs = np.minimum(length, n - k).astype(np.float64)
        first, second = climbs * (climbs - 1) / 2, climbs * (climbs - 1) * (2 * climbs - 1) / 6
        stays = n - k - climbs
        on_level = slope * ((climbs + slope * first) / length + slope * stays)
        squared = (climbs + 2 * slope * first + slope**2 * second) / length**2 + slope**2 * stays
        yield along, np.maximum(squared - on_level**2 / per_unit, 1e-12)


def _whitened(v: FloatArray, memories: FloatArray) -> FloatArray:
    """Shape (coefficients, n)."""
    rest = v[None, 1:] - memories * v[None, :-1]
    return np.concatenate([np.sqrt(1 - memories**2) * v[0], rest], axis=1)
