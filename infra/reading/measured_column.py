"""Reads the columns of numbers of a file: values, units, sentinels, and what each cell became."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.reading.decision_record import LOST_SHARE
from infra.reading.file_set import FileSet
from infra.reading.number_forms import (
    SPACES,
    ReadNumbers,
    Surroundings,
    is_text,
    read_numbers,
    read_plain,
    tidy,
)
from infra.reading.sentinel_values import SentinelValue, find_sentinels, shared_sentinels, unusual_values
from infra.reading.time_forms import Bools
from infra.reading.unit_conversion import conversion, is_unit
from schemas.errors import SourceError

TRUE = ("true", "yes", "on", "t", "y", "1", "1.0")
FALSE = ("false", "no", "off", "f", "n", "0", "0.0")
HEADER_UNIT = re.compile(r"\s*[\[(]([^\])]{1,16})[\])]\s*$")
MOST_CODES = 64
_USUAL = 0.5
_LARGEST_WHOLE = 2.0**53
_LARGEST_COUNT = 2.0**64
_PROBE = 2000


@dataclass(frozen=True, slots=True)
class ColumnWishes:
    """What is decided already about columns of numbers.

    Attributes:
        decimal: Decimal mark by column; under the empty name for all.
        missing: Texts that mean "no value", beside the usual ones.
        sentinels: Values that mean "no value", by column; of other columns they are found.
        only: Columns that are wanted; None: all that hold numbers.
        keep: Columns that are taken though they hold flags, states or text.
        units: Unit that is wanted, by column.
        codes: Numbers that stand for texts, by column.
    """

    decimal: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    sentinels: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    only: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredColumn:
    """A column of numbers.

    Attributes:
        values: NaN where there is none.
        unit: As the header, a line of units or the cells state it; empty: not stated.
        decimal: Its decimal mark; empty: it shows none.
        cells: Cells by fate.
        words: Cells that are no numbers, with their counts.
        evidence: How its numbers were read, where more than one way was possible.
        doubt: Why that is not certain.
        options: What decides it; empty: its decimal mark.
        excerpt: Cells that show it.
        note: What a reader should know.
        unreadable: Which cells are no numbers; None: none.
        sentinels: Values that mean "no value".
        codes: Numbers that stand for its texts; empty: it holds numbers.
        kept: Whether a person wants it as a channel.
    """

    name: str
    values: NDArray[np.float64]
    unit: str
    decimal: str
    cells: Mapping[str, int]
    words: Mapping[str, int] = field(default_factory=dict)
    evidence: str = ""
    doubt: str = ""
    excerpt: tuple[str, ...] = ()
    note: str = ""
    unreadable: Bools | None = None
    sentinels: tuple[float, ...] = ()
    codes: Mapping[str, float] = field(default_factory=dict)
    kept: bool = False
    options: tuple[str, ...] = ()


def measure_columns(
    files: FileSet, wishes: ColumnWishes, used: set[int]
) -> tuple[list[MeasuredColumn], dict[str, str]]:
    """All columns of numbers; and those left out, each with the reason.

    Args:
        files: The cells.
        wishes: What is decided already.
        used: Columns that hold time or device.

    Raises:
        SourceError: A column that is wanted is not there.
    """
    skipped: dict[str, str] = {}
    chosen = _chosen(files, wishes, used, skipped)
    first = {i: _numbers(files, i, wishes, "") for i in chosen}
    marks = {n.decimal for n in first.values() if n.decimal in (".", ",") and n.evidence and not _open(n)}
    marks |= {"."} if any(n.decimal == "." and not n.evidence for n in first.values()) else set()
    others = marks.pop() if len(marks) == 1 else ""
    read = {i: _numbers(files, i, wishes, others) if _open(n) else n for i, n in first.items()}
    if wishes.only is None:
        keep = wishes.keep
        texts = {i for i, n in read.items() if n.unread > _USUAL * n.given and files.names[i] not in keep}
        skipped |= {files.names[i]: "text" for i in texts}
        chosen = [i for i in chosen if i not in texts]
        read = {i: read[i] for i in chosen}
    said = {i: wishes.sentinels.get(files.names[i]) for i in chosen}
    found = {i: find_sentinels(n.values) for i, n in read.items() if said[i] is None}
    known = shared_sentinels(found)
    columns = []
    for i in chosen:
        given = said[i]
        if given is None:
            sentinels = find_sentinels(read[i].values, known) if known else found[i]
        else:
            sentinels = [SentinelValue(v, int((read[i].values == v).sum()), "named") for v in given]
        unusual = () if given is not None else unusual_values(read[i].values, [s.value for s in sentinels])
        columns.append(_column(files, i, read[i], sentinels, wishes, unusual))
    return columns, skipped


def header_unit(name: str) -> str:
    """The unit in brackets at the end of a column's name; empty: there is none."""
    found = HEADER_UNIT.search(name)
    return found[1].strip() if found else ""


def _chosen(files: FileSet, wishes: ColumnWishes, used: set[int], skipped: dict[str, str]) -> list[int]:
    """Indices of the columns to read."""
    if wishes.only is not None:
        bare = [n.strip() for n in files.names]
        missing = [w for w in wishes.only if w.strip() not in bare]
        if missing:
            there = ", ".join(repr(n) for n in files.names if n.strip()) or "none"
            raise SourceError(f"{files.shown}: no column {', '.join(map(repr, missing))}; there are: {there}")
        return list(dict.fromkeys(bare.index(w.strip()) for w in wishes.only))
    unknown = [k for k in wishes.keep if k not in files.names]
    if unknown:
        raise SourceError(f"{files.shown}: no column {', '.join(map(repr, unknown))} for --keep")
    chosen = []
    for i, name in enumerate(files.names):
        if i in used:
            continue
        reason = _not_numbers(files, i)
        if reason is None or (name in wishes.keep and reason in ("text", "true or false")):
            chosen.append(i)
        else:
            skipped[name] = reason
    return chosen


def _not_numbers(  # noqa: PLR0911  (one return for each reason)
    files: FileSet, index: int
) -> str | None:
    """Why a column is not read as numbers, judged by all of its cells; None: it is."""
    name = files.names[index]
    if not name.strip():
        return "no name"
    if files.names.index(name) != index:
        return "named twice: the first is taken"
    cells = files.column(index)
    if pa.types.is_boolean(cells.type):
        return "true or false"
    if not is_text(cells.type):
        if cells.null_count == len(cells):
            return "empty"
        return "times" if pa.types.is_temporal(cells.type) and not pa.types.is_duration(cells.type) else None
    plain = read_plain(cells)
    if plain is not None and len(np.unique(plain[:_PROBE][np.isfinite(plain[:_PROBE])])) > 2:
        return None
    text, _ = tidy(cells)
    given = text.drop_null()
    if not len(given):
        return "empty"
    distinct = given.slice(0, 100_000).unique()
    if (
        len(distinct) <= 2
        and len(given.unique()) <= 2
        and {str(d) for d in distinct} <= {*TRUE, *FALSE, "", "1", "0"}
    ):
        return "true or false"
    numeric = pc.match_substring_regex(
        given, rf"^\(?[+-]?(\d|[.,]|{SPACES})*\d(\d|[.,])*([ed][+-]?\d+)?\)?-?\s?[^\d\s]{{0,8}}$"
    )
    return None if (pc.sum(numeric).as_py() or 0) >= _USUAL * len(given) else "text"


def _numbers(files: FileSet, index: int, wishes: ColumnWishes, others: str) -> ReadNumbers:
    name = files.names[index]
    cells = files.column(index)
    codes = wishes.codes.get(name)
    reason = _not_numbers(files, index) if is_text(cells.type) else None
    if codes or reason == "true or false" or (name in wishes.keep and reason == "text"):
        return _coded(cells, codes)
    if not is_text(cells.type):
        return read_numbers(cells, Surroundings())
    said = wishes.decimal.get(name, wishes.decimal.get("", ""))
    unit = header_unit(name) or files.units[index]
    return read_numbers(cells, Surroundings(said, files.delimiter, others, wishes.missing, unit))


def _open(numbers: ReadNumbers) -> bool:
    """Whether other columns may decide how a column is read."""
    return bool(numbers.doubt) or "exactly three digits" in numbers.evidence


def _coded(cells: pa.Array, codes: Mapping[str, float] | None) -> ReadNumbers:
    """Texts as numbers: flags as 0 and 1, others in alphabetical order."""
    text, blank = tidy(cells)
    if not codes:
        distinct = sorted(str(v) for v in text.drop_null().unique().to_pylist())
        flags = dict.fromkeys(TRUE, 1.0) | dict.fromkeys(FALSE, 0.0)
        codes = (
            flags
            if set(distinct) <= flags.keys()
            else {w: float(i) for i, w in enumerate(distinct[:MOST_CODES])}
        )
    lower = {k.lower(): v for k, v in codes.items()}
    coded = text.dictionary_encode()
    table = np.array([lower.get(str(v), np.nan) for v in coded.dictionary.to_pylist()] or [np.nan])
    index = pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False)
    valid = text.is_valid().to_numpy(zero_copy_only=False).astype(np.bool_)
    values = np.where(valid, table[index], np.nan)
    unread = valid & np.isnan(values)
    said = ", ".join(f"{k} = {v:g}" for k, v in list(lower.items())[:8])
    kept = {} if set(lower) <= {*TRUE, *FALSE} else lower
    return ReadNumbers(
        values, blank, int(unread.sum()), evidence=f"texts stand for numbers: {said}" if kept else "",
        unread_at=unread if unread.any() else None, codes=kept,
    )  # fmt: skip


def _column(
    files: FileSet, index: int, numbers: ReadNumbers, sentinels: list[SentinelValue], wishes: ColumnWishes,
    unusual: Sequence[SentinelValue],
) -> MeasuredColumn:  # fmt: skip
    name, values = files.names[index], numbers.values
    held = (
        np.isin(values, [s.value for s in sentinels]) if sentinels else np.zeros(len(values), dtype=np.bool_)
    )
    codes, words = numbers.codes, numbers.words
    unit = header_unit(name) or files.units[index] or numbers.unit
    values, note, doubt = _in_wanted_unit(np.where(held, np.nan, values), unit, wishes.units.get(name, ""))
    evidence = [numbers.evidence] if numbers.evidence else []
    evidence += [f"no values: {s.evidence}" for s in sentinels if s.count]
    if numbers.converted:
        other = ", ".join(f"{n:,} cells in {u}" for u, n in numbers.converted.items())
        evidence.append(f"{other} were converted to {numbers.unit}")
    cells = {
        "read": int(np.isfinite(values).sum() + np.isinf(numbers.values).sum()),
        "blank": numbers.blank,
        "sentinel": int(held.sum()),
        "unreadable": numbers.unread,
        "converted": sum(numbers.converted.values()),
    }
    shown = tuple(str(c) for c in files.text(index).slice(0, 3).to_pylist())
    notes = [note] if note else []
    for odd in unusual:
        cell = str(files.text(index)[int(np.flatnonzero(numbers.values == odd.value)[0])]).strip()
        notes.append(f"{odd.evidence}: if that is no value, --missing {shlex.quote(cell)} says so")
    if _too_large(values):
        notes.append("whole numbers beyond 9,007,199,254,740,992 are rounded")
    note = "; ".join(notes)
    doubt = numbers.doubt or doubt
    options: tuple[str, ...] = ()
    if not doubt and numbers.bare > LOST_SHARE * numbers.given:
        doubt = f"{numbers.bare:,} of {numbers.given:,} cells carry no unit, the others '{numbers.unit}'"
        options = ("a unit in every cell, or in the header", f"--force (all are in '{numbers.unit}')")
    return MeasuredColumn(
        name, values, unit, numbers.decimal, cells, words, "; ".join(evidence), doubt, shown, note,
        numbers.unread_at, tuple(s.value for s in sentinels), codes, name in wishes.keep, options,
    )  # fmt: skip


def _too_large(values: NDArray[np.float64]) -> bool:
    """Whether a column counts further than float64 tells whole numbers apart."""
    given = np.abs(values[np.isfinite(values)])
    return bool(((given >= _LARGEST_WHOLE) & (given < _LARGEST_COUNT)).any())


def _in_wanted_unit(
    values: NDArray[np.float64], unit: str, wanted: str
) -> tuple[NDArray[np.float64], str, str]:
    """Values in the unit that the profile declares; a note, and a doubt."""
    if not unit or not wanted or wanted == "?":
        return values, "", ""
    found = conversion(unit, wanted)
    if found is None:
        known = is_unit(unit) and is_unit(wanted)
        return values, "", f"the file states {unit}, the profile {wanted}" if known else ""
    if found == (1.0, 0.0):
        return values, "", ""
    return (
        values * found[0] + found[1],
        f"converted from {unit}, as the file states, to the profile's {wanted}",
        "",
    )


def without_unit(name: str) -> str:
    """A column's name without the unit in brackets."""
    return HEADER_UNIT.sub("", name)
