"""Bounds on what the Arrow message inside a sealed message may unpack to, checked before it is read.

Arrow can compress each buffer of a record batch by itself: 800 bytes then unpack to gigabytes, although the
message around them is small. A sealed message is compressed as a whole, once, and its length is signed. So
nothing inside may unpack any further: the buffers of a batch are parts of its body, together no longer than
it. Then all columns together are no larger than ``raw_bytes``, however many there are.

pyarrow gives the metadata of a message (a flatbuffer of ``Message`` in Arrow's Message.fbs) but not what it
says of compression and buffers, so those fields are read here. Arrow's own verifier, which runs on
the same bytes, refuses any flatbuffer in which an offset leads elsewhere than it does here.
"""

from __future__ import annotations

import struct

import pyarrow as pa

from schemas.errors import DecodeError

MAX_RAW_BYTES = 16 * 1024 * 1024
"""Bound on what one message may decompress to."""
MAX_ROWS = 65_536
"""Bound on the rows of one message."""
MAX_RATIO = 255
"""What a byte of an lz4 block can decompress to at most."""

_RECORD_BATCH = "record batch"
# Positions of the fields in the two tables, as Message.fbs numbers them.
_HEADER = 2
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3

_U16, _U32, _I32, _I64 = (struct.Struct(f"<{kind}").unpack_from for kind in "HIiq")


def check_value(value_bytes: int, raw_bytes: int) -> None:
    """Return if a value of this size may be decompressed to ``raw_bytes``.

    Raises:
        DecodeError: More than a message may hold, or than the value can hold.
    """
    if not 0 < raw_bytes <= MAX_RAW_BYTES:
        raise DecodeError(f"raw_bytes {raw_bytes} is outside 1..{MAX_RAW_BYTES}")
    if raw_bytes > MAX_RATIO * value_bytes:
        raise DecodeError(f"{value_bytes} bytes cannot decompress to {raw_bytes}")


def check_unpacked(message: pa.Message) -> None:
    """Return if the message is a record batch whose buffers are its body and no more.

    Raises:
        DecodeError: Another kind of message, compressed buffers, too many rows, or buffers that overlap or
            reach beyond the body.
    """
    if message.type != _RECORD_BATCH:
        raise DecodeError(f"the value is a message of kind '{message.type}', not a record batch")
    body = 0 if message.body is None else message.body.size
    try:
        rows, compressed, low, high, total = _batch_header(message.metadata.to_pybytes())
    except (struct.error, ValueError, TypeError) as exc:
        raise DecodeError(f"the record batch has no readable header: {exc}") from exc
    if compressed:
        raise DecodeError("the buffers of the record batch are compressed by themselves")
    if not 0 <= rows <= MAX_ROWS:
        raise DecodeError(f"the record batch has {rows} rows; at most {MAX_ROWS}")
    if low < 0 or high > body or total > body:
        raise DecodeError(f"the buffers of the record batch exceed its body of {body} bytes")


def _batch_header(meta: bytes) -> tuple[int, bool, int, int, int]:
    """Rows, whether buffers are compressed, and smallest, largest number and summed length of its buffers."""
    (root,) = _U32(meta, 0)
    header = _followed(meta, _field(meta, root, _HEADER))
    compressed = _field(meta, header, _COMPRESSION) != 0
    at = _field(meta, header, _LENGTH)
    rows = _I64(meta, at)[0] if at else 0
    at = _field(meta, header, _BUFFERS)
    if not at:
        return rows, compressed, 0, 0, 0
    # A vector: its count, then pairs (offset in the body, length).
    vector = _followed(meta, at)
    (count,) = _U32(meta, vector)
    numbers = memoryview(meta)[vector + 4 : vector + 4 + 16 * count].cast("q")
    if len(numbers) != 2 * count:
        raise ValueError(f"{count} buffers do not fit")
    return rows, compressed, min(numbers, default=0), max(numbers, default=0), sum(numbers[1::2])


def _followed(meta: bytes, at: int) -> int:
    """Where an offset leads, which counts from its own position."""
    offset: int = _U32(meta, at)[0]
    return at + offset


def _field(meta: bytes, table: int, number: int) -> int:
    """Position of a field of a table; 0: the table does not hold it.

    A table begins with the distance back to its vtable: sizes of vtable and table, then one offset a field.
    """
    back: int = _I32(meta, table)[0]
    vtable = table - back
    slot = 4 + 2 * number
    if slot >= _U16(meta, vtable)[0]:
        return 0
    offset: int = _U16(meta, vtable + slot)[0]
    return table + offset if offset else 0
