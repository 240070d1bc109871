"""Bytes as one lz4 block, unpacked only to exactly the length that is stated."""

from __future__ import annotations

import cramjam

from schemas.arrow_bounds import check_value
from schemas.errors import DecodeError


def pack(raw: bytes) -> bytes:
    """Bytes as one lz4 block, without its length."""
    return bytes(cramjam.lz4.compress_block(raw, store_size=False))


def unpack(value: bytes, raw_bytes: int) -> bytes:
    """What ``pack`` packed, of this length.

    Not by Arrow's codec: where a value unpacks to less than stated, that one leaves the rest of its buffer as
    it was, so whatever the process last had there would be read as rows.

    Raises:
        DecodeError: It is no such block.
    """
    check_value(len(value), raw_bytes)
    raw = bytearray(raw_bytes)
    unpack_into(value, raw)
    return bytes(raw)


def unpack_into(value: bytes, raw: bytearray | memoryview) -> None:
    """Fill a buffer with what ``pack`` packed; ``check_value`` has allowed as much.

    Raises:
        DecodeError: It is no such block, or unpacks to more or less.
    """
    size = len(raw)
    try:
        written = cramjam.lz4.decompress_block_into(value, raw)
    except cramjam.DecompressionError as exc:
        raise DecodeError(f"value does not unpack: {exc}") from exc
    if written != size:
        raise DecodeError(f"value unpacks to {written} bytes, not {size}")
