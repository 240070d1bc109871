"""Reads written numbers: which mark is the decimal one, which groups thousands, which sign, which unit.

Pure. A column is judged by all of its cells; what the cells leave open, other evidence decides
(``Surroundings``), and what that leaves open is doubtful and asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.reading.unit_conversion import conversion

MISSING = (
    "", "na", "n/a", "#n/a", "#na", "nan", "-nan", "null", "(null)", "nil", "none", "-", "--",
    "---", "?", ".", "..",
    "...", "missing", "no data", "nodata", "n.a.", "n.d.", "nd", "#null!", "#value!", "#div/0!",
    "#ref!", "#name?",
    "#num!", "1.#qnan", "-1.#ind", "1.#ind", "-1.#qnan", "1.#inf", "-1.#inf", "\\n", "undefined",
    "<na>", "nat",
    "k.a.", "unavailable", "unknown",
)  # fmt: skip
"""Cell texts, lower-case, that say that there is no value."""

_PLAIN = r"^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$"
_GROUPED = {
    "comma": r"^[+-]?\d{1,3}(,\d{3})+$",
    "point": r"^[+-]?\d{1,3}(\.\d{3})+$",
}
_MANY = {"comma": r"^[+-]?\d{1,3}(,\d{2,3})*,\d{3},\d{3}(\.\d+)?$|^[+-]?\d{1,3},\d{2},\d{3}(\.\d+)?$",
         "point": r"^[+-]?\d{1,3}(\.\d{3}){2,}(,\d+)?$"}  # fmt: skip
_BOTH = {
    "comma": r"^[+-]?\d{1,3}(,\d{2,3})*,\d{3}\.\d+$",
    "point": r"^[+-]?\d{1,3}(\.\d{3})+,\d+$",
}
_NOT_GROUPED = {
    "comma": r"^[+-]?(0+,\d+|\d{4,},\d+|\d*,(\d{1,2}|\d{4,})|\d+,\d*e[+-]?\d+|,\d+|\d+,)$",
    "point": r"^[+-]?(0+\.\d+|\d{4,}\.\d+|\d*\.(\d{1,2}|\d{4,})|\d+\.\d*e[+-]?\d+|\.\d+|\d+\.)$",
}
SPACES = "[\u0020\u00a0\u2007\u2009\u202f'\u2019_]"
_UNIT = r"(?P<n>[+-]?[\d.,]*\d[\d.,]*(?:e[+-]?\d+)?)\s*(?P<u>[a-zµμ°%‰ω℃℉Ω][^\d+-]?[^+]{0,10})"
_EXPONENT = r"^[+-]?[\d.,]+[ed][+-]?\d+$"
_PROBE = 2000
_ALL_ALIKE = "all cells have exactly three digits behind the point; no other mark in the file: decimal points"
_MANY_ALIKE = 30
"""Cells with exactly three digits behind a point that chance no longer explains."""
_OFTEN = 0.5


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What speaks for a decimal mark beside the column itself.

    Attributes:
        said: Mark that a person named for the column; empty: none.
        delimiter: Of the file; empty: it is no text.
        others: The mark that other columns show beyond doubt, if they agree.
        missing: Further texts that mean "no value", lower-case.
        unit: Unit in the column's header; empty: none.
    """

    said: str = ""
    delimiter: str = ""
    others: str = ""
    missing: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ReadNumbers:
    """A column read as numbers.

    Attributes:
        values: NaN where there is none.
        blank: Cells that are empty or say that there is no value.
        unread: Cells that hold something else; NaN.
        words: The most frequent of those, with their counts.
        decimal: The decimal mark; empty: no cell shows one.
        grouped: The mark between thousands; empty: none.
        evidence: Why, where more than one reading was possible.
        unit: Unit that the cells carry; empty: none.
        unread_at: Which cells are unread; None: none.
        codes: Numbers that stand for its texts; empty: it holds numbers, or flags.
        converted: Cells in another unit that were converted, by unit.
        doubt: Why the reading is not certain; empty: it is.
        bare: Cells without a unit, where others carry one and the header states none; zeros aside.
    """

    values: NDArray[np.float64]
    blank: int
    unread: int
    words: Mapping[str, int] = field(default_factory=dict)
    decimal: str = ""
    grouped: str = ""
    evidence: str = ""
    unit: str = ""
    converted: Mapping[str, int] = field(default_factory=dict)
    doubt: str = ""
    unread_at: NDArray[np.bool_] | None = None
    codes: Mapping[str, float] = field(default_factory=dict)
    bare: int = 0

    @property
    def given(self) -> int:
        """Cells that hold something."""
        return len(self.values) - self.blank


@dataclass(frozen=True, slots=True)
class NumberForm:
    """Marks of a column, and why."""

    decimal: str
    grouped: str
    evidence: str = ""
    doubt: str = ""


def read_numbers(cells: pa.Array, around: Surroundings) -> ReadNumbers:
    """Numbers of a column of text, or of one that holds numbers already."""
    if not is_text(cells.type):
        values = _without_missing(typed_numbers(cells), around.missing)
        return ReadNumbers(values, int(np.isnan(values).sum()), 0)
    fast = read_plain(cells) if around.said != "," else None
    if fast is not None:
        fast = _without_missing(fast, around.missing)
        form = _plain_form(cells, around)
        if form is not None:
            return ReadNumbers(
                fast, int(np.isnan(fast).sum()), 0, decimal=form.decimal, evidence=form.evidence
            )
    text, blank = tidy(cells, around.missing)
    whole = text
    text, unit, converted, odd = _without_units(text, cells, around.unit)
    bare = _count(whole, r"^[+-]?[\d.,]*[1-9][\d.,]*$") if unit and not around.unit else 0
    form = number_form(text, around)
    values, read = _read_as(text, form)
    if converted:
        values = _converted(values, odd, unit)
    unread = ~read & _valid(text)
    words = _words(text.filter(pa.array(unread)))
    return ReadNumbers(
        values, blank, int(unread.sum()), words, form.decimal, form.grouped, form.evidence, unit, converted,
        form.doubt,
        unread if unread.any() else None, bare=bare,
    )  # fmt: skip


def _without_missing(values: NDArray[np.float64], missing: tuple[str, ...]) -> NDArray[np.float64]:
    """Numbers of cells that are plain numbers, NaN for those that stand for no value."""
    for word in missing:
        with suppress(ValueError):
            values = np.where(values == float(word), np.nan, values)
    return values


def number_form(  # noqa: PLR0911  (one return for each kind of evidence)
    text: pa.Array, around: Surroundings
) -> NumberForm:
    """Decimal mark and thousands mark of a column's cells."""
    comma = _count(text, r",")
    point = _count(text, r"\.")
    if _count(text, SPACES + r"\d{3}(\D|$)"):
        spaced = NumberForm("," if comma else ".", "blank", "blanks or apostrophes between groups of three")
        return spaced if not (comma and point) else NumberForm(".", "blank", "groups of three")
    if not comma and not point:
        return NumberForm("", "")
    for grouped, decimal, word in (("comma", ".", "commas"), ("point", ",", "points")):
        mark = "," if grouped == "comma" else "."
        both, many = _count(text, _BOTH[grouped]), _count(text, _MANY[grouped])
        if both or many:
            seen = f"{both} cells have both marks" if both else f"{many} cells have several groups of three"
            return NumberForm(decimal, mark, f"{word} stand between thousands: {seen}")
    if comma and point:
        # No cell has both marks: each row has its own kind.
        mixed_comma, mixed_point = _count(text, _NOT_GROUPED["comma"]), _count(text, _NOT_GROUPED["point"])
        if mixed_comma and mixed_point:
            return NumberForm("both", "", f"{comma} cells have a comma, {point} a point; neither groups")
        if mixed_point:
            return NumberForm(".", ",", "points are decimal marks, so commas stand between thousands")
        return NumberForm(",", ".", "commas are decimal marks, so points stand between thousands")
    return _one_mark(text, "comma" if comma else "point", around)


def _one_mark(  # noqa: PLR0911  (one return for each kind of evidence)
    text: pa.Array, kind: str, around: Surroundings
) -> NumberForm:
    """The form of a column that shows one mark only."""
    mark, other = (",", ".") if kind == "comma" else (".", ",")
    as_decimal = NumberForm(mark, "")
    as_group = NumberForm(other, mark)
    alike = _count(text, _GROUPED[kind])
    if _count(text, _NOT_GROUPED[kind]) or not alike:
        return NumberForm(mark, "", f"decimal {kind}: its digits come in no groups of three")
    if around.said:
        chosen = as_decimal if around.said == mark else as_group
        return NumberForm(chosen.decimal, chosen.grouped, f"decimal mark {around.said!r} was given")
    bare = _count(text, r"^[+-]?[1-9]\d{0,2}$")
    long = _count(text, r"^[+-]?\d{4,}$")
    seen = f"{alike} cells have exactly three digits behind each {kind}"
    if bare and not long and (kind == "comma" or alike >= _MANY_ALIKE):
        return NumberForm(other, mark, f"{seen}, {bare} smaller ones have none: thousands")
    if around.others:
        chosen = as_decimal if around.others == mark else as_group
        if kind == "point" and around.others == ",":
            return NumberForm(mark, "", f"{seen}", "points may be decimal marks or stand between thousands")
        return NumberForm(chosen.decimal, chosen.grouped, f"{seen}; other columns use {around.others!r}")
    if kind == "point":
        doubt = "points may be decimal marks or stand between thousands" if around.delimiter == ";" else ""
        return NumberForm(".", "", f"{seen}; no other mark in the file: decimal points", doubt)
    if around.delimiter == ";":
        return NumberForm(",", "", f"{seen}; a file with semicolons writes decimal commas")
    if around.delimiter == ",":
        return NumberForm(".", ",", f"{seen}; a file with commas between cells writes thousands so")
    doubt = "commas may be decimal marks or stand between thousands"
    return NumberForm(",", "", seen, doubt)


def tidy(cells: pa.Array, missing: tuple[str, ...] = ()) -> tuple[pa.Array, int]:
    """Trimmed text with plain signs, null where there is no value; and how many those are."""
    text = pc.utf8_trim(cells.cast(pa.string()), " \t\r\n\u00a0\ufeff\u200b\u200e'\"")
    lower = pc.utf8_lower(text)
    none = pc.is_in(lower, value_set=pa.array([*MISSING, *(m.lower() for m in missing)], pa.string()))
    text = pc.if_else(pc.fill_null(none, True), None, lower)
    if _count(text, "[\u2212\u2012\u2013\u2014\ufe63\uff0d]"):
        text = pc.replace_substring_regex(text, "[\u2212\u2012\u2013\u2014\ufe63\uff0d]\\s*", "-")
    return text, text.null_count


def is_text(kind: pa.DataType) -> bool:
    """Whether cells of this type are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def typed_numbers(cells: pa.Array) -> NDArray[np.float64]:
    """Numbers of a column of numbers, flags, decimals or lengths of time (in seconds); NaN where null."""
    kind = cells.type
    if pa.types.is_dictionary(kind):
        return typed_numbers(cells.dictionary_decode())
    if pa.types.is_boolean(kind):
        cells = cells.cast(pa.int8())
    scale = 1.0
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind):
        return np.full(len(cells), np.nan)
    if pa.types.is_duration(kind) or pa.types.is_time(kind):
        scale = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[kind.unit]
        cells = cells.cast(pa.int32()) if pa.types.is_time32(kind) else cells.cast(pa.int64())
    values = cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64) * scale


def _plain_form(text: pa.Array, around: Surroundings) -> NumberForm | None:
    """The form of cells that all read as plain numbers; None: points may stand between thousands."""
    if _count(_copied(text), _NOT_GROUPED["point"]):
        return NumberForm(".", "")
    if not _count(text, r"\."):
        return NumberForm("", "")
    if _count(text, _NOT_GROUPED["point"]):
        return NumberForm(".", "")
    if around.said == ".":
        return NumberForm(".", "")
    if (
        around.others == ","
        or (around.delimiter == ";" and around.others != ".")
        or _count(text, r"^[+-]?[1-9]\d{0,2}$")
    ):
        return None
    return NumberForm(".", "", _ALL_ALIKE)


def _copied(text: pa.Array) -> pa.Array:
    """The first cells, copied: compute functions walk all the text that a slice shares."""
    return pa.concat_arrays([text.slice(0, _PROBE)])


def read_plain(text: pa.Array) -> NDArray[np.float64] | None:
    """Values of text that is plain numbers or empty throughout; None: it is not."""
    probe = _copied(text)
    for cells in (probe, text):
        try:
            values = pc.if_else(pc.equal(cells, ""), None, cells).cast(pa.float64())
        except pa.ArrowInvalid:
            return None
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def _read_as(text: pa.Array, form: NumberForm) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values, and which cells were read."""
    plain = pc.replace_substring_regex(text, r"^\((.*)\)$", r"-\1")
    plain = pc.replace_substring_regex(plain, r"^([\d.,]+)-$", r"-\1")
    plain = pc.replace_substring_regex(plain, r"(\d)d([+-]?\d)", r"\1e\2")
    plain = pc.replace_substring_regex(plain, r"^\+", "")
    if form.grouped == "blank":
        plain = pc.replace_substring_regex(plain, SPACES, "")
    elif form.grouped:
        # A mark that does not stand between groups makes the cell no number: better none than a wrong one.
        mark = re.escape(form.grouped)
        odd = pc.match_substring_regex(plain, rf"{mark}(\d{{0,1}}(\D|$)|\d{{4,}})|^-?{mark}")
        plain = pc.if_else(odd, "x", pc.replace_substring(plain, form.grouped, ""))
    if form.decimal in (",", "both"):
        plain = pc.replace_substring(plain, ",", ".")
    fit = pc.match_substring_regex(plain, rf"{_PLAIN}|^-?inf(inity)?$")
    values = pc.if_else(fit, plain, None).cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return values, pc.fill_null(fit, False).to_numpy(zero_copy_only=False).astype(np.bool_)


def _without_units(
    text: pa.Array, cells: pa.Array, header_unit: str
) -> tuple[pa.Array, str, dict[str, int], NDArray[np.object_]]:
    """Cells without their units; the commonest unit; how many others can be converted to it.

    Args:
        text: Tidy cells.
        cells: The same as the file has them: capitals tell MW from mW.
        header_unit: Of the column.
    """
    nothing = np.empty(0, dtype=object)
    suffixed = pc.and_(
        pc.match_substring_regex(text, rf"^{_UNIT}$"), pc.invert(pc.match_substring_regex(text, _EXPONENT))
    )
    if not (pc.sum(suffixed).as_py() or 0):
        return text, "", {}, nothing
    found = pc.extract_regex(text, rf"^{_UNIT}$")
    units = pc.if_else(suffixed, pc.utf8_trim_whitespace(found.field(1)), None)
    milli = pc.match_substring_regex(cells.cast(pa.string()), r"\d\s*m(Pa|Wh?|[vV]ar|VA|J|Hz|N|Nm|Ohm|Ω)\s*$")
    units = pc.if_else(
        pc.fill_null(pc.and_(suffixed, milli), False), pc.binary_join_element_wise("milli", units, " "), units
    )
    counts = {str(v["values"]): int(v["counts"]) for v in pc.value_counts(units.drop_null()).to_pylist()}
    if not counts or (sum(counts.values()) < _OFTEN * (len(text) - text.null_count) and not header_unit):
        return text, "", {}, nothing
    main = max(counts, key=lambda u: counts[u])
    if header_unit and conversion(main, header_unit) is not None:
        main = header_unit
    fits = {u: conversion(u, main) for u in counts}
    kept = pa.array([u for u, c in fits.items() if c is not None], pa.string())
    usable = pc.fill_null(pc.is_in(units, value_set=kept), False)
    bare = pc.if_else(usable, found.field(0), text)
    others = {u: counts[u] for u, c in fits.items() if c is not None and c != (1.0, 0.0)}
    return bare, main, others, units.to_numpy(zero_copy_only=False) if others else nothing


def _converted(values: NDArray[np.float64], units: NDArray[np.object_], main: str) -> NDArray[np.float64]:
    result = values.copy()
    for unit in {u for u in units if u is not None}:
        found = conversion(unit, main)
        if found is not None:
            result = np.where(units == unit, values * found[0] + found[1], result)
    return result


def _words(cells: pa.Array) -> dict[str, int]:
    counts = pc.value_counts(cells.slice(0, 1_000_000)).to_pylist() if len(cells) else []
    largest = sorted(counts, key=lambda v: -int(v["counts"]))[:5]
    return {str(v["values"])[:40]: int(v["counts"]) for v in largest}


def _count(text: pa.Array, pattern: str) -> int:
    return int(pc.sum(pc.match_substring_regex(text, pattern)).as_py() or 0)


def _valid(text: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(text.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
