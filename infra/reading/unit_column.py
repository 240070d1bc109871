"""Doubts a file in which a column names the unit of each row, and names several. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from infra.printing import count
from infra.reading.decision_record import Doubt
from infra.reading.number_forms import is_text
from infra.reading.unit_conversion import conversion, is_unit, plain_unit

_NAMED = re.compile(r"(?i)\b(units?|uom|einheit(en)?|unit[eé]s?|unidad(es)?)\b")
_MOST = 20
_PROBE = 20_000


def several_units(columns: Iterable[tuple[str, pa.Array]]) -> Doubt | None:
    """A doubt where one of these columns names the units of the others' numbers, row by row.

    Args:
        columns: Names and cells of columns that are neither time nor device.
    """
    for name, cells in columns:
        if not is_text(cells.type) or len(cells.slice(0, _PROBE).unique()) > _MOST:
            continue
        counts = {
            str(v["values"]).strip(): int(v["counts"]) for v in pc.value_counts(cells.drop_null()).to_pylist()
        }
        counts.pop("", None)
        units = {plain_unit(text) for text in counts}
        if len(units) < 2 or not all(map(is_unit, counts)):
            continue
        pairs = itertools.combinations(sorted(counts), 2)
        if not _NAMED.search(name) and all(conversion(a, b) is None for a, b in pairs):
            continue
        shown = tuple(f"{text} in {count(n, 'row')}" for text, n in list(counts.items())[:5])
        what = f"'{name}' names {len(units)} units: numbers beside it are measured in one or another"
        options = ("a file in one unit", "--force (takes the numbers as they are)")
        return Doubt(what, options, shown)
    return None
