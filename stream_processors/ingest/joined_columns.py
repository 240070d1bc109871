"""One column of many Arrow record batches, joined from the pieces of their bytes. Pure.

Nothing in the pieces is trusted: offsets of texts and lists and counts of nulls are compared with what the
metadata of each batch states, as Arrow does for one batch. What is left to Arrow is validity of the joined
column, such as that texts are UTF-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

_NOTHING = slice(0, 0)


class Unjoinable(Exception):  # noqa: N818  (no error: it says that something is to be done one by one)
    """These columns cannot be joined, or must be looked at one by one."""


class Cuts(NamedTuple):
    """Turns places in memory into places in a message's bytes.

    Attributes:
        address: Where the message begins.
        size: Its bytes.
    """

    address: int
    size: int

    def of(self, buffer: pa.Buffer | None, n_bytes: int) -> slice:
        """The first bytes of a buffer.

        Raises:
            Unjoinable: It is not a part of the message, or has fewer bytes.
        """
        if n_bytes == 0:
            return _NOTHING
        if buffer is None or buffer.size < n_bytes:
            raise Unjoinable("a buffer is shorter than its column")
        start = buffer.address - self.address
        if start < 0 or start + n_bytes > self.size:
            raise Unjoinable("a buffer is no part of the message")
        return slice(start, start + n_bytes)


@dataclass(frozen=True)
class RowCounts:
    """Rows of each batch, all at least one."""

    each: np.ndarray

    @cached_property
    def total(self) -> int:
        """Rows of all."""
        return int(self.each.sum())

    @cached_property
    def firsts(self) -> np.ndarray:
        """Number of each batch's first row."""
        firsts: np.ndarray = np.cumsum(self.each) - self.each
        return firsts

    @cached_property
    def bytes_of_bits(self) -> np.ndarray:
        """Bytes that a bit for each row of a batch takes."""
        sizes: np.ndarray = (self.each + 7) // 8
        return sizes

    @cached_property
    def bit_places(self) -> np.ndarray:
        """Place of each row's bit where the bits of each batch begin at a byte of their own."""
        begins = (np.cumsum(self.bytes_of_bits) - self.bytes_of_bits) * 8
        places: np.ndarray = np.repeat(begins - self.firsts, self.each) + np.arange(self.total)
        return places


class Pieces(NamedTuple):
    """One column's pieces of all batches: for each kind of piece, those of the batches in order.

    Attributes:
        nulls: Nulls that each batch states.
    """

    pieces: Sequence[Sequence[bytes]]
    counts: RowCounts
    nulls: Sequence[int]

    @staticmethod
    def counts_of(rows: Sequence[int]) -> RowCounts:
        """Rows of each batch."""
        return RowCounts(np.array(rows, dtype="int64"))

    def bits(self, number: int, missing: bytes = b"") -> np.ndarray:
        """One value, 0 or 1, a row; a batch without the piece has ``missing`` in each byte."""
        sizes = self.counts.bytes_of_bits.tolist()
        packed = b"".join([p or missing * size for p, size in zip(self.pieces[number], sizes, strict=True)])
        unpacked = np.unpackbits(np.frombuffer(packed, "uint8"), bitorder="little")
        bits: np.ndarray = unpacked[self.counts.bit_places]
        return bits

    def validity(self) -> pa.Buffer | None:
        """Arrow's bitmap of rows that are not null; None: all are.

        Raises:
            Unjoinable: A batch has more or fewer nulls than it states.
        """
        if not any(self.pieces[0]):
            return None
        valid = self.bits(0, b"\xff")
        missing = np.add.reduceat(1 - valid.astype("int64"), self.counts.firsts)
        if not np.array_equal(missing, np.array(self.nulls)):
            raise Unjoinable("another number of nulls than stated")
        return pa.py_buffer(np.packbits(valid, bitorder="little"))

    def offsets(self, most: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Joined offsets, and where the last value of each batch ends in its own bytes.

        Args:
            most: Where it may end.

        Raises:
            Unjoinable: They do not begin at 0, fall, or end too late.
        """
        counts = self.counts.each
        given = np.frombuffer(b"".join(self.pieces[1]), "int32").astype("int64")
        heads = np.cumsum(counts + 1) - (counts + 1)
        ends = given[heads + counts]
        lengths = np.delete(np.diff(given), heads[1:] - 1)
        if given[heads].any() or (lengths < 0).any() or (ends > np.array(most)).any():
            raise Unjoinable("offsets lead elsewhere")
        joined = np.zeros(self.counts.total + 1, dtype="int64")
        np.cumsum(lengths, out=joined[1:])
        if joined[-1] > np.iinfo("int32").max:
            raise Unjoinable("too much for one column")
        return joined.astype("int32"), ends


class JoinedColumn(Protocol):
    """Knows how a column of one type lies in a batch."""

    n_pieces: int

    def cuts(self, array: pa.Array, cuts: Cuts) -> list[slice]:
        """Where its pieces lie; the first is the bitmap of rows that are not null, if there is one.

        Raises:
            Unjoinable: They are not where they can be cut out.
        """
        ...

    def joined(self, pieces: Pieces) -> pa.Array:
        """The column of all batches.

        Raises:
            Unjoinable: A piece is not what the metadata says.
        """
        ...


def joined_column(kind: pa.DataType) -> JoinedColumn:
    """How a column of this type is joined.

    Raises:
        Unjoinable: Such columns are not.
    """
    if pa.types.is_boolean(kind):
        return _Bits()
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _Texts(kind)
    if pa.types.is_list(kind) and _is_fixed(kind.value_type):
        return _Lists(kind)
    if _is_fixed(kind):
        return _Fixed(kind)
    raise Unjoinable(str(kind))


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind))


def _bitmap(array: pa.Array, cuts: Cuts) -> slice:
    bitmap = array.buffers()[0]
    return _NOTHING if bitmap is None else cuts.of(bitmap, (len(array) + 7) // 8)


class _Fixed:
    """Numbers and instants."""

    n_pieces = 2

    def __init__(self, kind: pa.DataType) -> None:
        self._kind, self._width = kind, kind.bit_width // 8

    def cuts(self, array: pa.Array, cuts: Cuts) -> list[slice]:
        return [_bitmap(array, cuts), cuts.of(array.buffers()[1], len(array) * self._width)]

    def joined(self, pieces: Pieces) -> pa.Array:
        content = pa.py_buffer(b"".join(pieces.pieces[1]))
        return pa.Array.from_buffers(self._kind, pieces.counts.total, [pieces.validity(), content])


class _Bits:
    """Truth values."""

    n_pieces = 2

    def cuts(self, array: pa.Array, cuts: Cuts) -> list[slice]:
        return [_bitmap(array, cuts), cuts.of(array.buffers()[1], (len(array) + 7) // 8)]

    def joined(self, pieces: Pieces) -> pa.Array:
        content = pa.py_buffer(np.packbits(pieces.bits(1), bitorder="little"))
        return pa.Array.from_buffers(pa.bool_(), pieces.counts.total, [pieces.validity(), content])


class _Texts:
    """Texts and bytes: offsets, and what they divide."""

    n_pieces = 3

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind

    def cuts(self, array: pa.Array, cuts: Cuts) -> list[slice]:
        _, offsets, content = array.buffers()
        whole = _NOTHING if content is None else cuts.of(content, content.size)
        return [_bitmap(array, cuts), cuts.of(offsets, 4 * (len(array) + 1)), whole]

    def joined(self, pieces: Pieces) -> pa.Array:
        given = pieces.pieces[2]
        offsets, ends = pieces.offsets([len(p) for p in given])
        content = b"".join([p[:end] for p, end in zip(given, ends.tolist(), strict=True)])
        buffers = [pieces.validity(), pa.py_buffer(offsets), pa.py_buffer(content)]
        return pa.Array.from_buffers(self._kind, pieces.counts.total, buffers)


class _Lists:
    """Lists of numbers, none of which is null."""

    n_pieces = 3

    def __init__(self, kind: pa.ListType) -> None:
        self._kind, self._width = kind, kind.value_type.bit_width // 8

    def cuts(self, array: pa.Array, cuts: Cuts) -> list[slice]:
        items = array.values
        if items.buffers()[0] is not None:
            raise Unjoinable("null in a list")
        offsets, content = array.buffers()[1], items.buffers()[1]
        return [
            _bitmap(array, cuts),
            cuts.of(offsets, 4 * (len(array) + 1)),
            cuts.of(content, len(items) * self._width),
        ]

    def joined(self, pieces: Pieces) -> pa.Array:
        given = pieces.pieces[2]
        offsets, ends = pieces.offsets([len(p) // self._width for p in given])
        content = b"".join([p[: end * self._width] for p, end in zip(given, ends.tolist(), strict=True)])
        n_items = int(offsets[-1])
        items = pa.Array.from_buffers(self._kind.value_type, n_items, [None, pa.py_buffer(content)])
        buffers = [pieces.validity(), pa.py_buffer(offsets)]
        return pa.Array.from_buffers(self._kind, pieces.counts.total, buffers, children=[items])
