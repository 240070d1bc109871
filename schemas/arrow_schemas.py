"""Arrow schemas of row layouts. Only what reads or stores rows as Arrow needs this, and pyarrow with it."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from schemas.columns import Column, Kind, RowLayout

TIME = pa.timestamp("us", tz="UTC")
_TYPES = {
    Kind.TEXT: pa.string(),
    Kind.BINARY: pa.binary(),
    Kind.BOOL: pa.bool_(),
    Kind.INT8: pa.int8(),
    Kind.INT32: pa.int32(),
    Kind.INT64: pa.int64(),
    Kind.FLOAT32: pa.float32(),
    Kind.FLOAT64: pa.float64(),
    Kind.TIME: TIME,
    Kind.INT64_LIST: pa.list_(pa.int64()),
    Kind.FLOAT64_LIST: pa.list_(pa.float64()),
}


def arrow_fields(columns: Iterable[Column]) -> tuple[pa.Field, ...]:
    """Columns as fields of an Arrow schema, their documentation included."""
    return tuple(
        pa.field(c.name, _TYPES[c.kind], nullable=c.nullable, metadata={"doc": c.doc}) for c in columns
    )


def arrow_schema(layout: RowLayout) -> pa.Schema:
    """A layout as an Arrow schema."""
    return pa.schema(arrow_fields(layout.columns), metadata=dict(layout.metadata))
