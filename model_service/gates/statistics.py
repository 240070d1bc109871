"""Weighted means over devices with bootstrap intervals: the device is the unit, not the row.

Rows of one device resemble each other; an interval over rows would be far too narrow. So whole devices are
resampled (Efron 1979; cluster bootstrap: Field and Welsh 2007), with the same draws for every quantity:
differences are paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.gates.holdout import HoldoutRows

Array = NDArray[np.float64]

DRAWS = 2000
SEED = 20260101
MIN_DEVICES = 5
"""With fewer devices an interval over devices means nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightedShare:
    """A weighted mean, kept apart by device.

    Attributes:
        sums: Σ weight · value of each device, shape (D,).
        mass: Σ weight of each device, shape (D,).
    """

    sums: Array
    mass: Array

    def mean(self) -> float:
        """The mean over all devices; NaN without a row."""
        return float(self.sums.sum() / self.mass.sum()) if self.mass.sum() else float("nan")

    def drawn(self, counts: Array) -> Array:
        """The mean of each draw, shape (draws,).

        Args:
            counts: How often each device was drawn, shape (draws, D).
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((counts @ self.sums) / (counts @ self.mass))


def share(values: Array, rows: HoldoutRows, devices: int) -> WeightedShare:
    """The weighted mean of one value a row, shape (n,)."""
    return WeightedShare(*(_by_device(v, rows, devices) for v in (rows.weights * values, rows.weights)))


def _by_device(values: Array, rows: HoldoutRows, devices: int) -> Array:
    return np.asarray(np.bincount(rows.device, values, minlength=devices), dtype=np.float64)


def draws(present: NDArray[np.bool_]) -> Array:
    """How often each device is in each bootstrap draw of the devices present, shape (draws, D); seeded."""
    at = np.flatnonzero(present)
    rng = np.random.default_rng([SEED, len(at)])
    counts = np.zeros((DRAWS, len(present)))
    counts[:, at] = rng.multinomial(len(at), np.full(len(at), 1 / len(at)), size=DRAWS)
    return counts


def interval(values: Array) -> tuple[float, float]:
    """Middle 95 % of drawn values; draws in which the quantity is NaN are left out."""
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)
