"""Reads times that are written as numbers: digits of a date, time since 1970, time since a start. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from edge_producer.sources.cells import EARLIEST_US, LATEST_US
from infra.printing import count
from infra.reading.digit_times import read_digit_times
from infra.reading.number_forms import Surroundings, read_numbers
from infra.reading.other_epochs import OTHER_EPOCHS, days_of, ticks_of
from infra.reading.time_forms import Bools, Ints

EPOCHS = {"epoch_s": 1_000_000.0, "epoch_ms": 1_000.0, "epoch_us": 1.0, "epoch_ns": 1e-3}
"""Microseconds in one of each unit."""
RELATIVE = {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6, "min": 6e7, "h": 3.6e9, "d": 8.64e10}
EARLIEST_S, LATEST_S = 1.0e8, 4.2e9
"""1973 and 2103: a count of seconds since 1970 outside is none."""
_RECENT = 1995
"""Year from which a count that begins far from zero may be minutes since 1970."""
LONGEST_US = 3.2e15
"""A hundred years: numbers that span more are no time since a start."""
_UNIT_NAMES = {
    "ns": "ns", "nanoseconds": "ns", "us": "us", "µs": "us", "μs": "us", "microseconds": "us",
    "ms": "ms", "msec": "ms",
    "millis": "ms", "milliseconds": "ms", "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "sekunden": "s", "min": "min", "mins": "min", "minute": "min", "minutes": "min", "h": "h",
    "hr": "h", "hrs": "h",
    "hour": "h", "hours": "h", "std": "h", "d": "d", "day": "d", "days": "d",
}  # fmt: skip
_ELAPSED = re.compile(
    r"time|elapsed|^t$|zeit|second|millis|uptime|tempo|temps|tiempo|^sec|^ms$|^s$|runtime", re.I
)
_NUMBERED = re.compile(r"(^|[\W_])(id|nr|no|num|number|seq|index|count|row|serial)\d*$", re.IGNORECASE)
"""Names of columns that count or identify, and tell no time."""
_SINCE_1970 = re.compile(r"stamp|epoch|unix|^ts$", re.IGNORECASE)
_DATED = re.compile(r"date|datum|fecha|^tag$|jour|\bday\b", re.IGNORECASE)
_COUNTED = ("s", "ms", "us", "ns", "min", "h")
"""Units of time that a header may state: the cells count, and are no digits of a date."""
_SURELY = 0.97


@dataclass(frozen=True, slots=True, eq=False)
class NumberTimes:
    """A column of numbers read as times.

    Attributes:
        us: Microseconds since 1970, or since an unknown start if not ``absolute``.
        format: As in a profile's ``time_format``.
        naive: Whether the numbers count local time.
        doubt: Why it is not certain; empty: it is.
        options: Formats that decide it; empty: the usual ones.
    """

    us: Ints
    ok: Bools
    format: str
    absolute: bool
    naive: bool
    evidence: str
    doubt: str = ""
    options: tuple[str, ...] = ()


def read_number_times(
    cells: pa.Array, name: str, unit: str, timelike: bool, said: str = ""
) -> NumberTimes | None:
    """A column of numbers as times; None: it holds something else.

    Args:
        cells: Text or numbers.
        name: The column's.
        unit: As its header states it.
        timelike: Whether its name suggests a time.
        said: A format that a person named.
    """
    values, whole = _numbers(cells)
    ok = np.isfinite(values)
    if said:
        return _as_said(values, whole, ok, said)
    if not ok.any() or ok.mean() < 0.5:
        return None
    some = values[ok]
    rising = _rising(some)
    if whole is not None:
        digits = _digits(cells, name, unit, whole, ok, timelike=timelike, rising=rising)
        if digits is not None:
            return digits
    ticks = ticks_of(some) if whole is not None and (timelike or rising) else ""
    if ticks:
        doubt = f"may be {OTHER_EPOCHS[ticks].words}, or nanoseconds since 1970"
        return _other(ticks, values, whole, ok, doubt, (ticks, "epoch_ns"))
    for form, scale in EPOCHS.items():
        seconds = some / (1e6 / scale)
        inside = (seconds >= EARLIEST_S) & (seconds <= LATEST_S)
        if inside.mean() >= _SURELY and (timelike or (rising and not _NUMBERED.search(name))):
            step = np.median(np.abs(np.diff(some[inside]))) * scale / 1e6 if inside.sum() > 1 else 0.0
            why = f"as {_words(form)} all lie between 1973 and 2103, {step:.6g} s apart in the median"
            return _scaled(values, whole, ok, form, scale, why)
    return _relative(values, ok, name, unit, timelike, rising)


def time_unit(name: str, unit: str) -> str:
    """The unit of time in a header: ``Time (s)``, ``elapsed_ms``; empty: none.

    >>> time_unit("Time (s)", ""), time_unit("elapsed_ms", ""), time_unit("t", "min"), time_unit("time", "")
    ('s', 'ms', 'min', '')
    """
    for text in (unit, *re.findall(r"[\[(]([^\])]+)[\])]", name), *reversed(re.split(r"[\s_/.,-]+", name))):
        short = text.strip().strip("[]()").lower()
        if short in _UNIT_NAMES and not (short in ("t", "d", "h", "s") and len(name) <= 1):
            return _UNIT_NAMES[short]
    return ""


def _numbers(cells: pa.Array) -> tuple[NDArray[np.float64], Ints | None]:
    """Values, and the same without rounding where all are whole."""
    values = read_numbers(cells, Surroundings(said=".")).values
    try:
        exact = cells.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        given = values[np.isfinite(values)]
        whole = (
            bool(len(given)) and bool((given == np.round(given)).all()) and bool((np.abs(given) < 9e15).all())
        )
        exact = np.where(np.isfinite(values), values, 0).astype(np.int64) if whole else None
    return values, exact


def _digits(
    cells: pa.Array, name: str, unit: str, whole: Ints, ok: Bools, *, timelike: bool, rising: bool
) -> NumberTimes | None:
    """Digits such as 20210301, 2021030112, 2103011230 or 20210301123005."""
    if not (timelike or rising):
        return None
    days = days_of(whole[ok].astype(np.float64)) if timelike else ""
    counted = _epoch_of(whole[ok]) or days or ("relative_s" if rising else "")
    read = read_digit_times(cells, whole, ok, counted, timelike=timelike)
    if read is None:
        return None
    counts = time_unit(name, unit) in _COUNTED or (_NUMBERED.search(name) and not timelike)
    if counts and not read.format.startswith(("%Y", "written")):
        return None
    return NumberTimes(read.us, read.ok, read.format, True, True, read.evidence, read.doubt, read.options)


def _epoch_of(some: Ints) -> str:
    """The unit in which these count time since 1970; empty: none."""
    for form, scale in EPOCHS.items():
        seconds = some * scale / 1e6
        if len(some) and ((seconds >= EARLIEST_S) & (seconds <= LATEST_S)).mean() >= _SURELY:
            return form
    return ""


def _relative(
    values: NDArray[np.float64], ok: Bools, name: str, unit: str, timelike: bool, rising: bool
) -> NumberTimes | None:
    values = _unwrapped(values, ok)
    some = values[ok]
    days = days_of(some) if timelike else ""
    if days and ((some != np.round(some)).any() or _DATED.search(name)):
        return _other(days, values, None, ok)
    elapsed = bool(_ELAPSED.search(name)) or timelike
    stated = time_unit(name, unit)
    if not rising or not (elapsed or stated in ("s", "ms", "us", "ns")) or len(some) < 3:
        return None
    step = float(np.median(np.diff(some)))
    doubt = ""
    options: tuple[str, ...] = ()
    if days and not stated:
        doubt = f"may be {OTHER_EPOCHS[days].words}, or count since a start"
        options = (days, "relative_s")
    if not stated:
        if not doubt and OTHER_EPOCHS["epoch_min"].covers(some, _RECENT) and some.min() > np.ptp(some):
            doubt, options = "may be minutes since 1970, or count since a start", ("epoch_min", "relative_s")
        if not doubt and some.min() >= 1900 and some.max() < 2101 and (some != np.round(some)).any():
            doubt, options = (
                "may be years with a fraction, which are not read",
                ("relative_s", "--time-column none"),
            )
        if step > 1 and not doubt:
            doubt = f"'{name}' rises by {step:g} and names no unit of time"
            options = ("epoch_s", "relative_s", "relative_ms") if _SINCE_1970.search(name) else ()
        stated = "s"
    falls = np.diff(some) < 0 if step > 0 else np.diff(some) > 0
    if falls.any() and not doubt:
        doubt = f"begins anew {count(int(falls.sum()), 'time')}, and its rows would be sorted into each other"
    why = f"rises by {step:.6g} {stated} from {some[0]:g}: time since a start that the file does not tell"
    if (some.max() - some.min()) * RELATIVE[stated] > LONGEST_US:
        return None
    us = np.round(np.where(ok, values - some[0], 0) * RELATIVE[stated]).astype(np.int64)
    return NumberTimes(us, ok, f"relative_{stated}", False, False, why, doubt, options)


def _unwrapped(values: NDArray[np.float64], ok: Bools) -> NDArray[np.float64]:
    """A counter of 16 or 32 bits that ran over, as if it had more."""
    some = values[ok]
    for bits in (16, 32):
        size = 2.0**bits
        falls = np.diff(some, prepend=some[:1]) < -0.9 * size
        if falls.any() and some.min() >= 0 and some.max() < size:
            made = values.copy()
            made[ok] = some + np.cumsum(falls) * size
            return made
    return values


def _other(
    form: str, values: NDArray[np.float64], whole: Ints | None, ok: Bools, doubt: str = "",
    options: tuple[str, ...] = (), why: str = "",
) -> NumberTimes:  # fmt: skip
    epoch = OTHER_EPOCHS[form]
    us = epoch.read(values, whole, ok)
    return NumberTimes(us, ok, form, True, epoch.naive, why or epoch.words, doubt, options)


def _as_said(values: NDArray[np.float64], whole: Ints | None, ok: Bools, said: str) -> NumberTimes | None:
    why = f"{said} was given"
    if said in EPOCHS:
        return _scaled(values, whole, ok, said, EPOCHS[said], why, (EARLIEST_US / 1e6, LATEST_US / 1e6))
    if said.startswith("relative_") and said[9:] in RELATIVE:
        us = np.round(np.where(ok, values, 0) * RELATIVE[said[9:]]).astype(np.int64)
        return NumberTimes(us, ok, said, absolute=False, naive=False, evidence=why)
    if said in OTHER_EPOCHS:
        return _other(said, values, whole, ok, why=why)
    return None


def _scaled(
    values: NDArray[np.float64], whole: Ints | None, ok: Bools, form: str, scale: float, why: str,
    bounds_s: tuple[float, float] = (EARLIEST_S, LATEST_S),
) -> NumberTimes:  # fmt: skip
    """Times since 1970, from whole numbers without rounding."""
    if whole is not None:
        us = whole * int(scale) if scale >= 1 else (whole + 500) // 1000
    else:
        us = np.round(np.where(ok, values, 0) * scale).astype(np.int64)
    inside = (us > bounds_s[0] * 1e6) & (us < bounds_s[1] * 1e6)
    return NumberTimes(us, ok & inside, form, absolute=True, naive=False, evidence=why)


def _rising(values: NDArray[np.float64]) -> bool:
    """Whether values only rise or only fall, but for a few."""
    steps = np.diff(values)
    if not len(steps) or (steps == 0).all():
        return False
    return bool((steps >= 0).mean() >= 0.98 or (steps <= 0).mean() >= 0.98)


def _words(form: str) -> str:
    return {"epoch_s": "seconds", "epoch_ms": "milliseconds", "epoch_us": "microseconds"}.get(
        form, "nanoseconds"
    ) + " since 1970"
