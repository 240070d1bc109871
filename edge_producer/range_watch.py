"""Watches one device's samples for values outside their channel's range: glitches, runs, and too many. Pure.

A single value is a glitch: the sample counts as missing. A run is none, whatever it is: it raises an alarm.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from edge_producer.window import Samples
from schemas.profile import Profile

RUN = 3
"""So many samples in a row, on the same side, are no glitch."""
KEPT = 1 - 1 / 256
"""What a window's counts weigh once the next window has come: the share looks back some 256 windows."""
ENOUGH = 64
"""Samples of a channel from which on its share is judged."""


class RangeWatch:
    """One device's channels against their ranges.

    Args:
        profile: Gives the ranges, the hop, and the share that may be lost.

    Attributes:
        run: The newest window continued or completed a run.
        lost: Samples outside their range among the newest window's new ones.
    """

    def __init__(self, profile: Profile) -> None:
        self._names = profile.channel_names
        self._low = np.array([c.min for c in profile.channels])
        self._high = np.array([c.max for c in profile.channels])
        self._typed = _typed(self._low, self._high, np.dtype(np.float32))
        self._hop = profile.sampling.hop_samples
        self._bound = profile.sampling.max_absurd
        self._tails = np.zeros(len(self._names), dtype=np.int64)
        self._seen = np.zeros(len(self._names))
        self._outside = np.zeros(len(self._names))
        self._begun = False
        self.run = False
        self.lost = 0

    def look(self, samples: Samples) -> Samples:
        """The window with each value outside its range as an infinity of its side: missing, and on record.

        Args:
            samples: Shape (W, C); a source that knows better may have put infinities already.
        """
        # In the samples' own type: rounding is monotone, so what fitted before it was rounded fits now. By
        # channel, because numpy compares long rows ten times as fast as short ones.
        if samples.dtype != self._typed[0].dtype:
            self._typed = _typed(self._low, self._high, samples.dtype)
        low, high = self._typed
        channels = cast("Samples", np.ascontiguousarray(samples.T))
        above, below = channels > high, channels < low
        new = self._hop if self._begun else len(samples)
        self._begun = True
        if not np.logical_or.reduce((above | below).ravel()):
            self._pass_quietly(channels[:, -new:])
            return samples
        side = above.astype(np.int8) - below
        self._count(side[:, -new:])
        self.run = self._follow_runs(side[:, -new:], ~np.isnan(channels[:, -new:]))
        marked = np.where(side > 0, np.inf, np.where(side < 0, -np.inf, channels)).T
        return cast("Samples", np.ascontiguousarray(marked).astype(samples.dtype, copy=False))

    def _pass_quietly(self, fresh: Samples) -> None:
        """Take new samples, shape (C, n), of which none is outside."""
        self._seen = KEPT * self._seen + fresh.shape[1]
        self._outside = KEPT * self._outside
        self.lost, self.run = 0, False
        if self._tails.any():
            self._tails[~np.isnan(fresh).all(axis=1)] = 0

    def shares(self) -> dict[str, float]:
        """Channels that lose more than the stated share of their samples, with the share."""
        if not self._outside.any():
            return {}
        with np.errstate(invalid="ignore"):
            share = self._outside / self._seen
        over = (self._seen >= ENOUGH) & (share > self._bound)
        return {self._names[at]: round(float(share[at]), 4) for at in np.flatnonzero(over).tolist()}

    def _count(self, side: NDArray[np.int8]) -> None:
        outside = (side != 0).sum(axis=1)
        self.lost = int(outside.sum())
        self._seen = KEPT * self._seen + side.shape[1]
        self._outside = KEPT * self._outside + outside

    def _follow_runs(self, side: NDArray[np.int8], known: NDArray[np.bool_]) -> bool:
        """Carry each channel's run on; whether one is, or was meanwhile, long enough."""
        longest = 0
        hit = (side != 0).any(axis=1)
        self._tails[~hit & known.any(axis=1)] = 0
        for at in np.flatnonzero(hit).tolist():
            tail = int(self._tails[at])
            # A missing sample neither continues a run nor ends it.
            for each in side[at, known[at]].tolist():
                tail = (tail + each if tail * each > 0 else each) if each else 0
                longest = max(longest, abs(tail))
            self._tails[at] = tail
        return longest >= RUN


def _typed(low: NDArray[np.float64], high: NDArray[np.float64], kind: np.dtype) -> tuple[Samples, Samples]:
    """Limits in the type of the samples, one row a channel."""
    return cast("Samples", low.astype(kind)[:, None]), cast("Samples", high.astype(kind)[:, None])
