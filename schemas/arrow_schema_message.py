"""Reads as much of an Arrow schema message as tells whether a file has the columns that were expected."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from schemas.flatbuffer import I32, U16, U32, field_at, followed

_PREFIX = struct.Struct("<Ii")
_CONTINUES = 0xFFFFFFFF
# Positions of fields, and kinds, as Message.fbs and Schema.fbs number them.
_KIND, _HEADER, _SCHEMA = 1, 2, 1
_FIELDS, _METADATA = 1, 2
_NAME, _TYPE_KIND, _TYPE, _CHILDREN = 0, 2, 3, 5
_FLOAT, _FIXED_SIZE_LIST = 3, 16
_SINGLE = 1


@dataclass(frozen=True)
class PlainSchema:
    """Columns by name and what they hold, in order, and the schema's metadata."""

    fields: list[tuple[str, str]]
    metadata: dict[str, str]


def read_schema(data: bytes, at: int) -> tuple[PlainSchema, int]:
    """The schema message that begins at a position, and where the next message begins.

    Raises:
        ValueError: There is none.
    """
    try:
        continues, size = _PREFIX.unpack_from(data, at)
        meta, end = data[at + _PREFIX.size : at + _PREFIX.size + size], at + _PREFIX.size + size
        (root,) = U32(meta, 0)
        if continues != _CONTINUES or len(meta) != size or meta[field_at(meta, root, _KIND)] != _SCHEMA:
            raise ValueError("no schema")
        schema = followed(meta, field_at(meta, root, _HEADER))
        fields = [(_text(meta, table, _NAME), _held(meta, table)) for table in _tables(meta, schema, _FIELDS)]
        pairs = [(_text(meta, t, 0), _text(meta, t, 1)) for t in _tables(meta, schema, _METADATA)]
    except (struct.error, IndexError) as exc:
        raise ValueError(f"no readable schema: {exc}") from exc
    return PlainSchema(fields, dict(pairs)), end


def _held(meta: bytes, field: int) -> str:
    """``float``, ``list of float``, or empty for anything else."""
    kind = meta[field_at(meta, field, _TYPE_KIND)]
    if kind == _FIXED_SIZE_LIST:
        [child] = _tables(meta, field, _CHILDREN)
        return f"list of {inside}" if (inside := _held(meta, child)) else ""
    if kind != _FLOAT:
        return ""
    precision = field_at(meta, followed(meta, field_at(meta, field, _TYPE)), 0)
    return "float" if precision and U16(meta, precision)[0] == _SINGLE else ""


def _tables(meta: bytes, table: int, number: int) -> list[int]:
    """Where the tables in a vector begin."""
    at = field_at(meta, table, number)
    if not at:
        return []
    vector = followed(meta, at)
    (count,) = U32(meta, vector)
    if count > len(meta):
        raise ValueError(f"{count} tables do not fit")
    return [followed(meta, vector + 4 + 4 * k) for k in range(count)]


def _text(meta: bytes, table: int, number: int) -> str:
    at = field_at(meta, table, number)
    if not at:
        return ""
    start = followed(meta, at)
    (size,) = I32(meta, start)
    return meta[start + 4 : start + 4 + max(size, 0)].decode()
