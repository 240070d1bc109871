"""Query results as text: a table to read, CSV and JSON to pipe on.

Values may come from outside: none of the three forms holds a control character.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa

from schemas.escaping import escaped_block, escaped_json, escaped_line

Format = Literal["table", "csv", "json"]
_WIDEST_CELL = 60


def as_table(result: pa.Table) -> str:
    """Aligned columns; numbers to the right, long cells cut with an ellipsis."""
    if "explain_value" in result.column_names:
        return escaped_block("\n".join(result.column("explain_value").to_pylist()))
    numeric = [_is_number(f.type) for f in result.schema]
    header = [escaped_line(name) for name in result.column_names]
    body = [[_cell(v) for v in row] for row in _rows(result)]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [header, ["-" * w for w in widths], *body]
    return "\n".join(_line(line, widths, numeric) for line in lines)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _line(cells: list[str], widths: list[int], numeric: list[bool]) -> str:
    padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True))
    return "  ".join(padded).rstrip()


def as_csv(result: pa.Table) -> str:
    """RFC 4180 with a header line; null is the empty cell."""
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow([escaped_block(name) for name in result.column_names])
    writer.writerows([[_csv_cell(v) for v in row] for row in _rows(result)])
    return sink.getvalue()


def _csv_cell(value: Any) -> Any:
    plain = _plain(value)
    return plain if isinstance(plain, bool | int | float | None) else escaped_block(str(plain))


def as_json(result: pa.Table) -> str:
    """A JSON array with one object per row; NaN and infinities are null, bytes are hex."""
    names = result.column_names
    objects = [dict(zip(names, map(_plain, row), strict=True)) for row in _rows(result)]
    return escaped_json(json.dumps(objects, indent=1, ensure_ascii=False))


def _rows(result: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in result.columns), strict=True))


def _cell(value: Any) -> str:
    plain = _plain(value)
    shown = "" if plain is None else f"{plain:.6g}" if isinstance(plain, float) else str(plain)
    shown = escaped_line(shown.replace("\n", " "))
    return shown if len(shown) <= _WIDEST_CELL else shown[: _WIDEST_CELL - 1] + "…"


def _plain(value: Any) -> Any:
    """The value as JSON has it; what JSON has not becomes text."""
    for kinds, convert in _CONVERSIONS:
        if isinstance(value, kinds):
            return convert(value)
    return str(value)


_CONVERSIONS: tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...] = (
    ((type(None), bool, int, str), lambda v: v),
    (float, lambda v: v if math.isfinite(v) else None),
    (Decimal, lambda v: int(v) if v == v.to_integral_value() else float(v)),
    ((datetime, date), lambda v: v.isoformat()),
    (list, lambda v: [_plain(item) for item in v]),
    (dict, lambda v: {str(k): _plain(item) for k, item in v.items()}),
    (bytes, lambda v: v.hex()),
)

FORMATS: dict[Format, Callable[[pa.Table], str]] = {"table": as_table, "csv": as_csv, "json": as_json}
