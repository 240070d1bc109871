"""Detects the form of a text file of measurements: encoding, delimiter, decimal mark, time column."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edge_producer.sources.recording import sniff_encoding
from schemas.errors import SourceError

DELIMITERS = (",", ";", "\t", "|")
HEAD_LINES = 2000
HEAD_CHARS = 4 << 20
COMMA_NUMBER = re.compile(r"^[+-]?\d+,\d+([eE][+-]?\d+)?$")
POINT_NUMBER = re.compile(r"^[+-]?\d+\.\d+([eE][+-]?\d+)?$")
NUMBER = re.compile(r"^[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?$")
DATES = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y", "%m/%d/%y")
TIMES = (" %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %I:%M:%S %p", " %I:%M %p", "")
FORMATS = (*(d + t for d in DATES for t in TIMES), "%Y%m%d%H%M%S")
TIME_NAME = re.compile(r"time|date|stamp|epoch|^ts$|^t$|zeit|datum|fecha|heure", re.IGNORECASE)
MOSTLY = 0.95


@dataclass(frozen=True, slots=True)
class FileForm:
    """A file's form, and its first rows.

    Attributes:
        time_column: Its name; empty: none was found.
        zoned: Whether times carry their own zone.
        rows: Cells of the first rows, none shorter than the header.
    """

    encoding: str
    delimiter: str
    decimal: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    time_column: str
    time_format: str
    zoned: bool


@dataclass(frozen=True, slots=True)
class _Time:
    column: int
    format: str
    order: float
    span_s: float = 0.0
    zoned: bool = False


def detect_form(path: Path) -> FileForm:
    """The form of a CSV file.

    Raises:
        SourceError: The file is missing, empty or has no header line.
    """
    try:
        encoding = sniff_encoding(path)
        with path.open(encoding=encoding, newline="") as file:
            lines = [line[:HEAD_CHARS] for line in itertools.islice(file, HEAD_LINES)]
    except (OSError, UnicodeDecodeError) as exc:
        raise SourceError(f"{path}: cannot be read: {exc}") from exc
    if not any(line.strip() for line in lines):
        raise SourceError(f"{path}: is empty")
    delimiter = find_delimiter(lines)
    header, rows = _table(lines, delimiter)
    if not rows:
        raise SourceError(f"{path}: has a header but no rows")
    if not any(name.strip() for name in header) or all(_is_value(c) for c in header if c.strip()):
        raise SourceError(f"{path}: the first line holds values, not names: put a header line above it")
    decimal = find_decimal(rows)
    time = find_time(header, rows, decimal)
    return FileForm(
        encoding=encoding,
        delimiter=delimiter,
        decimal=decimal,
        header=header,
        rows=rows,
        time_column="" if time is None else header[time.column],
        time_format="iso" if time is None else time.format,
        zoned=time is not None and time.zoned,
    )


def find_delimiter(lines: Sequence[str]) -> str:
    """The delimiter that gives most lines as many cells as the header; among equals, the one with most cells.

    The header decides, because only rows contain decimal commas.
    """

    def quality(delimiter: str) -> tuple[float, int]:
        counts = [len(row) for row in _cells(lines, delimiter)]
        same = sum(c == counts[0] for c in counts) / len(counts)
        return (round(same, 2) if counts[0] > 1 else 0.0), counts[0]

    return max(DELIMITERS, key=quality)


def find_decimal(rows: Sequence[Sequence[str]]) -> str:
    """The decimal mark that more cells contain."""
    cells = [cell.strip() for row in rows for cell in row]
    commas = sum(bool(COMMA_NUMBER.match(c)) for c in cells)
    points = sum(bool(POINT_NUMBER.match(c)) for c in cells)
    return "," if commas > points else "."


def find_time(header: Sequence[str], rows: Sequence[Sequence[str]], decimal: str) -> _Time | None:
    """The time column: one of times that do not fall; among several, one whose name suggests it."""
    found = []
    for column in range(len(header)):
        cells = [row[column].strip() for row in rows]
        time = _time_of(column, [c for c in cells if c], header[column], decimal)
        if time is not None and time.order >= 0.5:
            found.append(time)
    return max(
        found, key=lambda t: (bool(TIME_NAME.search(header[t.column])), t.order, -t.column), default=None
    )


def _time_of(column: int, cells: list[str], name: str, decimal: str) -> _Time | None:
    if not cells:
        return None
    numeric = [_number(c, decimal) for c in cells]
    if all(n is not None for n in numeric):
        return _epoch_of(column, [n for n in numeric if n is not None], name)
    best = None
    for time_format in ("iso", *FORMATS):
        times = [t for t in (_parsed(c, time_format) for c in cells) if t is not None]
        if len(times) < MOSTLY * len(cells):
            continue
        seconds = [t.replace(tzinfo=UTC).timestamp() for t in times]
        span_s = max(seconds) - min(seconds)
        read = _Time(column, time_format, _order(seconds), span_s, all(t.tzinfo for t in times))
        # If day and month can be swapped, the reading that makes the recording shorter is the likelier one.
        if best is None or (read.order, -read.span_s) > (best.order, -best.span_s):
            best = read
    return best


def _epoch_of(column: int, values: list[float], name: str) -> _Time | None:
    """Whole columns of numbers between 1980 and 2100 are times, if their name says so or they rise evenly."""
    order = _order(values)
    for time_format, unit in (("epoch_s", 1.0), ("epoch_ms", 1e3)):
        inside = all(3.15e8 <= v / unit <= 4.1e9 for v in values)
        if inside and (TIME_NAME.search(name) or order == 1.0):
            return _Time(column, time_format, order, zoned=True)
    return None


def _order(values: Sequence[float]) -> float:
    """Share of steps that do not fall."""
    if len(values) < 2:
        return 1.0
    return sum(b >= a for a, b in itertools.pairwise(values)) / (len(values) - 1)


def _parsed(cell: str, time_format: str) -> datetime | None:
    try:
        if time_format != "iso":
            return datetime.strptime(cell, time_format)  # noqa: DTZ007  (only order and form matter here)
        # A bare number such as 20130405 is no time on its own.
        return None if cell.isdigit() else datetime.fromisoformat(cell)
    except ValueError:
        return None


def _number(cell: str, decimal: str) -> float | None:
    if not NUMBER.match(cell) or ("." if decimal == "," else ",") in cell:
        return None
    return float(cell.replace(",", "."))


def _is_value(cell: str) -> bool:
    return bool(NUMBER.match(cell.strip())) or _parsed(cell.strip(), "iso") is not None


def _cells(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    return [row for row in csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter) if row]


def _table(lines: Sequence[str], delimiter: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    header, *rows = _cells(lines, delimiter)
    whole = [tuple(row) for row in rows if len(row) == len(header)]
    return tuple(name.lstrip("\ufeff") for name in header), tuple(whole)
