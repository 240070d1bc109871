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
def layout_of(schema: pa.Schema) -> RowLayout:
    """The layout that rows of this schema are packed by."""
    columns = tuple(Column(f.name, Kind(str(f.type)), "", f.nullable) for f in schema)
    return RowLayout(columns, {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()})


def unpacked_batch(raw: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """The rows that were packed.

    Raises:
        ValueError: They are none of this schema, or would take too much.
        pyarrow.ArrowException: They hold what Arrow refuses.
    """
    return arrow_rows(unpack_rows(raw, layout_of(schema)), schema)


def arrow_rows(rows: RowBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Rows as an Arrow batch.

    Raises:
        pyarrow.ArrowException: They hold what Arrow refuses.
    """
    return pa.ipc.read_record_batch(pa.ipc.read_message(rows.serialize()), schema)
