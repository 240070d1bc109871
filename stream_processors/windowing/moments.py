"""Count, mean, spread and range of a sample, and how two of them add up.

Merging follows Chan, Golub and LeVeque (1979, "Updating formulae and a pairwise algorithm for computing
sample variances"): exact in real arithmetic, stable in floats, so that partials can be made anywhere and
added anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LARGEST_VALUE = 1e100
"""Largest magnitude of a mean or bound that is merged: beyond it, squares leave the range of floats."""
_ROUNDING = 1e-3
"""Relative error that moments may have and still count as those of a sample."""
LARGEST_COUNT = 1 << 40
"""Largest count that is landed or merged: no device senses more, and a sum of such counts is still exact in a
float."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Moments(NamedTuple):
    """Count, mean, spread and range of a sample.

    Attributes:
        n: Number of values, at least 1.
        m2: Sum of squared deviations from the mean.
        min: Smallest value.
        max: Largest value.
    """

    n: int
    mean: float
    m2: float
    min: float
    max: float

    @property
    def variance(self) -> float:
        """Sample variance; 0 for a single value."""
        return self.m2 / (self.n - 1) if self.n > 1 else 0.0

    def __or__(self, other: Moments) -> Moments:
        """Moments of both samples together."""
        n = self.n + other.n
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        m2 = self.m2 + other.m2 + delta * delta * (self.n / n) * other.n
        return Moments(n, mean, m2, min(self.min, other.min), max(self.max, other.max))

    def to_state(self) -> list[Any]:
        """As JSON."""
        return list(self)

    @classmethod
    def from_state(cls, raw: list[Any]) -> Moments:
        """From JSON."""
        return cls(*raw)


def merge(parts: Iterable[Moments]) -> Moments:
    """All samples together, folded in the order given.

    Raises:
        TypeError: No parts: there are no moments of nothing.
    """
    return reduce(Moments.__or__, parts)


class MomentColumns(NamedTuple):
    """Moments of many samples as columns of equal length; a sample without values has n = 0 and NaN."""

    n: IntArray
    mean: FloatArray
    m2: FloatArray
    min: FloatArray
    max: FloatArray

    def take(self, indices: IntArray) -> MomentColumns:
        """The rows with these indices."""
        n, mean, m2, low, high = self
        return MomentColumns(n[indices], mean[indices], m2[indices], low[indices], high[indices])

    def usable(self) -> BoolArray:
        """Which rows can be merged: finite, in range and possible."""
        with np.errstate(invalid="ignore", over="ignore"):
            bounded = (np.abs(self.mean) <= LARGEST_VALUE) & (self.m2 >= 0) & (self.m2 <= LARGEST_VALUE**2)
            ordered = (self.min >= -LARGEST_VALUE) & (self.min <= self.max) & (self.max <= LARGEST_VALUE)
            good: BoolArray = (self.n > 0) & (self.n <= LARGEST_COUNT) & bounded & ordered
            good &= _possible(self.mean, self.m2, self.min, self.max)
        return good


def _possible(mean: FloatArray, m2: FloatArray, smallest: FloatArray, largest: FloatArray) -> BoolArray:
    """The mean lies between the bounds, and m2 holds at least the squared deviations of both.

    With room for what floats lose: a mean of large values, kept as float32 and merged many times.
    """
    room = _ROUNDING * np.maximum(np.abs(smallest), np.abs(largest))
    between = (smallest - room <= mean) & (mean <= largest + room)
    farthest = np.maximum(largest - mean, mean - smallest)
    possible: BoolArray = between & (farthest**2 <= m2 * (1 + _ROUNDING) + room**2 + 2 * room * farthest)
    return possible


def merge_groups(groups: IntArray, rows: MomentColumns) -> list[Moments]:
    """Moments of each group of rows.

    Args:
        groups: The group of each row, 0 to g - 1, none empty.
        rows: Usable rows.

    Returns:
        g moments in the order of their group numbers.
    """
    g = int(groups.max()) + 1 if len(groups) else 0
    total = np.bincount(groups, rows.n, g)
    # Means are summed as distances from one of them: values far from 0 lose no digits.
    origin = np.zeros(g)
    origin[groups] = rows.mean
    centre = origin + np.bincount(groups, rows.n * (rows.mean - origin[groups]), g) / total
    spread = np.bincount(groups, rows.m2 + rows.n * (rows.mean - centre[groups]) ** 2, g)
    smallest, largest = np.full(g, np.inf), np.full(g, -np.inf)
    np.minimum.at(smallest, groups, rows.min)
    np.maximum.at(largest, groups, rows.max)
    columns = (total.astype("int64"), centre, spread, smallest, largest)
    return [Moments(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
