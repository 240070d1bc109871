"""What one device's features usually are: learnt in a warm-up, and frozen once that agrees with itself.

A reference that goes on learning learns the fault. So a feature's median and spread are frozen, and follow
only so slowly, and so near, that no step enters them; `docs/adr/0026` says how slowly, and what ends it.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_producer.window import Floats
from schemas.feature_set import UNITLESS_KINDS
from schemas.profile import Profile

MAD_TO_STD = 1.4826
"""Standard deviation over median absolute deviation, for a normal distribution."""
MEAN_AD_TO_STD = 1.2533
"""Likewise over the mean absolute deviation, which does not vanish where half of the values are equal."""
HIGH_SCORE = 0.5
HIGH_SHARE = 8
"""Only every eighth window with a high score is learnt while a feature is not frozen; none afterwards."""
REFRESHES = 64
"""Number of times that the statistics are renewed while the memory is replaced once."""
BLOCKS = 4
"""Successive parts of the windows learnt, which must agree before they are frozen."""
AGREEMENT = 1.5
"""Largest distance between medians of blocks, in spreads within blocks; an alarm begins at eight and more."""
SPREADS_AGREE = 4.0
"""Largest ratio of the spreads of two blocks."""
FOLLOW_MEMORIES = 4
"""A frozen median moves by at most one spread while so many memories of windows pass."""

FOLLOW_WITHIN = 3.0
"""Spreads from the median beyond which a frozen feature is not followed: a step, and wear, stay outside."""

Doubles = NDArray[np.float64]


def smallest_spreads(profile: Profile) -> Doubles:
    """Lowest spread of each feature of a channel: a thousandth of its usual range; 0.05 if unitless."""
    ranges = {c.name: c.usual[1] - c.usual[0] for c in profile.channels}
    specs = [s for s in profile.feature_specs() if s.built_in]
    return np.array([0.05 if s.kind in UNITLESS_KINDS else 1e-3 * ranges[s.channel] for s in specs])


class DeviceReference:
    """Median and spread of one device's features.

    Args:
        floors: Smallest spread of each feature, shape (F,).
        memory: Windows remembered while a feature is not frozen.
        warmup: Number of values that a feature needs before it is compared.

    Attributes:
        frozen: Which features no longer learn, shape (F,).
    """

    def __init__(self, floors: Doubles, memory: int, warmup: int) -> None:
        self._floors = floors
        self._memory = memory
        self._warmup = min(warmup, memory)
        self._center = np.full(len(floors), np.nan)
        self.spread: Floats = np.ones(len(floors), dtype=np.float32)
        self.frozen: NDArray[np.bool_] = np.zeros(len(floors), dtype=np.bool_)
        self._judged = np.zeros(len(floors), dtype=np.bool_)
        self._high = 0
        self._forget()

    def _forget(self) -> None:
        # One row a feature, so that sorting runs along memory.
        self._past = np.full((len(self._floors), self._memory), np.nan, dtype=np.float32)
        self._learnt = 0
        self._stale = 0

    @property
    def center(self) -> Floats:
        """Median of each feature, shape (F,); NaN where there is none yet."""
        return self._center.astype(np.float32)

    def copy(self) -> DeviceReference:
        """An independent copy."""
        return copy.deepcopy(self)

    def thaw(self) -> None:
        """Learn anew, and judge by what was known until the new windows agree."""
        self.frozen = np.zeros_like(self.frozen)
        self._judged = np.isfinite(self._center)
        self._forget()

    def learn(self, features: Floats, score: float | None) -> None:
        """Take a window after it was scored.

        Args:
            features: Shape (F,); NaN is left out.
            score: The window's score against the present reference; None where there is none.
        """
        high = score is not None and score >= HIGH_SCORE
        if score is not None and not high:
            self._follow(features)
        if self.frozen.all():
            return
        if high:
            self._high += 1
            if self._high % HIGH_SHARE:
                return
        self._past[:, self._learnt % self._memory] = features
        self._learnt += 1
        self._stale += 1
        if self._learnt >= self._warmup and self._stale >= max(1, self._remembered // REFRESHES):
            self._renew()

    @property
    def _remembered(self) -> int:
        return min(self._learnt, self._memory)

    def _follow(self, features: Floats) -> None:
        """Move frozen medians towards a window, by less than any step or wear would need."""
        # In place and without np.clip: this is done for every window, and costs a third so.
        off = features.astype(np.float64)
        off -= self._center
        off /= self.spread
        moves = (off <= FOLLOW_WITHIN) & (off >= -FOLLOW_WITHIN)
        moves &= self.frozen
        np.minimum(off, 1.0, out=off)
        np.maximum(off, -1.0, out=off)
        off /= FOLLOW_MEMORIES * self._memory
        off *= self.spread
        # A new array: copies of the reference share the old one.
        self._center = np.add(self._center, off, out=self._center.copy(), where=moves)

    def _renew(self) -> None:
        self._stale = 0
        past = self._past[:, : self._remembered]
        finite = np.isfinite(past).sum(axis=1)
        median = _median(past, finite)
        spread = np.fmax(_spread(past - median[:, None], finite), self._floors)
        known = (finite >= self._warmup) & ~self.frozen
        agree = known & self._agree()
        # A thawed feature keeps its judge until the new windows agree.
        taken = agree | (known & ~self._judged)
        fresh = ~self.frozen & ~self._judged
        self.spread = np.where(taken | fresh, spread, self.spread).astype(np.float32)
        self._center = np.where(taken, median, self._center)
        self.frozen |= agree
        self._judged &= ~agree
        if self.frozen.all():
            self._past = self._past[:, :0]

    def _agree(self) -> NDArray[np.bool_]:
        """Features whose windows, in successive blocks, have about the same median and spread."""
        ordered = np.roll(self._past, -(self._learnt % self._memory), axis=1)[:, -self._remembered :]
        blocks = np.array_split(ordered, BLOCKS if self._remembered >= 4 * BLOCKS else 2, axis=1)
        counts = [np.isfinite(b).sum(axis=1) for b in blocks]
        medians = [_median(b, n) for b, n in zip(blocks, counts, strict=True)]
        off = [b - m[:, None] for b, m in zip(blocks, medians, strict=True)]
        each = [_mean_spread(o, n) for o, n in zip(off, counts, strict=True)]
        spreads = np.fmax(np.stack(each), self._floors)
        within = np.fmax(_spread(np.concatenate(off, axis=1), sum(counts)), self._floors)
        apart = np.ptp(np.stack(medians), axis=0) / within
        even = spreads.max(axis=0) <= SPREADS_AGREE * spreads.min(axis=0)
        return np.asarray((apart <= AGREEMENT) & even)

    def export(self) -> dict[str, Any]:
        """State as a JSON value: what is frozen, and the newest windows where something is not."""
        state: dict[str, Any] = {
            "center": _packed(self._center),
            "spread": _packed(self.spread.astype(np.float64)),
            "frozen": self.frozen.tolist(),
            "judged": self._judged.tolist(),
        }
        if not self.frozen.all():
            ordered = np.roll(self._past, -(self._learnt % self._memory), axis=1)
            newest = ordered[:, -min(self._remembered, self._warmup) :] if self._learnt else ordered[:, :0]
            state["newest"] = _packed(newest.astype(np.float64))
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up an exported state.

        Raises:
            ValueError: It is not one, or of other features.
        """
        width = len(self._floors)
        center, spread = _unpacked(state["center"], width), _unpacked(state["spread"], width)
        flags = [np.array(state[name], dtype=np.bool_) for name in ("frozen", "judged")]
        if {a.shape for a in (center, spread, *flags)} != {(width,)} or not (spread > 0).all():
            raise ValueError("a reference of other features, or a damaged one")
        newest = _unpacked(state.get("newest", ""), width, rows=True)
        self._forget()
        self._center, self.spread = center, spread.astype(np.float32)
        self.frozen, self._judged = flags
        kept = min(newest.shape[1], self._memory)
        self._past[:, :kept] = newest[:, newest.shape[1] - kept :]
        self._learnt = kept


def _packed(values: Doubles) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode("ascii")


def _unpacked(text: str, width: int, *, rows: bool = False) -> Doubles:
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")
    return values.reshape(width, -1) if rows else values


def _spread(deviation: Floats, finite: NDArray[np.intp]) -> Doubles:
    """Standard deviation of rows of deviations, by the larger of two robust estimates."""
    size = np.abs(deviation)
    return np.asarray(np.fmax(MAD_TO_STD * _median(size, finite), _mean_spread(deviation, finite)))


def _mean_spread(deviation: Floats, finite: NDArray[np.intp]) -> Doubles:
    total = np.nansum(np.abs(deviation), axis=1, dtype=np.float64)
    return np.asarray(MEAN_AD_TO_STD * total / np.maximum(finite, 1))


def _median(rows: Floats, finite: NDArray[np.intp]) -> Floats:
    """Median of the finite values of each row; NaN where there is none."""
    ordered = np.sort(rows, axis=1)  # NaN last
    last = np.maximum(finite - 1, 0)
    lines = np.arange(len(rows))
    middle: Floats = (ordered[lines, last // 2] + ordered[lines, (last + 1) // 2]) / np.float32(2)
    return middle
