"""Chooses a file's time: one column, a date beside a time of day, or year, month, day and hour. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.reading.day_order import choose_day_order
from infra.reading.digit_times import LAYOUTS
from infra.reading.fraction_column import is_fraction, with_fraction
from infra.reading.header import TIME_NAME
from infra.reading.number_forms import Surroundings, is_text, read_numbers, read_plain
from infra.reading.time_column import TimeReading, read_time_column
from infra.reading.time_formats import WRITTEN
from infra.reading.time_forms import DAY_S, ORDERS, civil_days

_DAY_US = DAY_S * 1_000_000
_MOSTLY = 0.97
_EVEN_ROWS, _EVENLY = 20, 0.95
"""Fewest steps, and the share of them that are alike, from which a rising column may be a time."""
_HOURS = re.compile(r"(?i)^(hour|hours|stunden?|std|heures?|hora|h|hh|hrs?)$")
_UTC = re.compile(r"(?i)(^|[^a-z])(utc|gmt|zulu)([^a-z]|$)")
NONE = "none"
"""What a person writes for "the file has no time"."""
_PARTS: Mapping[str, str] = {
    "year": r"^(year|yyyy|yy|yr|jahr|année|annee|año|ano|anno|y)$",
    "month": r"^(month|mon|mm|mo|monat|mois|mes|mese|m)$",
    "day": r"^(day|dd|dy|dom|tag|jour|dia|día|giorno|d|day of month)$",
    "ordinal": r"^(doy|julian|jday|day of year|yday|dayofyear)$",
    "hour": r"^(hour|hh|hr|hrs|h|stunde|heure|hora|ora)$",
    "minute": r"^(minute|min|mi|minuten|minuto|mn)$",
    "second": r"^(second|sec|ss|s|seconds|sekunde)$",
}


@dataclass(frozen=True, slots=True)
class TimeWishes:
    """What a person or a profile says about the time.

    Attributes:
        columns: Names; None: nothing is said; empty: the file has no time.
        format: A profile's ``time_format``, an order of day and month, or empty.
    """

    columns: tuple[str, ...] | None = None
    format: str = ""


def choose_time(
    names: Sequence[str], units: Sequence[str], column: Callable[[int], pa.Array], wishes: TimeWishes
) -> tuple[TimeReading | None, tuple[str, ...]]:
    """A file's time, None where it has none; and columns that look like one and cannot be read.

    Args:
        names: Of the columns.
        units: Likewise.
        column: All cells of a column.
        wishes: What is known already.

    Raises:
        KeyError: A column that was named is not there.
    """
    if wishes.columns == ():
        return None, ()
    if wishes.columns is not None:
        at = [_index(names, n) for n in wishes.columns]
        return _named_time(at, names, units, column, wishes.format), ()
    found: list[TimeReading] = []
    unread: list[str] = []
    for i, name in enumerate(names):
        # A format of numbers, such as relative_ms, would fit every column of them.
        fits_any = wishes.format in ORDERS or "%" in wishes.format
        said = wishes.format if fits_any or TIME_NAME.search(name) or not name.strip() else ""
        read = read_time_column(i, column(i), name, units[i], said)
        if read is not None:
            found.append(read)
        elif (TIME_NAME.search(name) and _texts(column(i))) or _periods(column(i)):
            unread.append(name)
    parts = _from_parts(names, column)
    if parts is not None:
        found.append(parts)
    found += _joined(found, names, column)
    usable = [r for r in found if r.share >= 0.5]
    absolute = [r for r in usable if r.absolute]
    best = max(absolute or usable, key=lambda r: _rank(r, names), default=None)
    if best is not None and (best.share >= 0.97 or not unread):
        unread = []
    if best is not None and best.absolute:
        alone = [r for r in absolute if len(r.columns) == 1 and r.share >= _MOSTLY]
        others = {r.columns[0] for r in alone if r.dated and r.columns[0] not in best.columns}
        best = replace(best, others=tuple(sorted(others)))
    if best is not None:
        best = with_fraction(best, names, column)
    if best is not None and best.dated and not best.clocked:
        best = _beside_minutes(best, found, names)
    return best, tuple(unread)


def resembling(
    names: Sequence[str], units: Sequence[str], column: Callable[[int], pa.Array]
) -> tuple[str, TimeReading] | None:
    """A column that may well hold times, whatever its name says; None: there is none.

    Its numbers lie where those of dates do, or they rise by the same amount from row to row, as seconds do.
    """
    reads = [
        (name, read_time_column(i, column(i), name, units[i], named=True))
        for i, name in enumerate(names)
        if name.strip()
    ]
    likely = [(n, r) for n, r in reads if r is not None and r.share >= _MOSTLY]
    dates = [(n, r) for n, r in likely if r.absolute]
    even = [(n, r) for n, r in likely if not r.absolute and _rises_evenly(column(r.columns[0]))]
    return next(iter([*dates, *even]), None)


def _rises_evenly(cells: pa.Array) -> bool:
    """Whether numbers rise by the same amount in nearly every row, and are no number of the row."""
    if is_text(cells.type):
        values = read_plain(cells)
    elif pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type):
        values = np.asarray(cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    else:
        values = None
    if values is None:
        return False
    steps = np.diff(values[np.isfinite(values)])
    if len(steps) < _EVEN_ROWS or not (steps > 0).all():
        return False
    usual = float(np.median(steps))
    even = np.abs(steps - usual) <= 1e-6 * usual
    return usual != 1 and float(even.mean()) >= _EVENLY


def _beside_minutes(day: TimeReading, found: Sequence[TimeReading], names: Sequence[str]) -> TimeReading:
    """A date; doubtful where minutes and seconds stand beside it and the hour is lost."""
    lost = [names[r.columns[0]] for r in found if r.period_us != _DAY_US]
    if not lost or day.doubt:
        return day
    options = tuple(f"--time-column {shlex.quote(n)}" for n in (lost[0], names[day.columns[0]]))
    return replace(day, doubt=f"stands beside '{lost[0]}', which tells no hour", options=options)


def _rank(read: TimeReading, names: Sequence[str]) -> tuple[object, ...]:
    times = read.us[read.ok]
    distinct = len(np.unique(times)) / max(len(times), 1)
    steps = np.diff(times)
    order = max(float((steps >= 0).mean()), float((steps <= 0).mean())) if len(steps) else 1.0
    named = bool(TIME_NAME.search(names[read.columns[0]])) or len(read.columns) > 1
    # Of two clocks the one whose zone is known counts.
    utc = not read.naive.any() or any(_UTC.search(names[i]) for i in read.columns)
    return (read.share >= 0.97, read.dated, round(min(distinct * 2, 1.0), 1), named, round(order, 1), utc,
            -len(read.columns), -read.columns[0])  # fmt: skip


def _named_time(
    at: Sequence[int],
    names: Sequence[str],
    units: Sequence[str],
    column: Callable[[int], pa.Array],
    said: str,
) -> TimeReading | None:
    said = "" if said == WRITTEN else said
    parts_of = [i for i in at if is_fraction(names[i])]
    whole = [i for i in at if i not in parts_of]
    if len(at) > 1 and len(parts_of) == 1:
        read = _named_time(whole, names, units, column, said)
        return None if read is None else with_fraction(read, names, column, parts_of)
    reads = [read_time_column(i, column(i), names[i], units[i], said, named=True) for i in at]
    if len(at) == 1:
        return reads[0]
    parts = _from_parts(names, column, tuple(at))
    if parts is not None:
        return parts
    dates = [r for r in reads if r is not None and r.dated]
    joined = [
        j
        for d in dates
        for j in _joined([d, *(r for r in reads if r is not None and r is not d)], names, column)
    ]
    fitting = [j for j in joined if set(j.columns) == set(at)]
    return fitting[0] if fitting else None


def _joined(
    found: Sequence[TimeReading], names: Sequence[str], column: Callable[[int], pa.Array]
) -> list[TimeReading]:
    """A column of dates joined with one of times of day."""
    dates = [r for r in found if r.dated and r.absolute and len(r.columns) == 1 and not r.clocked]
    if not dates:
        return []
    clocks = [r for r in found if not r.dated and r.share >= 0.9 and r.us[r.ok].max(initial=0) <= _DAY_US]
    clocks = [c for c in clocks if c.period_us == _DAY_US]  # without the hour, no date makes a time of it
    used = {r.columns[0] for r in found}
    for i, name in enumerate(names):
        clock = (
            None if i in used and any(c.columns == (i,) for c in clocks) else _clock_number(i, name, column)
        )
        if clock is not None and dates:
            clocks.append(clock)
    return [_join(d, c) for d in dates for c in clocks if d.columns != c.columns]


def _join(day: TimeReading, clock: TimeReading) -> TimeReading:
    ok, us = day.ok & clock.ok, day.us + clock.us
    evidence, doubt, made, options = day.evidence, day.doubt, day.format, day.options
    if day.readings is not None:
        readings = {o: (u + clock.us, k & clock.ok) for o, (u, k) in day.readings.items()}
        if len(readings) > 1:
            chosen = choose_day_order(readings, day.dotted)
            us, ok = readings[chosen.order]
            evidence, doubt, options = chosen.evidence, chosen.doubt, chosen.open
            made = chosen.order
    dates = tuple(o for o in options if "%" in o)
    if len(dates) == 1:  # a count beside a time of day is none
        doubt, options = "", ()
    made = made if made in (*ORDERS, *LAYOUTS) else WRITTEN
    evidence = f"a date and a time of day, joined; {evidence}"
    naive = day.naive & clock.naive if clock.naive.any() else day.naive
    return replace(
        day, columns=(*day.columns, *clock.columns), us=us, ok=ok, naive=naive, clocked=True, doubt=doubt,
        evidence=evidence, format=made, readings=None, halves=clock.halves, options=options,
    )  # fmt: skip


def _clock_number(index: int, name: str, column: Callable[[int], pa.Array]) -> TimeReading | None:
    """Times of day that are written as numbers: 0 to 23 hours, 0 to 2359, or shares of a day."""
    if not re.search(r"time|hour|zeit|uhr|hora|heure|stunde|^hhmm|^hh?$|^hrs?$|^std$", name.strip(), re.I):
        return None
    numbers = read_numbers(column(index), Surroundings())
    values = numbers.values
    given = values[np.isfinite(values)]
    if not len(given) or numbers.unread > 0.03 * len(values) or given.min() < 0:
        return None
    whole = bool((given == np.round(given)).all())
    ok = np.isfinite(values)
    filled = np.where(ok, values, 0)
    if whole and given.max() <= 24 and len(np.unique(given)) > 2:
        us, word = filled * 3.6e9, "hours"
    elif whole and given.max() <= 2400 and (given % 100 < 60).all() and len(np.unique(given)) > 2:
        us, word = (filled // 100 * 60 + filled % 100) * 6e7, "hours and minutes in one number"
    elif whole and given.max() <= 240_000 and _sexagesimal(given) and len(np.unique(given)) > 2:
        us, word = (filled // 10_000 * 3600 + filled // 100 % 100 * 60 + filled % 100) * 1e6, "hhmmss"
    elif not whole and 1 <= given.max() < 24 and _HOURS.search(name.strip()):
        us, word = np.round(filled * 3600) * 1e6, "hours with a fraction"
    elif not whole and given.max() < 1:
        us, word = np.round(filled * _DAY_US / 1000) * 1000, "shares of a day"
    else:
        return None
    return TimeReading((index,), us.astype(np.int64), ok, ok, WRITTEN, word, absolute=False, dated=False)


def _sexagesimal(given: NDArray[np.float64]) -> bool:
    """Whether the digits may be hours, minutes and seconds."""
    return bool(((given % 100 < 60) & (given // 100 % 100 < 60)).all())


def _from_parts(
    names: Sequence[str], column: Callable[[int], pa.Array], only: tuple[int, ...] | None = None
) -> TimeReading | None:
    """Year, month, day and what follows, each in a column of its own."""
    at: dict[str, int] = {}
    for i, name in enumerate(names):
        if only is not None and i not in only:
            continue
        bare = re.sub(r"[\[(].*?[\])]", "", name).strip(" #_").lower().replace("_", " ")
        part = next((p for p, pattern in _PARTS.items() if re.match(pattern, bare)), None)
        if part == "month" and "month" in at and bare in ("mm", "m"):
            part = "minute"  # as in YY, MM, DD, hh, mm
        if part is not None and part not in at:
            at[part] = i
    if "year" not in at or not ({"month", "day"} <= at.keys() or "ordinal" in at):
        return None
    if only is not None and set(at.values()) != set(only):
        return None
    values = {part: read_numbers(column(i), Surroundings()).values for part, i in at.items()}
    ok = np.all([np.isfinite(v) for v in values.values()], axis=0)
    whole = {p: np.where(ok, v, 1).astype(np.int64) for p, v in values.items() if p != "second"}
    year = whole["year"]
    year = np.where(year < 69, year + 2000, np.where(year < 100, year + 1900, year))
    one = np.ones_like(year)
    if "month" in at and "day" in at:
        days, real = civil_days(year, whole["month"], whole["day"])
    else:
        days, real = civil_days(year, one, one)
        days = days + whole["ordinal"] - 1
        leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
        real &= (whole["ordinal"] >= 1) & (whole["ordinal"] <= 365 + leap)
    hour = whole.get("hour", 0 * one)
    if hour.max(initial=0) > 24 and (hour % 100 < 60).all():
        minute = hour // 100 * 60 + hour % 100
    else:
        minute = hour * 60 + whole.get("minute", 0 * one)
    second = np.where(ok, values["second"], 0.0) if "second" in values else 0.0 * one
    real &= (minute <= 24 * 60) & (year > 1900) & (year < 2200) & (hour >= 0) & (minute >= 0) & (second >= 0)
    minutes = whole.get("minute", 0 * one)
    real &= (minutes >= 0) & (("hour" not in at) | (minutes < 60))
    second = second + _rest_s(values, ok)
    if real[ok].mean() < 0.97 if ok.any() else True:
        return None
    us = (days * DAY_S + minute * 60) * 1_000_000 + np.round(np.asarray(second) * 1e6).astype(np.int64)
    if "hour" not in at:  # the day may have a fraction
        day = values["ordinal" if "ordinal" in at else "day"]
        us += np.where(ok, np.round((day - np.floor(day)) * DAY_S), 0).astype(np.int64) * 1_000_000
    order = [at[p] for p in _PARTS if p in at]
    said = ", ".join(p for p in _PARTS if p in at)
    every = np.ones(len(us), dtype=np.bool_)
    return TimeReading(
        tuple(order), us, ok & real, every, WRITTEN, f"columns of {said}", clocked="hour" in at
    )


def _rest_s(values: Mapping[str, NDArray[np.float64]], ok: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Seconds in the fraction of the last part of the clock; a second has its own."""
    part, size = ("minute", 60.0) if "minute" in values else ("hour", 3600.0)
    if part not in values or "second" in values:
        return np.zeros(len(ok))
    given = np.where(ok, values[part], 0.0)
    return np.asarray((given - np.floor(given)) * size)


def _index(names: Sequence[str], name: str) -> int:
    """Index of a column by its name, or by its number counted from 1 as ``#2``."""
    bare = [n.strip() for n in names]
    if name.strip() in bare:
        return bare.index(name.strip())
    found = re.fullmatch(r"#(\d+)", name)
    if found and 1 <= int(found[1]) <= len(names):
        return int(found[1]) - 1
    raise KeyError(name)


def _periods(cells: pa.Array) -> bool:
    """Whether a column holds months, weeks or quarters, which are no instants."""
    if not pa.types.is_string(cells.type):
        return False
    some = [str(c).strip() for c in cells.slice(0, 50).drop_null().to_pylist()]
    return bool(some) and all(re.fullmatch(r"(19|20)\d\d(\s?[-/]\s?[WQM]?|\s?[WQM])\d{1,2}", c) for c in some)


def _texts(cells: pa.Array) -> bool:
    """Whether a column holds text with digits, as times do."""
    return bool(pa.types.is_string(cells.type)) and any(
        any(ch.isdigit() for ch in str(c)) for c in cells.slice(0, 50).drop_null().to_pylist()
    )
