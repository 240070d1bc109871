"""Measures the bytes of a telemetry message, key, headers and signature included, against plain JSON."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from benchmarks import workload
from benchmarks.results import Measured, table
from benchmarks.stage import Stage
from schemas.envelope import decode_rows
from schemas.row_schemas import telemetry_rows

SIZES = (1, 2, 5, 10, 100, 500)
LARGEST_BREAK_EVEN = 20
DEMANDED_FROM = 5


def as_json(batch: pa.RecordBatch) -> bytes:
    """A compact JSON array of objects: times as µs since 1970, float32 in its shortest exact form.

    The smallest JSON with the same content; it has no signature, digest or message number.
    """
    columns = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_timestamp(field.type):
            column = column.cast(pa.int64())  # noqa: PLW2901  (the same column, as a number)
        values = column.to_pylist()
        if field.type == pa.float32():
            values = [None if v is None else float(str(np.float32(v))) for v in values]
        columns[field.name] = values
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return json.dumps(rows, separators=(",", ":")).encode()


def run(_: Stage | None = None) -> list[Measured]:
    """Measure every size; prints one table."""
    sizes = {n: _sizes(n) for n in SIZES}
    rows = [
        [str(n), f"{s:,}", f"{v:,}", f"{s - v:,}", f"{s / n:,.1f}", f"{j / n:,.1f}", f"{s / j:.2f}"]
        for n, (s, v, j) in sizes.items()
    ]
    head = ("rows", "bytes", "value", "key+headers", "B/row", "JSON B/row", "of JSON")
    print(table(head, rows), flush=True)
    even = _break_even()
    print(f"not larger than JSON from {even} rows on", flush=True)
    return [
        Measured(
            f"size/{n}",
            "bytes per row of a message",
            (s / n,),
            f"JSON {j / n:,.1f} (message is {s / j:.2f} of it); break-even at {even} rows",
            "<= JSON" if n >= DEMANDED_FROM else "",
            1,
        )
        for n, (s, _v, j) in sizes.items()
    ]


def _sizes(n: int) -> tuple[int, int, int]:
    """Bytes of a message of n rows, of its value alone, and of the rows as JSON."""
    message = workload.of_size(n, 1).messages[0]
    raw_bytes = int(dict(message.headers)["raw_bytes"])
    batch = decode_rows(message.value, raw_bytes, telemetry_rows(workload.machine()))
    return message.size, len(message.value), len(as_json(batch))


def _break_even() -> int:
    """Rows from which no message is larger than JSON."""
    larger = [n for n in range(1, LARGEST_BREAK_EVEN) if (s := _sizes(n))[0] > s[2]]
    return max(larger, default=0) + 1
