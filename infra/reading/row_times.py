"""Places rows without a date at now; doubts times that no recording has: the future, years apart. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from infra.printing import count, instant
from infra.reading.decision_record import Doubt
from infra.reading.time_column import TimeReading
from infra.reading.time_forms import Bools, Ints
from schemas.instants import from_us, to_us

_DAY_US = 86_400_000_000
_YEARS_US = 2 * 365 * _DAY_US
_LONG_STEPS = 100
"""Usual steps that a break of years is longer than: a row each year makes no break."""
_SOON_US = _DAY_US
"""How far in the future a recording may end: a clock without a zone is at most a day ahead."""


def anchored(us: Ints, now: datetime, ok: Bools | None = None, *, begins: bool = False) -> Ints:
    """Times since an unknown start, moved so that they end now.

    Args:
        us: Microseconds since that start.
        now: The present.
        ok: Which of them are times; None: all.
        begins: Whether they begin now instead.
    """
    some = us if ok is None else us[ok]
    if not len(some):
        return us
    return us - (int(some.min()) if begins else int(some.max())) + to_us(now)


def unwrapped(us: Ints, time: TimeReading, ok: Bools) -> Ints:
    """Times of day that go on after midnight, or minutes that go on after the hour."""
    if time.dated or not ok.any():
        return us
    known = np.where(ok, us, 0)
    steps = np.diff(known, prepend=known[:1])
    return us + np.cumsum(steps < -time.period_us // 2) * time.period_us


def implausible(us: Ints, groups: Iterable[NDArray[np.int64]], now: datetime) -> list[Doubt]:
    """Doubts about times in the future, and about a device's times that lie years apart.

    Args:
        us: Times of all rows, UTC.
        groups: Indices of each device's rows.
        now: The present.
    """
    doubts = []
    if (last := int(us.max())) > to_us(now) + _SOON_US:
        options = ("--time-format", "--time-column", "--force")
        doubts.append(Doubt(f"the last row lies in the future: {instant(from_us(last))}", options))
    apart = next((d for rows in groups if (d := _years_apart(us[rows])) is not None), None)
    return [*doubts, apart] if apart is not None else doubts


def _years_apart(us: Ints) -> Doubt | None:
    """A doubt where a clock was not set yet, or lost its time and began anew."""
    times = np.sort(us)
    steps = np.diff(times)
    if not len(steps) or not steps.any():
        return None
    widest = int(steps.argmax())
    apart = int(steps[widest])
    if apart < max(_YEARS_US, _LONG_STEPS * float(np.median(steps[steps > 0]))):
        return None
    early, late = widest + 1, len(times) - widest - 1
    few = times[:early] if early <= late else times[early:]
    years = "ten" if apart > 5 * _YEARS_US else "two"
    lie = f"{count(len(few), 'row')} {'lie' if len(few) > 1 else 'lies'}"
    what = f"{lie} more than {years} years from the others"
    shown = tuple(instant(from_us(int(t))) for t in few[:3])
    return Doubt(f"{what}: did the clock lose its time?", ("--time-column", "--force (keeps them)"), shown)
