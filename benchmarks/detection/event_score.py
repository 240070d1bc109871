"""Events, alarms, and the F1 between them with an interval. Pure.

*Event*: labelled rows that lie at most ``MERGE_S`` apart. *Alarm*: an action comes into force; one that stays
in force is an alarm again every ``RENEWED_S``, so that whoever alarms always is not right once and for all.
An alarm meets an event from ``EARLY_S`` before its first row to its last, or to ``LATE_S`` after the first,
whichever is later. An event takes all alarms that meet it, and no other event has them; an alarm that meets
none is false.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Ints = NDArray[np.int64]

MERGE_S, EARLY_S, LATE_S, RENEWED_S = 5.0, 2.0, 5.0, 10.0
BLOCK_S, DRAWS, LEVEL, SEED = 120.0, 4000, 0.95, 14


@dataclass(frozen=True, slots=True, eq=False)
class MetEvents:
    """Which alarms met which events.

    Attributes:
        onset: Seconds of each event's first row, shape (E,).
        delay: From an event's first row to its first alarm, seconds; NaN where it was missed, shape (E,).
        false: Seconds of each alarm that met no event, shape (A,).
    """

    onset: Array
    delay: Array
    false: Array

    @property
    def counts(self) -> tuple[int, int, int]:
        """Events found, false alarms, events missed."""
        found = int(np.isfinite(self.delay).sum())
        return found, len(self.false), len(self.delay) - found

    @property
    def f1(self) -> float:
        """F1 of events and alarms."""
        return float(_f1(np.array(self.counts, dtype=np.float64)))


def spans_of(seconds: Array, labelled: Flags) -> Array:
    """First and last second of each event, shape (E, 2).

    >>> spans_of(np.array([0.0, 1, 2, 9, 10]), np.array([True, False, True, False, True])).tolist()
    [[0.0, 2.0], [10.0, 10.0]]
    """
    at = seconds[labelled]
    if not len(at):
        return np.zeros((0, 2))
    breaks = np.flatnonzero(np.diff(at) > MERGE_S)
    return np.stack([at[np.r_[0, breaks + 1]], at[np.r_[breaks, len(at) - 1]]], axis=1)


def alarms_of(seconds: Array, acting: Flags, renewed_s: float = RENEWED_S) -> Array:
    """Seconds of the alarms.

    >>> alarms_of(np.arange(25.0), np.arange(25) >= 2).tolist()
    [2.0, 12.0, 22.0]
    """
    found: list[float] = []
    before = False
    for at, now in zip(seconds.tolist(), acting.tolist(), strict=True):
        if now and (not before or at - found[-1] >= renewed_s):
            found.append(at)
        before = now
    return np.array(found)


def met(spans: Array, alarms: Array, others: Array | None = None) -> MetEvents:
    """Match them, the earlier event first.

    Args:
        spans: First and last second of each event, shape (E, 2).
        alarms: Their seconds, shape (A,).
        others: Events of other kinds, as ``spans``: an alarm that meets one of these alone is not false.

    >>> met(np.array([[0.0, 1.0]]), np.array([1.0, 20.0, 40.0]), np.array([[19.0, 21.0]])).counts
    (1, 1, 0)
    """
    free, delays = np.ones(len(alarms), dtype=bool), []
    for first, last in spans.tolist():
        meets = free & (alarms >= first - EARLY_S) & (alarms <= max(last, first + LATE_S))
        delays.append(alarms[meets][0] - first if meets.any() else np.nan)
        free &= ~meets
    false = alarms[free] if others is None else met(others, alarms[free]).false
    return MetEvents(spans[:, 0], np.array(delays), false)


def best_always(seconds: Array, spans: Array, others: Array | None = None) -> tuple[float, MetEvents]:
    """Of alarming always, renewed every 1 to 60 s: the one with the highest F1, and its period."""
    every = np.ones(len(seconds), dtype=bool)
    tried = [(float(p), met(spans, alarms_of(seconds, every, float(p)), others)) for p in range(1, 61)]
    return max(tried, key=lambda item: item[1].f1)


def block_counts(found: MetEvents, begin: float, end: float, block_s: float = BLOCK_S) -> Array:
    """Found, false and missed by block of time, shape (B, 3); an event belongs to the block of its onset."""
    blocks = max(int(np.ceil((end - begin) / block_s)), 1)
    counts = np.zeros((blocks, 3))

    def add(at: Array, column: int) -> None:
        np.add.at(counts[:, column], np.clip((at - begin) // block_s, 0, blocks - 1).astype(int), 1)

    hit = np.isfinite(found.delay)
    add(found.onset[hit], 0)
    add(found.false, 1)
    add(found.onset[~hit], 2)
    return counts


def f1_interval(counts: Array, other: Array | None = None) -> tuple[float, float]:
    """95 % interval of F1 from blocks drawn with replacement; with another's: of the difference to it.

    Args:
        counts: Of ``block_counts``.
        other: Of the same blocks, by another detector.
    """
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(0, len(counts), (DRAWS, len(counts)))
    values = _f1(counts[drawn].sum(axis=1))
    if other is not None:
        values = values - _f1(other[drawn].sum(axis=1))
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _f1(counts: Array) -> Array:
    """F1 of (found, false, missed) in the last axis."""
    found, false, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    return np.asarray(2 * found / np.maximum(2 * found + false + missed, 1))
