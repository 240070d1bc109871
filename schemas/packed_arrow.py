"""Reads packed rows as an Arrow batch, in the cloud."""

from __future__ import annotations

from functools import lru_cache

import pyarrow as pa

from schemas.columns import Column, Kind, RowLayout
from schemas.packed_rows import PACKING, unpack_rows
from schemas.row_batch import RowBatch


def is_packed_schema(schema: pa.Schema) -> bool:
    """Whether rows of this schema come packed."""
    return PACKING.encode() in (schema.metadata or {})


@lru_cache(maxsize=64)
def _layout_of(schema: pa.Schema) -> RowLayout:
    columns = tuple(Column(f.name, Kind(str(f.type)), "", f.nullable) for f in schema)
    return RowLayout(columns, {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()})


def unpacked_batch(raw: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The rows that were packed.

    Raises:
        ValueError: They are none of this schema, or would take too much.
        pyarrow.ArrowException: They hold what Arrow refuses.
    """
    rows = unpack_rows(raw, _layout_of(schema))
    plain = RowBatch(rows.layout, rows.columns, rows.num_rows).serialize()
    return pa.ipc.read_record_batch(pa.ipc.read_message(plain), schema)
