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
from typing import TYPE_CHECKING

from schemas.errors import DecodeError
from schemas.flatbuffer import I64, U32, field_at, followed

if TYPE_CHECKING:  # a device does without pyarrow
    import pyarrow as pa

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
    (root,) = U32(meta, 0)
    header = followed(meta, field_at(meta, root, _HEADER))
    compressed = field_at(meta, header, _COMPRESSION) != 0
    at = field_at(meta, header, _LENGTH)
    rows = I64(meta, at)[0] if at else 0
    at = field_at(meta, header, _BUFFERS)
    if not at:
        return rows, compressed, 0, 0, 0
    # A vector: its count, then pairs (offset in the body, length).
    vector = followed(meta, at)
    (count,) = U32(meta, vector)
    numbers = memoryview(meta)[vector + 4 : vector + 4 + 16 * count].cast("q")
    if len(numbers) != 2 * count:
        raise ValueError(f"{count} buffers do not fit")
    return rows, compressed, min(numbers, default=0), max(numbers, default=0), sum(numbers[1::2])
