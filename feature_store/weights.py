"""Weights of training rows: what each stands for, bounded so that no row and no device dominates the set.

Pure numpy. A row that was sent with probability q stands for 1/q rows; strata are calibrated to the books
(Hajek's ratio, as in ``estimators``); then extreme weights and the share of one device are bounded, which
trades a little bias for a lot of variance (Potter 1990 on weight trimming).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from feature_store.estimators import Flags, Floats, Labels, sums


class Calibrated(NamedTuple):
    """Weights before any bound.

    Attributes:
        weights: Shape (n,).
        rows_covered: Rows in blocks that the books state.
        rows_lossy: Of these, rows in a device and stratum that lost rows beyond the design.
    """

    weights: Floats
    rows_covered: int
    rows_lossy: int


def calibrated(
    q: Floats, block: Labels, stratum_of_block: Labels, device_of_block: Labels, sensed: Floats, lossy: Flags
) -> Calibrated:
    """Weights 1/q, scaled to the number of sensed rows where the books have it.

    They are scaled first in each device and stratum that lost rows, then in each stratum as a whole. A single
    device often has too few rows for a good ratio, so devices that lost nothing are not scaled one by one.

    Args:
        q: Inclusion probabilities of the rows, shape (n,).
        block: Block of the books of each row; -1: the books do not have it, its weight stays 1/q.
        stratum_of_block: Number of each block's stratum, shape (b,).
        device_of_block: Number of each block's device, shape (b,).
        sensed: Rows sensed in each block, shape (b,).
        lossy: Blocks that lack rows beyond the design, shape (b,).
    """
    weights = 1 / q
    known = block >= 0
    if not known.any():
        return Calibrated(weights, 0, 0)
    strata = int(stratum_of_block.max()) + 1
    # One number for each pair of device and stratum.
    pool = device_of_block * strata + stratum_of_block
    pools = int(pool.max()) + 1
    lost = sums(lossy.astype(np.float64), pool, pools) > 0
    inner = weights[known]
    inner = inner * _factors(inner, pool[block[known]], sums(sensed, pool, pools), lost)
    whole = np.ones(strata, dtype=bool)
    own = stratum_of_block[block[known]]
    inner = inner * _factors(inner, own, sums(sensed, stratum_of_block, strata), whole)
    scaled = weights.copy()
    scaled[known] = inner
    return Calibrated(scaled, int(known.sum()), int(lost[pool[block[known]]].sum()))


def _factors(weights: Floats, label: Labels, sensed: Floats, usable: Flags) -> Floats:
    """Factor of each row that brings the usable labels' totals to what was sensed."""
    reached = sums(weights, label, len(sensed))
    use = usable & (reached > 0) & (sensed > 0)
    factor = np.ones(len(sensed))
    factor[use] = sensed[use] / reached[use]
    return np.asarray(factor[label])


def clipped(weights: Floats, times_median: float) -> Floats:
    """Weights, none larger than ``times_median`` times their median."""
    if not len(weights):
        return weights
    return np.minimum(weights, times_median * float(np.median(weights)))


def with_device_cap(weights: Floats, device: Labels, share: float) -> Floats:
    """Weights scaled so that no device has more than the share; of few devices, more than an equal part.

    Args:
        weights: Shape (n,).
        device: Number of each row's device.
        share: In (0, 1].
    """
    if not len(weights):
        return weights
    totals = sums(weights, device, int(device.max()) + 1)
    held = totals[totals > 0]
    cap = _cap(np.sort(held)[::-1], max(share, 1 / len(held)))
    factor = np.ones(len(totals))
    factor[totals > 0] = np.minimum(1.0, cap / held)
    return np.asarray(weights * factor[device])


def _cap(totals: Floats, share: float) -> float:
    """The c at which min(totals, c) have no larger share than asked; totals from large to small.

    With the k largest capped, c = share * (k * c + rest), so c = share * rest / (1 - share * k).
    """
    k = np.arange(len(totals))
    k = k[share * k < 1]
    rest = totals[::-1].cumsum()[::-1][: len(k)]
    caps = share * rest / (1 - share * k)
    # The first k that is large enough; a rounding error must not pass over a total that equals its cap.
    first = int(np.argmax(totals[: len(k)] <= caps * (1 + 1e-12)))
    return max(float(caps[first]), float(totals[first]))


def effective_size(weights: Floats) -> float:
    """Kish's effective sample size (1965): as many equally weighted rows would carry as much information."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
