"""Reads dates that are written as digits alone, and tells them from counts of seconds. Pure.

``2103011230`` is half past twelve of a day, or a second of 2036. A date carries at 60 minutes, at 24 hours
and at the end of a month; a count carries at 100. Under the right reading the steps are even, under the other
one they break at each carry. Where nothing carries within the file, it is doubtful and asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.reading.number_forms import is_text
from infra.reading.time_forms import DAY_S, Bools, Ints, civil_days, read_form

_HEADS = ("%Y%m%d", "%y%m%d", "%d%m%Y", "%m%d%Y", "%d%m%y", "%m%d%y", "%Y%j", "%y%j")
_TAILS = ("", "%H", "%H%M", "%H%M%S")
LAYOUTS = tuple(f"{head}{tail}" for head in _HEADS for tail in _TAILS)
"""Digits of a date without anything between them, as strptime formats."""
_YEARS = {"%Y": (1900, 2100), "%y": (1980, 2050)}
"""Years that digits may mean; a short year outside is no year."""
_LAST_ORDINAL = 2035
"""A short year before the day of the year ends here: 44253 is a day of a spreadsheet, and not of 2044."""
_BASES = {"%Y": 10_000, "%j": 1000}
_MILLIS = 17
"""Digits of year, month, day and a time with milliseconds."""
_SURELY = 0.97


@dataclass(frozen=True, slots=True, eq=False)
class DigitTimes:
    """Digits read as dates.

    Attributes:
        us: Microseconds since 1970, wall clock.
        format: The strptime format, or ``written``.
        doubt: Why it is not certain; empty: it is.
        options: Formats that decide it.
    """

    us: Ints
    ok: Bools
    format: str
    evidence: str
    doubt: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """One reading of the digits.

    Attributes:
        breaks: Falls in the file's order, and steps that are longer than usual.
        moves: Whether the last thing that the digits tell differs from cell to cell.
    """

    format: str
    us: Ints
    ok: Bools
    breaks: int
    moves: bool


def read_digit_times(
    cells: pa.Array, whole: Ints, ok: Bools, count: str, *, timelike: bool
) -> DigitTimes | None:
    """Cells as dates; None: they count something.

    Args:
        cells: Text or whole numbers.
        whole: The same as numbers.
        ok: Which of them are numbers.
        count: What they are if they count: ``epoch_s`` and the like; empty: nothing that is known.
        timelike: Whether the column's name suggests a time; a counter may look like a date, too.
    """
    width = _width(cells, whole, ok)
    if width == _MILLIS:
        return _with_millis(cells, ok)
    read = [
        c for layout in LAYOUTS if _size(layout) == width and (c := _candidate(layout, whole, ok)) is not None
    ]
    if not read:
        return None
    least = min(c.breaks for c in read)
    even = [c for c in read if c.breaks == least]
    best = [c for c in even if c.moves] or even
    counted = breaks_of(whole[ok])
    rival = count if counted <= least and not best[0].format.startswith("%Y") else ""
    if counted < least and rival:
        return None
    if not timelike and (rival or width < len("yymmddhh")):
        return None
    first = best[0]
    words = f"{width} digits that are a date{' and a time' if width > len('yyyymmdd') else ''} in every cell"
    why = f"{words}, read as {first.format}"
    others = [c for c in best if not np.array_equal(c.us[c.ok & first.ok], first.us[c.ok & first.ok])]
    options = (first.format, *(c.format for c in others), *([rival] if rival else []))
    if len(options) == 1:
        return DigitTimes(first.us, first.ok, first.format, why)
    doubt = "holds digits that may be read as " + " or ".join(options)
    return DigitTimes(first.us, first.ok, first.format, why, doubt, options)


def padded(cells: pa.Array, layout: str) -> pa.Array:
    """Text with the zeros in front that numbers lose, where a layout is of digits alone."""
    text = cells.cast(pa.string())
    return pc.utf8_lpad(text, _size(layout), "0") if layout in LAYOUTS else text


def _width(cells: pa.Array, whole: Ints, ok: Bools) -> int:
    """How many digits the cells have; 0: several numbers, or other characters."""
    if is_text(cells.type):
        text = pc.utf8_trim_whitespace(cells.cast(pa.string()).drop_null())
        text = text.filter(pc.greater(pc.utf8_length(text), 0))
        digits = pc.match_substring_regex(text, r"^\d{5,17}$")
        if not len(text) or (pc.sum(digits).as_py() or 0) < _SURELY * len(text):
            return 0
        lengths = pc.utf8_length(text.filter(digits)).to_numpy(zero_copy_only=False)
    else:
        some = whole[ok]
        if not len(some) or some.min() <= 0:
            return 0
        lengths = np.floor(np.log10(some.astype(np.float64)) + 1e-12).astype(np.int64) + 1
    longest = int(lengths.max())
    if longest == _MILLIS:
        return longest if int(lengths.min()) == _MILLIS else 0
    return longest if int(lengths.min()) >= longest - 1 else 0  # a number loses the zero in front


def _with_millis(cells: pa.Array, ok: Bools) -> DigitTimes | None:
    text = cells if is_text(cells.type) else cells.cast(pa.int64(), safe=False).cast(pa.string())
    read = read_form(pc.utf8_trim_whitespace(text.cast(pa.string())), "digits")
    if not read.ok.any() or read.ok.sum() < _SURELY * ok.sum():
        return None
    why = f"{_MILLIS} digits that are a date and a time in every cell"
    return DigitTimes(read.us, read.ok, "written", why)


def _size(layout: str) -> int:
    return layout.count("%") * 2 + 2 * layout.count("%Y") + layout.count("%j")


def _candidate(layout: str, whole: Ints, ok: Bools) -> _Candidate | None:
    """The cells under a layout; None: some are no dates."""
    rest, parts = np.where(ok, whole, 0), {}
    for directive in reversed([layout[i : i + 2] for i in range(0, len(layout), 2)]):
        rest, parts[directive] = np.divmod(rest, _BASES.get(directive, 100))
    nothing = np.zeros_like(rest)
    kind = "%Y" if "%Y" in parts else "%y"
    year = parts[kind] if kind == "%Y" else np.where(parts[kind] < 69, 2000, 1900) + parts[kind]
    days, real = _days(year, parts)
    hour, minute, second = (parts.get(d, nothing) for d in ("%H", "%M", "%S"))
    first, end = _YEARS[kind] if layout[:4] != "%y%j" else (1980, _LAST_ORDINAL)
    fits = ok & real & (year >= first) & (year < end) & (rest == 0) & (minute < 60) & (second < 60)
    fits &= (hour < 24) | ((hour == 24) & (minute + second == 0))
    if not fits.any() or fits.sum() < _SURELY * ok.sum():
        return None
    us = (days * DAY_S + hour * 3600 + minute * 60 + second) * 1_000_000
    last = parts[layout[-2:] if "%H" in parts else "%d" if "%d" in parts else "%j"][fits]
    return _Candidate(layout, us, fits, breaks_of(us[fits]), bool((last != last[0]).any()))


def _days(year: Ints, parts: Mapping[str, Ints]) -> tuple[Ints, Bools]:
    """Days since 1970, and which dates exist."""
    if "%j" not in parts:
        return civil_days(year, parts["%m"], parts["%d"])
    one = np.ones_like(year)
    days, real = civil_days(year, one, one)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    return days + parts["%j"] - 1, real & (parts["%j"] >= 1) & (parts["%j"] <= 365 + leap)


def breaks_of(values: NDArray[np.int64]) -> int:
    """Steps against the main direction, and those that are half again as long as the usual one, or longer."""
    steps = np.diff(values)
    falls = min(int((steps < 0).sum()), int((steps > 0).sum()))
    distinct = np.diff(np.unique(values))
    if not len(distinct):
        return falls
    return falls + int((distinct > int(1.5 * float(np.median(distinct)))).sum())
