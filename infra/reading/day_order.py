"""Decides day-first against month-first by all times of a file, or says that they do not tell. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from infra.reading.time_forms import DAY_S, Bools, Ints

WORDS = {"day_first": "day before month", "month_first": "month before day", "year_first": "year, month, day"}
_CLEARLY = 0.9


@dataclass(frozen=True, slots=True)
class DayOrder:
    """The order of day and month.

    Attributes:
        order: One of ``ORDERS``.
        evidence: Why.
        doubt: Why it is not certain; empty: it is.
        open: The orders that may be meant, where it is not certain.
    """

    order: str
    evidence: str
    doubt: str = ""
    open: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Course:
    """How regular the times are under one order.

    Attributes:
        read: Cells that are times.
        falls: Steps against the main direction.
        breaks: Steps of more than 1.5 median ones, of the sorted times.
    """

    read: int
    falls: int
    breaks: int
    span_s: float


def choose_day_order(readings: Mapping[str, tuple[Ints, Bools]], dotted: bool = False) -> DayOrder:
    """The order under which a column's times make sense.

    Args:
        readings: Times and which cells are times, by order.
        dotted: Whether points stand between day, month and year.
    """
    change = _change(readings)
    if change is not None:
        return change
    courses = {order: _course(us, ok) for order, (us, ok) in readings.items()}
    most = max(c.read for c in courses.values())
    whole = {o: c for o, c in courses.items() if c.read == most}
    if len(whole) == 1:
        return _by_numbers(next(iter(whole)), courses)
    first, *others = whole
    if all(_same(readings[first], readings[o]) for o in others):
        return DayOrder(first, "day and month are the same number throughout")
    for order, course in whole.items():
        rivals = [c for o, c in whole.items() if o != order and not _same(readings[order], readings[o])]
        if all(_better(course, rival) for rival in rivals):
            worst = max(rivals, key=lambda c: c.breaks + c.falls)
            found = (
                f"{course.breaks} breaks against {worst.breaks}, {course.falls} falls against {worst.falls}"
            )
            return DayOrder(order, f"{WORDS[order]}: the times go on with {found} the other way")
    if dotted and "day_first" in whole:
        return DayOrder(
            "day_first", "day before month: points stand between them, and nothing speaks against it"
        )
    read = " or ".join(WORDS[o] for o in whole)
    likely = min(whole, key=lambda o: (whole[o].falls, whole[o].span_s))
    return DayOrder(likely, "", f"may be read as {read}", tuple(whole))


def _change(readings: Mapping[str, tuple[Ints, Bools]]) -> DayOrder | None:
    """A doubt where no order reads all cells that are dates: it changes within the file; None: one does."""
    read = {order: ok for order, (_, ok) in readings.items() if ok.any()}
    dates = np.logical_or.reduce(list(read.values())) if read else np.zeros(0, dtype=np.bool_)
    left = {order: int((dates & ~ok).sum()) for order, ok in read.items()}
    if not left or min(left.values()) == 0:
        return None
    likely = min(left, key=lambda o: left[o])
    told = [o for o in read if left[o] <= 0.5 * int(dates.sum())] or [likely]
    words = ", ".join(f"{n:,} cells are no dates as {WORDS[o]}" for o, n in left.items() if o in told)
    return DayOrder(likely, "", f"changes its order of day and month: {words}", tuple(told))


def _by_numbers(order: str, courses: Mapping[str, _Course]) -> DayOrder:
    """The only order that reads most cells."""
    best = courses[order]
    second = max((c.read for o, c in courses.items() if o != order), default=0)
    impossible = best.read - second
    evidence = f"{WORDS[order]}: {impossible} cells are no dates the other way"
    if second > _CLEARLY * best.read and impossible < 3 and best.falls > 0.02 * best.read:
        return DayOrder(order, evidence, "few cells tell day from month, and the times do not rise")
    return DayOrder(order, evidence)


def _course(us: Ints, ok: Bools) -> _Course:
    times = us[ok]
    if len(times) < 2:
        return _Course(len(times), 0, 0, 0.0)
    steps = np.diff(times)
    falls = min(int((steps < 0).sum()), int((steps > 0).sum()))
    distinct = np.diff(np.unique(times))
    if not len(distinct):
        return _Course(len(times), falls, 0, 0.0)
    usual = float(np.median(distinct))
    breaks = int((distinct > int(1.5 * usual)).sum())
    return _Course(len(times), falls, breaks, float(distinct.sum()) / 1e6)


def _better(course: _Course, rival: _Course) -> bool:
    """Whether a course is the likelier one beyond doubt: no less regular in anything, more in something."""
    if course.span_s > rival.span_s:
        return False
    even = course.falls <= rival.falls and course.breaks <= rival.breaks
    # Daily rows of a fortnight and monthly ones of a year look alike: there must be breaks, or falls.
    more = course.breaks < rival.breaks or course.falls < rival.falls
    return even and more and not (course.span_s < DAY_S and rival.span_s < DAY_S)


def _same(a: tuple[Ints, Bools], b: tuple[Ints, Bools]) -> bool:
    return bool(np.array_equal(a[0][a[1]], b[0][b[1]]))
