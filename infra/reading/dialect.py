"""Finds how a text file is cut into cells. DuckDB proposes, the whole head of the file agrees or not."""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

DELIMITERS = (";", "\t", "|", ",")
BLANKS = " "
"""The delimiter of a file whose cells stand apart by one or more blanks."""
COMMENTS = ("#",)
_SEP = re.compile(r"^sep=(.)$", re.IGNORECASE)
_AGREE = 0.9
_NAME_DIGITS = 0.3
"""Share of digits below which a line holds names; those in names such as `s12` do not count."""
_NAME = re.compile(r"\s*[^\W\d_]")
_NUMBER = re.compile(r"\d+")
_NAME_NUMBERS = 2
"""Numbers that a column's name may hold, as in `PM2.5` or `T_2m_10min`."""
csv.field_size_limit(1 << 28)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How lines are cut.

    Attributes:
        delimiter: One character; ``BLANKS``: any run of blanks.
        columns: Cells that most lines have.
        share: Share of the lines that have so many.
        evidence: Who says so.
    """

    delimiter: str
    columns: int
    share: float
    evidence: str


def find_dialect(head: Sequence[str], said: str = "") -> Dialect:
    """The dialect of a file by its first lines.

    Args:
        head: Lines without their ends.
        said: Delimiter that the profile names; taken if the lines agree with it.
    """
    named = next((m[1] for line in head[:3] if (m := _SEP.match(line.strip()))), "")
    if named:
        return _judged(head, named, "the file's own sep= line")
    if said:
        judged = _judged(head, said, "named by the profile")
        if judged.columns > 1 and judged.share >= _AGREE:
            return judged
    proposals = dict.fromkeys([*DELIMITERS, BLANKS], "most lines agree")
    proposed = _sniffed(head)
    if proposed in DELIMITERS:
        proposals[proposed] = "DuckDB's sniffer, and most lines agree"
    found = [_judged(head, delimiter, why) for delimiter, why in proposals.items()]
    several = [d for d in found if d.columns > 1]
    if not several:
        return Dialect(",", 1, 1.0, "one column")
    best = max(d.share for d in several)
    likely = [d for d in several if d.share >= min(best, _AGREE)]
    whole = [d for d in likely if not _cuts_quoted(head, d)] or likely
    fitting = [d for d in whole if _header_fits(head, d)] or whole
    tight = [d for d in fitting if d.delimiter != BLANKS] or fitting
    return next((d for d in tight if d.delimiter == proposed), None) or max(
        tight, key=lambda d: (round(d.share, 2), d.columns)
    )


def cells(head: Sequence[str], delimiter: str) -> list[list[str]]:
    """The cells of each record that is not empty."""
    if delimiter == BLANKS:
        return [blank_separated(line) for line in head if line.strip()]
    reader = csv.reader(io.StringIO("\n".join(head), newline=""), delimiter=delimiter)
    return [row for row in reader if any(c.strip() for c in row)]


def blank_separated(line: str) -> list[str]:
    """Cells that stand apart by blanks; quoted ones may hold blanks."""
    return [a or b for a, b in re.findall(r'"([^"]*)"|(\S+)', line)]


def _judged(head: Sequence[str], delimiter: str, evidence: str) -> Dialect:
    rows = cells([line for line in head if not line.startswith(COMMENTS)], delimiter)
    body = rows[len(rows) // 3 :] or rows
    counts = Counter(len(row) for row in body)
    columns, n = max(counts.items(), key=lambda item: (item[1], item[0])) if counts else (1, 0)
    return Dialect(delimiter, columns, n / max(len(body), 1), evidence)


def _header_fits(head: Sequence[str], dialect: Dialect) -> bool:
    """Whether one of the first lines has names for the columns: only rows contain decimal commas."""
    rows = cells([line.lstrip("#% ") for line in head[:100]], dialect.delimiter)
    return any(
        max(2, dialect.columns - 1) <= len(row) <= dialect.columns + 1
        and sum(bool(re.search(r"[^\W\d_]", c)) for c in row) >= max(1, len(row) // 2)
        and sum(ch.isdigit() for c in row if not _is_name(c) for ch in c)
        < _NAME_DIGITS * sum(len(c) for c in row)
        for row in rows
    )


def _is_name(cell: str) -> bool:
    """Whether a cell names a column: a time may begin with a weekday or a month, but has more numbers."""
    return bool(_NAME.match(cell)) and len(_NUMBER.findall(cell)) <= _NAME_NUMBERS


def _cuts_quoted(head: Sequence[str], dialect: Dialect) -> bool:
    """Whether most lines have a quote left inside a cell: the delimiter stands within what is quoted."""
    rows = cells(head, dialect.delimiter)
    return 2 * sum(any('"' in c for c in row) for row in rows) > len(rows)


def _sniffed(head: Sequence[str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.csv"
        path.write_text("\n".join(head) + "\n", encoding="utf-8", errors="replace")
        try:
            with duckdb.connect() as connection:
                found = connection.execute(
                    "SELECT delimiter FROM sniff_csv($1, all_varchar = true, null_padding = true,"
                    " strict_mode = false, ignore_errors = true, max_line_size = 64000000)",
                    [str(path)],
                ).fetchone()
        except duckdb.Error:  # no table for it: the lines decide alone
            return ""
    return str(found[0]) if found else ""
