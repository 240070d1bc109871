"""Reads one column as times, or says that it holds none. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edge_producer.sources.cells import instants
from infra.reading.day_order import choose_day_order
from infra.reading.digit_times import breaks_of, padded
from infra.reading.half_days import half_hours
from infra.reading.header import TIME_NAME
from infra.reading.number_forms import MISSING, is_text, read_plain
from infra.reading.number_times import read_number_times
from infra.reading.time_formats import WRITTEN, directives, order_of, profile_format, sample_of
from infra.reading.time_forms import (
    DAY_S,
    FORMS,
    GO_CLOCK,
    GO_MINUTES,
    OPEN_FORMS,
    ORDERS,
    PATTERNS,
    UNDATED,
    Bools,
    Ints,
    as_bools,
    matches,
    read_form,
)
from schemas.recording_section import Replay

_USUAL = 0.5
_SURELY = 0.97
_FORM_WORDS = {
    "ymd": "year, month, day in every cell", "digits": "digits of year, month and day",
    "clock": "times of day",
    "minutes": "minutes and seconds, without the hour",
    "ordinal": "year and day of the year",
}  # fmt: skip
_DATED, _HOUR = re.compile(r"%[dmyYjbBxcDFsGuUW]"), re.compile(r"%[HITXcRr]")
"""Directives of strptime that tell a date, and that tell an hour."""
_CLOCKED = re.compile(r"%[HIMSTXcRrf]")


@dataclass(frozen=True, slots=True, eq=False)
class TimeReading:
    """A column, or several, read as times.

    Attributes:
        columns: Their indices.
        us: Microseconds since 1970, wall clock where ``naive``; since an unknown start if not ``absolute``.
        format: As in a profile's ``time_format``.
        dated: Whether there are dates.
        clocked: Whether there are times of day.
        readings: For dates whose day and month are open: the times by order.
        dotted: Whether points stand between day and month.
        period_us: After which a time without a date begins anew.
        halves: The strptime format where all hours are 1 to 12 and no cell tells the half of the day.
        options: Formats, or whole options, that decide what is doubtful; empty: the usual ones.
        others: Further columns that hold dates, and are not taken.
    """

    columns: tuple[int, ...]
    us: Ints
    ok: Bools
    naive: Bools
    format: str
    evidence: str
    absolute: bool = True
    dated: bool = True
    clocked: bool = True
    doubt: str = ""
    unread: tuple[str, ...] = ()
    readings: Mapping[str, tuple[Ints, Bools]] | None = None
    dotted: bool = False
    options: tuple[str, ...] = ()
    period_us: int = DAY_S * 1_000_000
    halves: str = ""
    others: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        """Share of the rows that have a time."""
        return float(self.ok.mean()) if len(self.ok) else 0.0


def read_time_column(  # noqa: PLR0911  (one return for each kind of column)
    index: int, cells: pa.Array, name: str, unit: str = "", said: str = "", *, named: bool = False
) -> TimeReading | None:
    """A column's times; None: it holds none.

    Args:
        index: The column's.
        cells: All of them.
        name: The column's.
        unit: As its header states it.
        said: The format that a person or a profile names.
        named: Whether they say that it holds times.
    """
    timelike = named or bool(TIME_NAME.search(name)) or not name.strip()
    if pa.types.is_temporal(cells.type) and not pa.types.is_duration(cells.type):
        return _typed(index, cells)
    if pa.types.is_duration(cells.type):
        us = (
            cells.cast(pa.duration("us"), safe=False)
            .cast(pa.int64())
            .fill_null(0)
            .to_numpy(zero_copy_only=False)
        )
        ok = as_bools(cells.is_valid())
        return TimeReading(
            (index,), us, ok, ~ok, "relative_us", "lengths of time", absolute=False, dated=False
        )
    if not is_text(cells.type) and not ("%" in said and pa.types.is_integer(cells.type)):
        return _numbered(index, cells, name, unit, timelike, said)
    if not said and not timelike and read_plain(cells) is not None:
        return _numbered(index, cells, name, unit, timelike, said)
    text = trimmed(cells)
    if said and "%" in said:
        text = padded(text, said)
        exact = _strptime(index, text, said)
        written = _written(index, text, order_of(said))
        if written is None or exact.ok.sum() >= written.ok.sum():
            return exact
        halves = said if written.halves and "%I" in said else ""
        return replace(written, format=said, evidence=f"{said} was given", halves=halves)
    sample = sample_of(text)
    if not len(sample):
        return None
    if timelike and not said and (clock := _digit_clock(index, text, sample)) is not None:
        return clock
    if _mostly(sample, r"^[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?$"):
        return _numbered(index, text, name, unit, timelike, said)
    return _written(index, text, said if said in ORDERS else "")


def trimmed(cells: pa.Array) -> pa.Array:
    """Text without outer blanks; null where there is no value."""
    text = pc.utf8_trim(cells.cast(pa.string()), " \t\r\n\u00a0\ufeff\u200e'\"[]")
    none = pc.is_in(pc.utf8_lower(text), value_set=pa.array(MISSING, pa.string()))
    return pc.if_else(pc.fill_null(none, True), None, text)


def _digit_clock(index: int, text: pa.Array, sample: pa.Array) -> TimeReading | None:
    """Times of day as four or six digits, where they carry at 60 as no number does; None: they are none."""
    if not _mostly(sample, r"^([01]\d|2[0-4])[0-5]\d([0-5]\d)?$"):
        return None
    parted = pc.replace_substring_regex(text, r"^(\d{2})(\d{2})(\d{2})$", r"\1:\2:\3")
    parted = pc.replace_substring_regex(parted, r"^(\d{2})(\d{2})$", r"\1:\2")
    read = read_form(parted, GO_CLOCK)
    plain = read_plain(text)
    if plain is None or read.ok.sum() < _SURELY * (len(text) - text.null_count):
        return None
    if breaks_of(read.us[read.ok]) >= breaks_of(plain[read.ok].astype(np.int64)):
        return None
    why = "digits of a time of day: they carry at 60"
    return TimeReading(
        (index,), read.us, read.ok, read.naive, WRITTEN, why, absolute=False, dated=False, clocked=True
    )


def _written(index: int, text: pa.Array, said_order: str) -> TimeReading | None:
    """Cells as written dates and times, in the form that most have, then in others."""
    sample = sample_of(text)
    likely = {f: _plausible(sample, f) for f in FORMS}
    form = max(likely, key=lambda f: (likely[f], -FORMS.index(f)))
    if likely[form] < _USUAL * len(sample) or not len(sample):
        return None
    evidence, order, doubt = f"{_FORM_WORDS.get(form, form)}", "", ""
    options: tuple[str, ...] = ()
    readings: dict[str, tuple[Ints, Bools]] | None = None
    dotted = bool(_mostly(sample, r"^\D{0,12}\d{1,2}\.\d{1,2}\.\d"))
    if form in OPEN_FORMS:
        every = {o: read_form(text, form, o) for o in ([said_order] if said_order else ORDERS)}
        readings = {o: (r.us, r.ok) for o, r in every.items()}
        chosen = choose_day_order(readings, dotted)
        order, evidence, doubt = chosen.order, chosen.evidence, chosen.doubt
        options = _as_options(chosen.open, form, text, readings)
        if said_order:
            evidence = f"{said_order.replace('_', ' ')} was given"
        read = every[order]
    else:
        read = read_form(text, form)
    if form == GO_CLOCK and _minutes_as_well(text, read.us, read.ok):
        doubt = "may be hours and minutes, or minutes and seconds"
        options = ("%H:%M", "%M:%S")
    us, ok, naive, clocked = read.us.copy(), read.ok.copy(), read.naive.copy(), read.clocked
    if not (ok.all() or form in UNDATED):
        for other in FORMS:
            left = ~ok & as_bools(text.is_valid())
            if other in (form, *UNDATED) or not left.any() or (other in OPEN_FORMS and not order):
                continue
            places = np.flatnonzero(left)
            more = read_form(text.take(pa.array(places)), other, order)
            us[places[more.ok]], naive[places[more.ok]] = more.us[more.ok], more.naive[more.ok]
            ok[places[more.ok]] = True
    if ok.sum() < _USUAL * (len(text) - text.null_count):
        return None
    left = ~ok & as_bools(text.is_valid())
    unread = tuple(str(c) for c in text.filter(pa.array(left)).slice(0, 3).to_pylist())
    made = profile_format(form, order, text, us) if form not in UNDATED else WRITTEN
    halves = _halves(text, us, ok, form, order) if clocked and bool(naive[ok].all()) else ""
    return TimeReading(
        (index,), us, ok, naive, made, evidence, dated=read.dated, clocked=clocked, doubt=doubt,
        unread=unread,
        absolute=form not in UNDATED, readings=readings, dotted=dotted, options=options, halves=halves,
        period_us=(3600 if form == GO_MINUTES else DAY_S) * 1_000_000,
    )  # fmt: skip


def _as_options(
    orders: Sequence[str], form: str, text: pa.Array, readings: Mapping[str, tuple[Ints, Bools]]
) -> tuple[str, ...]:
    """Formats that decide the order of day and month; where the year is first, the strptime format."""
    made = {o: o if o != "year_first" else profile_format(form, o, text, readings[o][0]) for o in orders}
    return tuple(shlex.quote(m) for m in made.values())


def _halves(text: pa.Array, us: Ints, ok: Bools, form: str, order: str) -> str:
    """The format of cells whose hours are all 1 to 12 and that tell no half of the day; empty: they do."""
    hours = us[ok] // 3_600_000_000 % 24
    if not half_hours(hours) or form == GO_MINUTES:
        return ""
    if pc.any(pc.match_substring_regex(text, r"(?i)\d\s*[ap]\.?\s?m\b")).as_py():
        return ""
    cell = str(text[int(np.flatnonzero(ok)[0])])
    found = re.match(rf"^{PATTERNS[form]}$", cell, re.IGNORECASE)
    return WRITTEN if found is None else directives(found, order, cell)


def _minutes_as_well(text: pa.Array, us: Ints, ok: Bools) -> bool:
    """Whether times of day begin at zero and could as well be minutes and seconds since a start."""
    begins = ok.any() and us[np.flatnonzero(ok)[0]] == 0
    return bool(begins and read_form(text, GO_MINUTES).ok.sum() == ok.sum())


def _typed(index: int, cells: pa.Array) -> TimeReading:
    ok = as_bools(cells.is_valid())
    kind = cells.type
    if pa.types.is_time(kind):
        scale = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}[kind.unit]
        whole = (
            cells.cast(pa.int32() if pa.types.is_time32(kind) else pa.int64()).cast(pa.int64()).fill_null(0)
        )
        us = np.round(whole.to_numpy(zero_copy_only=False) * scale).astype(np.int64)
        return TimeReading((index,), us, ok, ok, WRITTEN, "times of day", absolute=False, dated=False)
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    if pa.types.is_date(kind):
        us = (
            cells.cast(pa.date32())
            .cast(pa.int32())
            .fill_null(0)
            .to_numpy(zero_copy_only=False)
            .astype(np.int64)
        )
        us = us * 86_400_000_000
    elif kind.unit == "ns":
        us = (cells.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) + 500) // 1000
    else:
        whole = cells.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        us = whole * {"s": 1_000_000, "ms": 1000, "us": 1}[kind.unit]
    naive = ok & (not zoned)
    clocked = bool((us[ok] % 86_400_000_000 != 0).any())
    return TimeReading((index,), us, ok, naive, "iso", f"column of type {kind}", clocked=clocked)


def _numbered(
    index: int, cells: pa.Array, name: str, unit: str, timelike: bool, said: str
) -> TimeReading | None:
    read = read_number_times(
        cells, name, unit, timelike, said if said not in ORDERS and "%" not in said else ""
    )
    if read is None:
        return None
    naive = np.full(len(read.us), read.naive)
    clocked = bool((read.us[read.ok] % 86_400_000_000 != 0).any())
    return TimeReading(
        (index,), read.us, read.ok, naive, read.format, read.evidence, absolute=read.absolute,
        doubt=read.doubt,
        clocked=clocked,
        options=read.options,
    )  # fmt: skip


def _strptime(index: int, text: pa.Array, said: str) -> TimeReading:
    dated = bool(_DATED.search(said))
    cells, form = (text, said) if dated else (_on_first_day(text), f"%Y-%m-%d {said}")
    read = instants(cells, Replay(time_format=form, missing=()))
    naive = np.full(len(text), "%z" not in said)
    left = ~read.readable & as_bools(text.is_valid())
    unread = tuple(str(c) for c in text.filter(pa.array(left)).slice(0, 3).to_pylist())
    period = 3600 if "%M" in said and not _HOUR.search(said) else DAY_S
    us, halves = read.us, ""
    if "%I" in said and "%p" not in said:  # strptime takes twelve for midnight
        us, halves = us + (us // 3_600_000_000 % 24 == 0) * 43_200_000_000, said
    return TimeReading(
        (index,), us, read.readable, naive, said, f"{said} was given", absolute=dated, dated=dated,
        clocked=bool(_CLOCKED.search(said)), unread=unread, halves=halves,
        period_us=(DAY_S if dated else period) * 1_000_000,
    )  # fmt: skip


def _on_first_day(text: pa.Array) -> pa.Array:
    """Times of day as those of the day from which microseconds are counted."""
    return pc.binary_join_element_wise("1970-01-01", text, " ")


def _mostly(sample: pa.Array, pattern: str) -> bool:
    found = pc.sum(pc.match_substring_regex(sample, pattern, ignore_case=True)).as_py() or 0
    return bool(found >= 0.9 * len(sample) > 0)


def _plausible(sample: pa.Array, form: str) -> int:
    """Cells that are times in a form, under the order that suits it best."""
    if not matches(sample, form).any():
        return 0
    return max(int(read_form(sample, form, o).ok.sum()) for o in (ORDERS if form in OPEN_FORMS else ("",)))
