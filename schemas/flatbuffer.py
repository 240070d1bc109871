"""Finds fields in a flatbuffer: as much as reading the head of an Arrow message takes."""

from __future__ import annotations

import struct

U16, U32, I32, I64 = (struct.Struct(f"<{kind}").unpack_from for kind in "HIiq")


def followed(meta: bytes, at: int) -> int:
    """Where an offset leads, which counts from its own position."""
    offset: int = U32(meta, at)[0]
    return at + offset


def field_at(meta: bytes, table: int, number: int) -> int:
    """Position of a field of a table; 0: the table does not hold it.

    A table begins with the distance back to its vtable: sizes of vtable and table, then one offset a field.
    """
    back: int = I32(meta, table)[0]
    vtable = table - back
    slot = 4 + 2 * number
    if slot >= U16(meta, vtable)[0]:
        return 0
    offset: int = U16(meta, vtable + slot)[0]
    return table + offset if offset else 0
