"""Reads written times: a form is a pattern of date and clock; cells become microseconds, a column at a time.

Pure. ``read_form`` reads the cells that a form matches; which form a column has is decided in
``time_choice.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DAY_S = 86_400
CHUNK = 262_144
"""Cells that are matched at once: bounds the memory."""

_CLOCK = (
    r"(?P<h>\d{1,2})(?:(?P<p>[:.h])(?P<mi>\d{2})(?:(?P<q>[:.m])(?P<s>\d{1,2})(?:[.,:](?P<f>\d{1,12}))?)?s?)?"
    r"\s*(?P<ap>[ap]\.?\s?m\.?)?"
)
_MINUTES = (
    r"(?P<h>\d{1,2})(?P<p>[:.h])(?P<mi>\d{2})(?:(?P<q>[:.m])(?P<s>\d{1,2})(?:[.,:](?P<f>\d{1,12}))?)?s?"
    r"\s*(?P<ap>[ap]\.?\s?m\.?)?"
)
_ZONE = r"\s*[\[(]?(?P<z>(?:utc|gmt)?\s?[+-]\d{1,2}(?::?\d{2})?(?:\[[\w/]+\]?)?|[a-z]{1,5}|utc±0)?[\])]?"
_WEEKDAY = r"(?:[a-zà-ÿ]{2,10}\.?,?\s+)?"
_BETWEEN = r"(?:\s*[t_,;@:]\s*|\s+-\s+|\s+|-)"
_NAME = r"(?P<mon>[a-zà-ÿ]{3,10})\.?"
_OR_CLOCK = rf"(?:{_BETWEEN}{_CLOCK}{_ZONE})?"

PATTERNS: Mapping[str, str] = {
    "ymd": rf"{_WEEKDAY}(?P<y>\d{{4}})(?:[-/._ ]|年)(?P<m>\d{{1,2}})(?:[-/._ ]|月)"
    rf"(?P<d>\d{{1,2}})日?{_OR_CLOCK}",
    "num": rf"{_WEEKDAY}(?P<a>\d{{1,2}})[-/._ ](?P<b>\d{{1,2}})[-/._ ](?P<c>\d{{4}}|\d{{2}})\.?{_OR_CLOCK}",
    "digits": (
        r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})(?:[t _-]?(?P<h>\d{2})"
        rf"(?::?(?P<mi>\d{{2}})(?::?(?P<s>\d{{2}})(?:[.,]?(?P<f>\d{{1,9}}))?)?)?)?{_ZONE}"
    ),
    "day_name": (
        rf"{_WEEKDAY}(?P<d>\d{{1,2}})(?:st|nd|rd|th|\.)?(?:\s?[-/._ ]\s?|\s+of\s+)?{_NAME}[-/._, ]*"
        rf"(?P<y>\d{{4}}|\d{{2}}){_OR_CLOCK}"
    ),
    "name_day": rf"{_WEEKDAY}{_NAME}[-\s]+(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[,-]?\s*(?P<y>\d{{4}}){_OR_CLOCK}",
    "year_name": rf"(?P<y>\d{{4}})[-/._ ]{_NAME}[-/._ ](?P<d>\d{{1,2}}){_OR_CLOCK}",
    "ctime": rf"{_WEEKDAY}{_NAME}\s+(?P<d>\d{{1,2}})\s+{_MINUTES}{_ZONE}\s+(?P<y>\d{{4}})",
    "clock_date": rf"{_MINUTES}[\s,]+(?P<a>\d{{1,2}})[-/.](?P<b>\d{{1,2}})[-/.](?P<c>\d{{4}}|\d{{2}})",
    "ordinal": rf"(?P<y>\d{{4}})-?(?P<doy>\d{{3}}){_OR_CLOCK}",
    "clock": rf"{_MINUTES}{_ZONE}",
    "minutes": r"(?P<mi>\d{1,3}):(?P<s>\d{2})(?:[.,](?P<f>\d{1,12}))?",
}
FORMS = tuple(PATTERNS)
"""Names of the forms, the more specific first."""
OPEN_FORMS = frozenset({"num", "clock_date"})
"""Forms that do not tell day, month and year apart."""
ORDERS = ("day_first", "month_first", "year_first")
GO_CLOCK = "clock"
"""The form of a time of day without a date."""
GO_MINUTES = "minutes"
"""Minutes and seconds: a stopwatch, or times as spreadsheets show them by the format ``mm:ss.0``."""
UNDATED = frozenset({GO_CLOCK, GO_MINUTES})

_MONTHS = {
    name: number + 1
    for number, names in enumerate(
        (
            "jan january januar janvier janv enero ene gennaio gen janeiro januari jän jänner",
            "feb february februar février févr fév febrero febbraio fevereiro fev februari",
            "mar march märz mär mrz mars marzo março maart mrt",
            "apr april avril avr abril abr aprile",
            "may mai mayo maggio mag maio mei",
            "jun june juni juin junio giugno giu junho",
            "jul july juli juillet juil julio luglio lug julho",
            "aug august août aout agosto ago augustus",
            "sep sept september septembre septiembre settembre set setembro",
            "oct october oktober octobre octubre oct okt ottobre ott outubro out",
            "nov november novembre noviembre novembro",
            "dec december dezember dez décembre déc diciembre dic dicembre dezembro",
        )
    )
    for name in names.split()
}
_ZONES_H = {
    "z": 0, "utc": 0, "gmt": 0, "ut": 0, "wet": 0, "west": 1, "cet": 1, "mez": 1, "cest": 2, "mesz": 2,
    "eet": 2, "eest": 3, "msk": 3, "jst": 9, "kst": 9, "est": -5, "edt": -4, "mst": -7, "mdt": -6, "pst": -8,
    "pdt": -7, "cdt": -5, "aest": 10, "aedt": 11, "nzst": 12, "nzdt": 13,
}  # fmt: skip
"""Hours of zones whose short name means one zone only; CST, IST and BST mean several."""
_DAYS = np.array([31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


@dataclass(frozen=True, slots=True, eq=False)
class ReadTimes:
    """Cells read as times.

    Attributes:
        us: Microseconds since 1970: wall clock where ``naive``, else UTC; arbitrary where not ``ok``.
        ok: Which cells are times.
        naive: Which cells state no zone.
        dated: Whether the cells have dates.
        clocked: Whether some cell has a clock.
    """

    us: Ints
    ok: Bools
    naive: Bools
    dated: bool = True
    clocked: bool = True


def read_form(text: pa.Array, form: str, order: str = "") -> ReadTimes:
    """The cells that are written in a form.

    Args:
        text: Trimmed cells; null: blank.
        form: One of ``FORMS``.
        order: One of ``ORDERS``, for ``OPEN_FORMS``.
    """
    parts = [
        _read_chunk(text.slice(first, CHUNK), form, order) for first in range(0, max(len(text), 1), CHUNK)
    ]
    return ReadTimes(
        np.concatenate([p.us for p in parts]),
        np.concatenate([p.ok for p in parts]),
        np.concatenate([p.naive for p in parts]),
        form not in UNDATED,
        any(p.clocked for p in parts),
    )


def matches(text: pa.Array, form: str) -> Bools:
    """Which cells look like the form, whatever their numbers are."""
    found = pc.match_substring_regex(text, rf"(?i)^{PATTERNS[form]}$")
    return as_bools(pc.fill_null(found, False))


def _read_chunk(text: pa.Array, form: str, order: str) -> ReadTimes:
    found = pc.extract_regex(pc.utf8_lower(text), rf"^{PATTERNS[form]}$")
    matched = as_bools(found.is_valid())
    names = re.findall(r"\?P<(\w+)>", PATTERNS[form])
    parts = {name: found.field(i) for i, name in enumerate(names)}
    year, month, day, ok = _date(parts, form, order, len(text))
    seconds, micros, clock_ok = _clock(parts, len(text))
    offset_s, zone_ok, naive = _offset(parts.get("z"), len(text))
    days, real = civil_days(year, month, day) if form not in UNDATED else (np.zeros_like(year), matched)
    if "doy" in parts:
        days = days + _whole(parts["doy"]) - 1
    us = (days * DAY_S + seconds - offset_s) * 1_000_000 + micros
    good = matched & ok & real & clock_ok & zone_ok
    clocked = "h" in parts and bool(pc.any(pc.not_equal(parts["h"], "")).as_py())
    return ReadTimes(us, good, naive, form not in UNDATED, clocked)


def _date(parts: Mapping[str, pa.Array], form: str, order: str, size: int) -> tuple[Ints, Ints, Ints, Bools]:
    """Year, month and day, and which of them are possible numbers."""
    ok = np.ones(size, dtype=np.bool_)
    if form in UNDATED:
        one = np.ones(size, dtype=np.int64)
        return one * 1970, one, one, ok
    if form in OPEN_FORMS:
        a, b, c = (_whole(parts[n]) for n in "abc")
        long = as_bools(pc.fill_null(pc.equal(pc.utf8_length(parts["c"]), 4), False))
        if order == "year_first":
            return _century(a, ~long), b, c, ~long
        day, month = (a, b) if order != "month_first" else (b, a)
        return _century(c, ~long), month, day, ok
    year = _century(_whole(parts["y"]), as_bools(pc.fill_null(pc.less(pc.utf8_length(parts["y"]), 3), False)))
    if "doy" in parts:
        one = np.ones(size, dtype=np.int64)
        nth = _whole(parts["doy"])
        leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
        return year, one, one, (nth >= 1) & (nth <= 365 + leap)
    if "mon" in parts:
        month = _month(parts["mon"])
        return year, month, _whole(parts["d"]), month > 0
    return year, _whole(parts["m"]), _whole(parts["d"]), ok


def _clock(parts: Mapping[str, pa.Array], size: int) -> tuple[Ints, Ints, Bools]:
    """Seconds of the day, microseconds, and which are possible; 24:00 is the next day's 0:00."""
    nothing = np.zeros(size, dtype=np.int64)
    if "h" not in parts and "mi" not in parts:
        return nothing, nothing, np.ones(size, dtype=np.bool_)
    hour, minute, second = (_whole(parts[n]) if n in parts else nothing for n in ("h", "mi", "s"))
    fraction = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.fill_null(parts["f"], ""), 9, "0"), 0, 9)
    micros = (_whole(fraction) + 500) // 1000
    if "h" not in parts:
        return minute * 60 + second, micros, second < 60
    half = parts.get("ap")
    ok = (hour <= 24) & (minute < 60) & (second <= 60) & ((hour < 24) | (minute + second == 0))
    if half is not None:
        after = as_bools(pc.fill_null(pc.starts_with(half, "p"), False))
        before = as_bools(pc.fill_null(pc.starts_with(half, "a"), False))
        ok &= ~(after | before) | ((hour >= 1) & (hour <= 12))
        hour = np.where(after, hour % 12 + 12, np.where(before, hour % 12, hour))
    if "q" in parts:
        # Behind the second of two fields, a point begins a fraction: 12:30.5 has no seconds of its own.
        ok &= ~as_bools(pc.fill_null(pc.and_(pc.equal(parts["p"], ":"), pc.equal(parts["q"], ".")), False))
    return hour * 3600 + minute * 60 + second, micros, ok


def _offset(zone: pa.Array | None, size: int) -> tuple[Ints, Bools, Bools]:
    """Seconds east of UTC, which zones are known, and which cells have none."""
    nothing, every = np.zeros(size, dtype=np.int64), np.ones(size, dtype=np.bool_)
    if zone is None:
        return nothing, every, every
    coded = pc.fill_null(zone, "").dictionary_encode()
    values = [offset_s(str(z)) for z in coded.dictionary.to_pylist()] or [0]
    index = coded.indices.to_numpy(zero_copy_only=False)
    known = np.array([v is not None for v in values])
    table = np.array([v or 0 for v in values], dtype=np.int64)
    blank = np.array([not str(z).strip() for z in coded.dictionary.to_pylist()] or [True])
    return table[index], known[index], blank[index]


def offset_s(zone: str) -> int | None:
    """Seconds east of UTC of a written zone; None: nobody knows.

    >>> offset_s("+02:00"), offset_s("utc-5"), offset_s("cest"), offset_s("cst"), offset_s("")
    (7200, -18000, 7200, None, 0)
    """
    zone = zone.strip()
    if not zone or zone == "utc±0":
        return 0
    if zone in _ZONES_H:
        return _ZONES_H[zone] * 3600
    found = re.fullmatch(r"(?:utc|gmt)?\s?([+-])(\d{1,2}):?(\d{2})?(?:\[.*)?", zone)
    if found is None:
        return None
    size = int(found[2]) * 3600 + int(found[3] or 0) * 60
    return -size if found[1] == "-" else size


def civil_days(year: Ints, month: Ints, day: Ints) -> tuple[Ints, Bools]:
    """Days since 1970 of dates, and which dates exist."""
    real = (month >= 1) & (month <= 12) & (day >= 1) & (year >= 1) & (year <= 9999)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    longest = _DAYS[np.clip(month, 1, 12) - 1] - ((month == 2) & ~leap)
    real &= day <= longest
    # Days from the civil date, by counting years from March: the leap day is then the last of a year.
    shifted = year - (month <= 2)
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468, real


def month_of(name: str) -> int:
    """Number of a month by its name in one of seven languages; 0: it is none."""
    return _MONTHS.get(name.strip(". ").lower(), 0)


def _century(year: Ints, short: Bools) -> Ints:
    return np.where(short, np.where(year < 69, year + 2000, year + 1900), year)


def _month(names: pa.Array) -> Ints:
    coded = pc.fill_null(names, "").dictionary_encode()
    table = np.array([month_of(str(n)) for n in coded.dictionary.to_pylist()] or [0], dtype=np.int64)
    months: Ints = table[coded.indices.to_numpy(zero_copy_only=False)]
    return months


def _whole(digits: pa.Array) -> Ints:
    """Digits as numbers; 0 where there are none."""
    filled = pc.if_else(pc.equal(pc.fill_null(digits, ""), ""), "0", digits)
    whole: Ints = pc.fill_null(filled, "0").cast(pa.int64()).to_numpy(zero_copy_only=False)
    return whole


def as_bools(flags: pa.Array) -> Bools:
    """An array of truth values without nulls."""
    return np.asarray(flags.to_numpy(zero_copy_only=False), dtype=np.bool_)
