"""Rounding to significant digits: hides the last bits, which differ from processor to processor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rounded(values: Array, digits: int = 6) -> Array:
    """Finite values to significant digits."""
    with np.errstate(divide="ignore"):
        magnitude = np.where(values == 0, 0, np.floor(np.log10(np.abs(values))))
    places = digits - 1 - magnitude
    flat = [round(float(v), int(p)) for v, p in zip(np.ravel(values), np.ravel(places), strict=True)]
    return np.array(flat).reshape(np.shape(values))


def rounded_or_nan(values: Array) -> Array:
    """Values to six significant digits; NaN where one is not finite."""
    finite = np.isfinite(values)
    return np.where(finite, rounded(np.where(finite, values, 0.0)), np.nan)


def rounded_number(value: float) -> float:
    """One finite value to six significant digits."""
    return float(rounded(np.array(value)))
