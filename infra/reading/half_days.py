"""Clocks of twelve hours without AM and PM: the order of the rows tells the halves of a day apart. Pure.

The hours of such a file are 1 to 12, and where its rows stand in the order in which they were measured, they
fall by twelve hours at noon: what follows is the afternoon. Where that leaves something open it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.printing import count
from infra.reading.decision_record import Decision, Doubt
from infra.reading.time_forms import Ints

HOUR_US = 3_600_000_000
HALF_US, DAY_US = 12 * HOUR_US, 24 * HOUR_US
_UNEVEN = 0.02
"""Share of the steps that may be longer than usual where the halves are told apart."""


@dataclass(frozen=True, slots=True)
class HalfDays:
    """Times with the half of the day, and what is to be said about them."""

    us: Ints
    decision: Decision | None = None
    doubt: Doubt | None = None


def half_hours(hours: Ints) -> bool:
    """Whether hours may be those of half a day: 1 to 12, or 0 to 11."""
    return bool((hours.min() >= 1 and hours.max() <= 12) or hours.max() <= 11)


def with_halves(
    us: Ints, groups: Iterable[NDArray[np.int64]], options: tuple[str, ...], *, said: bool
) -> HalfDays:
    """Times of a wall clock whose cells tell no half of the day.

    Args:
        us: Hours of 1 to 12 as they are written.
        groups: Indices of each device's rows that have a time, in the file's order.
        options: What decides where the order of rows does not.
        said: Whether a person says that the clock has twelve hours.
    """
    rows = [g for g in groups if len(g)]
    times = us[np.concatenate(rows)] if rows else us[:0]
    hours = times // HOUR_US % 24
    if not len(times) or not half_hours(hours):
        return HalfDays(us)
    made, clear, falls = us.copy(), True, 0
    for group in rows:
        ordered = _in_order(us, group)
        found = _afternoons(us[ordered])
        steps = np.diff(us[ordered])
        falls += int(((steps <= -HALF_US // 2) & (steps >= -HALF_US)).sum())
        clear &= found is not None
        if found is not None:
            made[ordered] = found
    days = len(np.unique(times // DAY_US))
    if clear and falls:
        what = f"hours up to 12: the rows fall by twelve hours {count(falls, 'time')}"
        return HalfDays(made, Decision("clock", "of twelve hours, without AM and PM", what))
    if said or falls or (days > 1 and hours.min() == 1 and hours.max() == 12):
        what = (
            f"the hours of {count(len(times), 'row')} go up to 12, as of a clock of twelve hours without "
            "AM and PM, and the order of rows does not tell the halves of a day apart"
        )
        return HalfDays(us, doubt=Doubt(what, options))
    return HalfDays(us)


def _in_order(us: Ints, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows in the order in which they were measured, as far as the file tells."""
    steps = np.diff(us[rows] - us[rows] // HOUR_US % 24 // 12 * HALF_US)
    return rows[::-1] if (steps < 0).sum() > (steps > 0).sum() else rows


def _afternoons(us: Ints) -> Ints | None:
    """One device's times with twelve hours more in the afternoons; None: the rows leave it open."""
    days = us // DAY_US
    bare = us - (us // HOUR_US % 24 == 12) * HALF_US  # twelve is the first hour of a half
    starts = np.flatnonzero(np.diff(days, prepend=days[:1] - 1) != 0).tolist()
    made = bare.copy()
    open_runs: list[tuple[int, int]] = []
    for first, end in zip(starts, [*starts[1:], len(us)], strict=True):
        falls = np.flatnonzero(np.diff(bare[first:end]) < 0) + 1
        if len(falls) > 1:
            return None
        if len(falls):
            made[first + int(falls[0]) : end] += HALF_US
        else:
            open_runs.append((first, end))
    if len(open_runs) == len(starts):
        return None
    for first, end in open_runs:
        # A day that is recorded in part is that half which lies nearer to its neighbours.
        morning = _gap(made, first, end, 0)
        afternoon = _gap(made, first, end, HALF_US)
        if morning == afternoon:
            return None
        made[first:end] += HALF_US if afternoon < morning else 0
    steps = np.diff(made)
    usual = float(np.median(steps)) if len(steps) else 0.0
    return None if (steps < 0).any() or (steps > 1.5 * usual).sum() > _UNEVEN * len(steps) + 1 else made


def _gap(us: Ints, first: int, end: int, more: int) -> int:
    """Microseconds to the rows before and behind a run that is moved by ``more``."""
    before = int(us[first]) + more - int(us[first - 1]) if first else 0
    behind = int(us[end]) - int(us[end - 1]) - more if end < len(us) else 0
    return abs(before) + abs(behind)
