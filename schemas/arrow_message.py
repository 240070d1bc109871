"""Writes and reads the Arrow message of one record batch, byte for byte as Arrow itself writes it.

A sealed message holds a record batch without its schema, so that few numbers stand around the columns: rows,
nulls of each column, place of each buffer. Arrow's writer puts them in a flatbuffer (``Message`` in
Message.fbs) that has the same form for any batch; a device has no need of the library for that. A test
compares every byte with what the library writes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from schemas.flatbuffer import I64, U32, field_at, followed

_PREFIX = struct.Struct("<Ii")
_CONTINUES = 0xFFFFFFFF
_ALIGNED = 8
# Offset of the message; its vtable; version 5 and kind 3 (record batch); offset of the batch.
_HEAD = bytes.fromhex("14000000 00000000 0c001600 06000500 08000c00 0c000000 00030400 18000000")
# Vtable of the batch: length, nodes, buffers, no compression.
_BATCH = bytes.fromhex("00000a00 18000c00 04000800 0a000000")
_BATCH_KIND = 3
_KIND, _HEADER, _BODY_LENGTH = 1, 2, 3
_LENGTH, _NODES, _BUFFERS, _COMPRESSION = 0, 1, 2, 3
_END = struct.pack("<II", _CONTINUES, 0)


class Node(NamedTuple):
    """Lengths of a column, or of the values in its lists."""

    length: int
    nulls: int


class BatchParts(NamedTuple):
    """A record batch taken apart, in the order of its columns.

    Attributes:
        nodes: One for a column, and one more for the values of a column of lists.
        buffers: For each node: which values are there (empty: all); then offsets, where there are some; then
            values, unless another node has them.
        is_last: Whether nothing follows the message but the end of a stream.
    """

    rows: int
    nodes: Sequence[Node]
    buffers: Sequence[bytes | memoryview]
    is_last: bool = True


def write_batch(batch: BatchParts) -> bytes:
    """The message: its metadata, then the buffers, each from a multiple of 8 bytes on."""
    places, at, body = [], 0, []
    for buffer in batch.buffers:
        size = len(buffer)
        padding = -size % _ALIGNED
        places += [at, size]
        at += size + padding
        body += [buffer, bytes(padding)]
    count, nodes = len(batch.buffers), len(batch.nodes)
    numbers = [n for node in batch.nodes for n in node]
    # Offsets count from where they stand: the nodes come behind the buffers.
    tail = struct.pack(
        f"<IIq4xI{2 * count}q4xI{2 * nodes}q",
        16 * count + 28, 16, batch.rows, count, *places, nodes, *numbers,
    )  # fmt: skip
    metadata = _HEAD + at.to_bytes(8, "little") + _BATCH + tail
    return b"".join((_PREFIX.pack(_CONTINUES, len(metadata)), metadata, *body))


def read_batch(raw: bytes) -> BatchParts:
    """The parts of a message that a device of ours wrote, of whatever release.

    Raises:
        ValueError: It is no such message.
    """
    try:
        continues, size = _PREFIX.unpack_from(raw)
        meta, body = raw[_PREFIX.size : _PREFIX.size + size], memoryview(raw)[_PREFIX.size + size :]
        if continues != _CONTINUES or len(meta) != size:
            raise ValueError("no Arrow message")
        (root,) = U32(meta, 0)
        header = followed(meta, field_at(meta, root, _HEADER))
        if meta[field_at(meta, root, _KIND)] != _BATCH_KIND or field_at(meta, header, _COMPRESSION):
            raise ValueError("no record batch, or a compressed one")
        (length,) = I64(meta, field_at(meta, root, _BODY_LENGTH))
        rows = I64(meta, field_at(meta, header, _LENGTH))[0]
        places = _pairs(meta, field_at(meta, header, _BUFFERS))
        nodes = [Node(*pair) for pair in _pairs(meta, field_at(meta, header, _NODES))]
    except (struct.error, TypeError, IndexError) as exc:
        raise ValueError(f"the record batch has no readable header: {exc}") from exc
    if any(at < 0 or size < 0 or at + size > len(body) for at, size in places):
        raise ValueError("a buffer reaches beyond the message")
    rest = bytes(body[max(length, 0) :][: len(_END)])
    return BatchParts(rows, nodes, [body[at : at + size] for at, size in places], rest in (b"", _END))


def _pairs(meta: bytes, at: int) -> list[tuple[int, int]]:
    """A vector of pairs of 64-bit numbers."""
    vector = followed(meta, at)
    (count,) = U32(meta, vector)
    numbers = memoryview(meta)[vector + 4 : vector + 4 + 16 * count].cast("q")
    if len(numbers) != 2 * count:
        raise ValueError(f"{count} pairs do not fit")
    return list(zip(numbers[::2], numbers[1::2], strict=True))
