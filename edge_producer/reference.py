"""The rolling reference of one device: median and spread of its own past features."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from edge_producer.window import Floats
from schemas.profile import UNITLESS_KINDS, Profile

MAD_TO_STD = 1.4826
"""Standard deviation over median absolute deviation, for a normal distribution."""
MEAN_AD_TO_STD = 1.2533
"""Likewise over the mean absolute deviation, which does not vanish where half of the values are equal."""
HIGH_SCORE = 0.5
HIGH_SHARE = 8
"""Only every eighth window with a high score is learnt, so that a fault becomes normal eight times slower."""
REFRESHES = 64
"""Number of times that the statistics are renewed while the memory is replaced once."""


def smallest_spreads(profile: Profile) -> NDArray[np.float64]:
    """Lowest spread of each feature: a thousandth of the channel's usual range; 0.05 if unitless."""
    ranges = {c.name: c.usual[1] - c.usual[0] for c in profile.channels}
    return np.array(
        [0.05 if s.kind in UNITLESS_KINDS else 1e-3 * ranges[s.channel] for s in profile.feature_specs()]
    )


class RollingReference:
    """Median and spread of the newest windows of one device. Kept in memory only: each start warms up anew.

    Args:
        floors: Smallest spread of each feature, shape (F,).
        memory: Windows remembered.
        warmup: Number of values that a feature needs before it is compared.
    """

    def __init__(self, floors: NDArray[np.float64], memory: int, warmup: int) -> None:
        self._floors = floors
        self._warmup = min(warmup, memory)
        # One row a feature, so that sorting runs along memory.
        self._past = np.full((len(floors), memory), np.nan, dtype=np.float32)
        self._learnt = 0
        self._high = 0
        self._stale = 0
        self.center: Floats = np.full(len(floors), np.nan, dtype=np.float32)
        self.spread: Floats = np.ones(len(floors), dtype=np.float32)

    def copy(self) -> RollingReference:
        """An independent copy."""
        return copy.deepcopy(self)

    def learn(self, features: Floats, score: float | None) -> None:
        """Add a window after it was scored; of those with a high score, only every eighth.

        Args:
            features: Shape (F,); NaN is left out.
            score: The window's score against the present reference; None where there is none.
        """
        if score is not None and score >= HIGH_SCORE:
            self._high += 1
            if self._high % HIGH_SHARE:
                return
        self._past[:, self._learnt % self._past.shape[1]] = features
        self._learnt += 1
        self._stale += 1
        if self._learnt >= self._warmup and self._stale >= self._interval():
            self._renew()

    def _interval(self) -> int:
        return max(1, min(self._learnt, self._past.shape[1]) // REFRESHES)

    def _renew(self) -> None:
        self._stale = 0
        past = self._past[:, : min(self._learnt, self._past.shape[1])]
        finite = np.isfinite(past).sum(axis=1)
        median = _median(past, finite)
        deviation = np.abs(past - median[:, None])
        mad = _median(deviation, finite)
        mean_ad = np.nansum(deviation, axis=1, dtype=np.float64) / np.maximum(finite, 1)
        spread = np.fmax(np.fmax(MAD_TO_STD * mad, MEAN_AD_TO_STD * mean_ad), self._floors)
        self.spread = spread.astype(np.float32)
        self.center = np.where(finite >= self._warmup, median, np.nan).astype(np.float32)


def _median(rows: Floats, finite: NDArray[np.intp]) -> Floats:
    """Median of the finite values of each row; NaN where there is none."""
    ordered = np.sort(rows, axis=1)  # NaN last
    last = np.maximum(finite - 1, 0)
    lines = np.arange(len(rows))
    middle: Floats = (ordered[lines, last // 2] + ordered[lines, (last + 1) // 2]) / np.float32(2)
    return middle
