"""A share and its interval of Clopper and Pearson. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

LEVEL = 0.95


class ShareInterval(NamedTuple):
    """A share of trials, with the two-sided 95 % interval."""

    share: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """Share and interval."""
        return f"{self.share:.2f} [{self.low:.2f}, {self.high:.2f}]"


def share_interval(successes: int, trials: int) -> ShareInterval:
    """The exact interval of a share; of no trial it is all of [0, 1].

    >>> share_interval(0, 40).text
    '0.00 [0.00, 0.09]'
    """
    if not trials:
        return ShareInterval(math.nan, 0.0, 1.0)
    return ShareInterval(
        successes / trials, _least(successes, trials), 1 - _least(trials - successes, trials)
    )


def _least(successes: int, trials: int) -> float:
    """The share at which so many successes, or more, are as unlikely as half of what the level leaves."""
    if not successes:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        tail = sum(
            math.comb(trials, k) * share**k * (1 - share) ** (trials - k)
            for k in range(successes, trials + 1)
        )
        low, high = (share, high) if tail < (1 - LEVEL) / 2 else (low, share)
    return (low + high) / 2
