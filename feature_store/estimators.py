"""Estimators for rows that were kept with known probabilities; numpy in, numbers out.

q is a row's inclusion probability: a row that arrived stands for 1/q rows. Totals are Horvitz and Thompson's
(1952): Σ y/q with variance Σ (1-q) y²/q², since rows are drawn independently. Means are calibrated to the
books, which have the exact number of rows of each stratum (post-stratification: Särndal, Swensson and Wretman
1992, section 7.6): rows that a rule selected then count exactly, and only the spread within the sampled
stratum remains as error.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]


def sums(values: Floats, label: Labels, labels: int) -> Floats:
    """Sum of the values of each label, shape (labels,)."""
    return np.asarray(np.bincount(label, values, minlength=labels), dtype=np.float64)


def total(y: Floats, q: Floats) -> tuple[float, float]:
    """Horvitz-Thompson total and its variance.

    Args:
        y: Values of the rows that arrived, shape (n,).
        q: Their inclusion probabilities, in (0, 1].
    """
    return float(np.sum(y / q)), float(np.sum((1 - q) * y**2 / q**2))


def loss_weights(q: Floats, block: Labels, sensed: Floats, lossy: Flags) -> Floats:
    """Weights 1/q, scaled to N_h / Σ_h 1/q in blocks h that lost rows.

    Args:
        q: Inclusion probability of each row, shape (n,).
        block: Block of each row, in [0, h).
        sensed: Rows sensed in each block, shape (h,).
        lossy: Blocks that lost rows, shape (h,).
    """
    weights = 1 / q
    reached = sums(weights, block, len(sensed))
    factor = np.ones(len(sensed))
    usable = lossy & (reached > 0)
    factor[usable] = sensed[usable] / reached[usable]
    return np.asarray(weights * factor[block])


def calibrated_mean(y: Floats, weights: Floats, stratum: Labels, sensed: Floats) -> tuple[float, float]:
    """Mean over all sensed rows and its variance, each stratum calibrated to its known size.

    Args:
        y: Values, shape (n,); NaN: this row has none, and the mean is over those that have one.
        weights: What each row stands for before calibration, shape (n,).
        stratum: Stratum of each row, in [0, h).
        sensed: Rows sensed in each stratum, shape (h,). A stratum without a row is left out.

    Returns:
        NaN, NaN where no row has a value.
    """
    w = weights * _ratio(sensed, sums(weights, stratum, len(sensed)))[stratum]
    valued = np.isfinite(y)
    mass = float(w[valued].sum())
    if mass == 0:
        return math.nan, math.nan
    mean = float(np.sum(w[valued] * y[valued]) / mass)
    # Linearised: what is left of a row's value once the mean and its stratum's size are known.
    residual = np.where(valued, np.where(valued, y, 0.0) - mean, 0.0)
    centre = _ratio(sums(w * residual, stratum, len(sensed)), sensed)
    inner = residual - centre[stratum]
    return mean, float(np.sum((1 - 1 / np.maximum(weights, 1)) * (w * inner) ** 2) / mass**2)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros(len(below)), where=below > 0)
