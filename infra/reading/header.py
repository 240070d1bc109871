"""Finds where the rows of a table begin, and what the lines above them say: names, units, remarks. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from infra.reading.number_forms import MISSING
from infra.reading.time_forms import FORMS, PATTERNS, month_of
from infra.reading.unit_conversion import is_unit
from schemas.errors import NoSuchRecordingError, SourceError

TIME_NAME = re.compile(
    r"time|date|stamp|epoch|^ts$|^t$|^dt$|zeit|datum|fecha|hora|heure|^tag$|jour|utc|\bday\b|^when$",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"^[(+\u2212\u2013-]?\s?(\d[\d.,'\u00a0\u202f ]*|[.,]\d+)(e[+-]?\d+)?\)?\s?"
    r"(%|°?[CFK]|[a-zA-Z/³²µ°]{1,6})?$",
    re.IGNORECASE,
)
_TIMES = tuple(re.compile(rf"^{PATTERNS[f]}$", re.IGNORECASE) for f in FORMS)
_BRACKETED = re.compile(r"^\s*[\[(].{0,16}[\])]\s*$")
_MOSTLY = 0.6
_CUT = (
    "whole numbers stand beside digits with leading zeros: are decimal commas in a file whose cells stand "
    "apart by commas? Write it anew with ; between cells, or with quotes"
)
_FEWER = (
    "its rows have {width} cells, the line of names {names}: are decimal commas in a file whose cells stand "
    "apart by commas? Write it anew with ; between cells, or with quotes"
)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands above the rows.

    Attributes:
        names: One a column; generated where the file has none.
        units: One a column; empty where the file states none.
        first_row: Index of the first row of values among the records that are not empty.
        named: Whether the names are the file's own.
        evidence: What was found above the rows.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    first_row: int
    named: bool
    evidence: str


def find_header(records: Sequence[Sequence[str]], columns: int) -> Header:
    """Names, units and the first row of a table, by its first records.

    Args:
        records: Cells; no record is empty.
        columns: Cells that most records have.

    Raises:
        SourceError: There are no rows, or their cells do not fit the names.
    """
    kinds = _column_kinds(records, columns)
    first = next((i for i, row in enumerate(records) if _is_row(row, kinds, columns)), len(records))
    if first == len(records):
        if len(records) < 3:
            raise SourceError("has a header but no rows")
        raise NoSuchRecordingError("is no table of measurements: it has no column of numbers or times")
    above = [[_clean(c) for c in row] for row in records[:first]]
    width = max([columns, *(len(r) for r in records[first : first + 20] if len(r) <= columns)])
    place = _names_at(above, width, kinds)
    if place is None:
        _refuse_fewer_names(above, width)
        _refuse_cut_decimals(records[first:], width)
        names = tuple(f"column_{i + 1}" for i in range(width))
        return Header(
            names, ("",) * width, first, named=False, evidence="no line of names: columns are numbered"
        )
    names, joined = _named(above, place, records[first:], width)
    if (below := _names_below(above, place, names)) is not None:
        names, joined, place = below, "names of two lines were joined", place + 1
    units = _units(above[place + 1 :], width)
    seen = [f"names in line {place + 1} of the text" if place else "names in the first line"]
    seen += [f"{len(above) - 1} more lines above the rows"] if len(above) > 1 else []
    seen += ["units below the names"] if any(units) else []
    seen += [joined] if joined else []
    return Header(names, units, first, named=True, evidence=", ".join(seen))


def is_value(cell: str) -> bool:
    """Whether a cell looks like a number or a time."""
    return bool(_VALUE.match(bare(cell))) or looks_like_time(cell)


def bare(cell: str) -> str:
    """A cell without blanks and single quotes around it."""
    return cell.strip().strip("'").strip()


def looks_like_time(cell: str) -> bool:
    """Whether a cell looks like a written date or time of day."""
    cell = bare(cell)
    if not any(c.isdigit() for c in cell):
        return False
    for pattern in _TIMES:
        found = pattern.match(cell)
        if found is not None and ("mon" not in found.groupdict() or month_of(found["mon"])):
            return True
    return False


def _kind(cell: str) -> str:
    cell = bare(cell)
    if cell.lower() in MISSING:
        return "blank"
    if _VALUE.match(cell):
        return "number"
    return "time" if looks_like_time(cell) else "text"


def _column_kinds(records: Sequence[Sequence[str]], columns: int) -> list[str]:
    """What most cells of each column are, in the later part of the records."""
    later = records[max(len(records) // 3, len(records) > 1) :]
    body = [row for row in later if abs(len(row) - columns) <= 1]
    body = body or list(records)
    kinds = []
    for i in range(columns):
        counts = Counter(_kind(row[i]) for row in body if i < len(row))
        counts.pop("blank", 0)
        kind, n = max(counts.items(), key=lambda item: item[1], default=("blank", 0))
        kinds.append(kind if n >= _MOSTLY * sum(counts.values()) else "text")
    return kinds


def _is_row(row: Sequence[str], kinds: Sequence[str], columns: int) -> bool:
    if not columns - 1 <= len(row) <= columns + 1 and len(row) < max(2, columns // 2):
        return False
    times = [_kind(row[i]) for i, k in enumerate(kinds) if k == "time" and i < len(row)]
    if times and "time" in times:
        return True
    numbers = [_kind(row[i]) for i, k in enumerate(kinds) if k == "number" and i < len(row)]
    given = [k for k in numbers if k != "blank"]
    if times and any(k == "text" for k in times):
        return False
    return bool(given) and sum(k == "number" for k in given) > len(given) / 2 and len(row) <= columns


def _names_at(above: Sequence[Sequence[str]], width: int, kinds: Sequence[str]) -> int | None:
    """Index of the line of names: as wide as the rows, with the most different names; a time's name helps."""
    best, place = (0.0, 0.0), None
    for i, row in enumerate(above):
        given = [c.strip() for c in row if c.strip()]
        if not given or not width - 1 <= len(_stripped(row, width)) <= width:
            continue
        if width > 1 and len(given) < width / 2:
            continue
        suggests = any(TIME_NAME.search(c) for c in given) + 0.0
        units = sum(is_unit(c) or bool(_BRACKETED.match(c)) for c in given) / len(given)
        score = (suggests + len(set(given)) / width - units, -float(i))
        if place is None or score > best:
            best, place = score, i
    return place


def _named(
    above: Sequence[Sequence[str]], place: int, rows: Sequence[Sequence[str]], width: int
) -> tuple[tuple[str, ...], str]:
    """Names of the columns, and what had to be done to get them."""
    row = _stripped(above[place], width)
    if len(row) == width - 1:
        blank = all(len(r) < width or not r[width - 1].strip() for r in rows)
        if blank:
            return (*row, ""), "the rows end in an empty cell"
        firsts = [r[0].strip() for r in rows if r]
        # Cells that stand apart by blanks: a date and a clock below one name are fine.
        seconds = [r[1] for r in rows[:20] if len(r) > 1]
        if TIME_NAME.search(row[0]) and _mostly_times(firsts[:20]) and not _mostly_times(seconds):
            raise SourceError(_FEWER.format(width=width, names=len(row)))
        _refuse_cut_decimals(rows, width)
        if len(set(firsts)) > 0.9 * len(firsts) or not any(_kind(f) == "number" for f in firsts):
            return ("", *row), "each row begins with its own name, which has no heading"
        raise SourceError(f"its rows have {width} cells, the line of names {len(row)}")
    names = [*row, *[""] * (width - len(row))]
    given = [n for n in names if n]
    upper = next((r for r in reversed(above[:place]) if width - 1 <= len(_stripped(r, width)) <= width), None)
    if len(set(given)) == len(given) or upper is None:
        return tuple(names), ""
    group, joined = "", []
    for above_name, name in zip([*upper, *[""] * width], names, strict=False):
        group = above_name or group
        joined.append(f"{group} {name}".strip())
    return tuple(joined), "names of two lines were joined"


def _names_below(above: Sequence[Sequence[str]], place: int, names: Sequence[str]) -> tuple[str, ...] | None:
    """Names with those of the line below, where that names columns which the line of groups leaves blank."""
    if place + 1 >= len(above):
        return None
    lower = [*above[place + 1], *[""] * len(names)][: len(names)]
    given = [c for c in lower if c]
    filled = [i for i, name in enumerate(names) if not name and lower[i]]
    units = sum(is_unit(c) or bool(_BRACKETED.match(c)) for c in given)
    if not filled or units >= len(given) / 2 or any(is_value(c) for c in given):
        return None
    group, joined = "", []
    for name, below in zip(names, lower, strict=True):
        group = name or group
        joined.append(f"{group} {below}".strip() if below else name)
    return tuple(joined)


def _mostly_times(cells: Sequence[str]) -> bool:
    return sum(_kind(c) == "time" for c in cells) > len(cells) / 2


def _refuse_fewer_names(above: Sequence[Sequence[str]], width: int) -> None:
    """Refuse a line of names that has fewer cells than the rows: which name is whose is not known.

    Raises:
        SourceError: There is such a line.
    """
    named = [c for c in above[-1] if c] if above else []
    words = [c for c in named if not is_value(c)]
    if 2 <= len(named) < width and len(words) == len(named) and any(TIME_NAME.search(c) for c in named):
        raise SourceError(_FEWER.format(width=width, names=len(named)))


def _refuse_cut_decimals(rows: Sequence[Sequence[str]], width: int) -> None:
    """Refuse whole numbers beside digits with leading zeros: decimal commas that were taken for cell ends.

    Raises:
        SourceError: There are such columns.
    """
    whole = [r for r in rows if len(r) == width]
    for i in range(1, width):
        left, right = [r[i - 1].strip() for r in whole], [r[i].strip() for r in whole]
        cut = any(re.match(r"^0\d+$", c) for c in right) and all(c.isdigit() for c in right)
        if cut and all(re.match(r"^[+-]?\d+$", c) for c in left):
            raise SourceError(_CUT)


def _units(below: Sequence[Sequence[str]], width: int) -> tuple[str, ...]:
    """Units from the lines between names and rows."""
    for row in below:
        given = [c for c in row if c]
        known = sum(bool(_BRACKETED.match(c)) or is_unit(c) for c in given)
        if given and known >= len(given) / 3:
            cells = [c.strip().strip("[]()").strip() for c in row]
            return tuple([*cells, *[""] * width][:width])
    return ("",) * width


def _stripped(row: Sequence[str], width: int) -> list[str]:
    """The row without empty cells at its end, as far as it is too wide."""
    cells = list(row)
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    return cells


def _clean(cell: str) -> str:
    text = " ".join(bare(cell.strip().lstrip("\ufeff")).split())
    return text.lstrip("#%").strip() if len(text) > 1 else text
