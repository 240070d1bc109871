"""Intervals: a paired bootstrap of blocks within fleets, and Clopper and Pearson's bound of a share. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DRAWS = 2000
SEED = 20260101
LEVEL = 0.95


def ratio_of(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    """Our mean cost as a share of theirs; fleets count alike."""
    mine, other = (float(np.mean([c.mean() for c in costs])) for costs in (ours, theirs))
    return mine / other if other else float("nan")


def ratio_interval(ours: Sequence[Array], theirs: Sequence[Array]) -> tuple[float, float]:
    """Middle 95 % of the ratio, over fleets drawn anew and blocks drawn anew within each, the same for both.

    Args:
        ours: Costs of each block, one array a fleet.
        theirs: The same of the other policy, in the same order.
    """
    rng = np.random.default_rng(SEED)
    fleets = len(ours)
    means = np.empty((2, fleets, DRAWS))
    for f, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        blocks = rng.integers(0, len(mine), size=(DRAWS, len(mine)))
        means[0, f], means[1, f] = mine[blocks].mean(axis=1), other[blocks].mean(axis=1)
    chosen = rng.integers(0, fleets, size=(fleets, DRAWS))
    drawn = means[:, chosen, np.arange(DRAWS)].mean(axis=1)
    low, high = np.quantile(drawn[0] / drawn[1], ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def least_share(successes: int, trials: int) -> float:
    """Lower 95 % bound (one-sided) of a share, of Clopper and Pearson; 0 where there is none."""
    if not successes:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):  # the share at which so many successes, or more, are as unlikely as the level allows
        share = (low + high) / 2
        rest, counted = 1 - share, range(successes, trials + 1)
        tail = sum(math.comb(trials, k) * share**k * rest ** (trials - k) for k in counted)
        low, high = (share, high) if tail < 1 - LEVEL else (low, share)
    return (low + high) / 2
