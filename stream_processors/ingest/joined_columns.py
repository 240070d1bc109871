"""One column of many Arrow record batches, joined from the pieces of their bytes. Pure.

Batches that lie alike (equal metadata, equal size) are the rows of one matrix of bytes, so a piece of all
of them is a column of it: one copy, however many they are. Nothing in the pieces is trusted: offsets of texts
and lists and counts of nulls are compared with what the metadata of each batch states, as Arrow does for one
batch. What is left to Arrow is validity of the joined column, such as that texts are UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_NOTHING = slice(0, 0)
_MOST_BYTES = np.iinfo("int32").max
_Ints = NDArray[np.int64]
_Bytes = NDArray[np.uint8]
_Places = slice | _Ints


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
class Alike:
    """Batches that lie alike, of many that are joined.

    Attributes:
        block: Their bytes, a batch a row.
        rows: Of each batch, at least one.
        numbers: Which of all batches each is, ascending.
        places: Where their rows go among those of all batches.
    """

    block: _Bytes
    rows: int
    numbers: _Ints
    places: _Places


class Piece(NamedTuple):
    """What one column has in batches that lie alike.

    Attributes:
        cuts: Where its pieces lie in each.
        nulls: That each batch states.
    """

    of: Alike
    cuts: Sequence[slice]
    nulls: int

    def bytes_(self, number: int) -> _Bytes:
        """A copy of one piece of each batch, a batch a row."""
        return self.of.block[:, self.cuts[number]].copy()

    def bits(self, number: int) -> _Bytes:
        """One value, 0 or 1, a row; a batch a row of the matrix."""
        unpacked: _Bytes = np.unpackbits(self.bytes_(number), axis=1, bitorder="little")
        return unpacked[:, : self.of.rows]


class Joining:
    """All batches that are joined, and which of them turn out to be wrong.

    Attributes:
        counts: Rows of each.
        total: Rows of all.
        wrong: Batches that are not what their metadata says; their part of a column is not to be used.
    """

    def __init__(self, counts: _Ints) -> None:
        self.counts, self.total = counts, int(counts.sum())
        self.wrong = np.zeros(len(counts), dtype=bool)

    def refuse(self, of: Alike, wrong: NDArray[np.bool_]) -> None:
        """Note which batches are wrong."""
        self.wrong[of.numbers[wrong]] = True


def placed(blocks: Sequence[tuple[_Bytes, int, _Ints]]) -> tuple[list[Alike], _Ints]:
    """Batches in the order of their numbers.

    Args:
        blocks: Bytes, rows of each, and numbers of batches that lie alike; numbers are dense over all.

    Returns:
        The same with the places of their rows, and rows of each batch.
    """
    counts = np.empty(sum(len(numbers) for _, _, numbers in blocks), dtype="int64")
    for _, rows, numbers in blocks:
        counts[numbers] = rows
    firsts = np.cumsum(counts) - counts
    found = []
    for block, rows, numbers in blocks:
        places: _Places = slice(None)
        if len(blocks) > 1:
            places = (firsts[numbers][:, None] + np.arange(rows)).ravel()
        found.append(Alike(block, rows, numbers, places))
    return found, counts


class JoinedColumn(Protocol):
    """Knows how a column of one type lies in a batch."""

    n_pieces: int

    def cuts(self, array: pa.Array, cuts: Cuts) -> list[slice]:
        """Where its pieces lie; the first is the bitmap of rows that are not null, if there is one.

        Raises:
            Unjoinable: They are not where they can be cut out.
        """
        ...

    def joined(self, pieces: Sequence[Piece], joining: Joining) -> pa.Array:
        """The column of all batches; those that are not what their metadata says are noted as wrong.

        Raises:
            Unjoinable: It is too much for one column.
        """
        ...


def joined_column(kind: pa.DataType) -> JoinedColumn:
    """How a column of this type is joined.

    Raises:
        Unjoinable: Such columns are not.
    """
    if pa.types.is_boolean(kind):
        return _Bits()
    if pa.types.is_string(kind):
        return _Texts(kind)
    if pa.types.is_binary(kind):
        return _Binaries(kind)
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


def _validity(pieces: Sequence[Piece], joining: Joining) -> pa.Buffer | None:
    """Arrow's bitmap of rows that are not null; None: all are. A batch has as many nulls as it states."""
    if all(piece.cuts[0] == _NOTHING for piece in pieces):
        return None
    valid = np.ones(joining.total, dtype="uint8")
    for piece in pieces:
        if piece.cuts[0] == _NOTHING:
            wrong = np.full(len(piece.of.numbers), piece.nulls != 0)
        else:
            bits = piece.bits(0)
            wrong = piece.of.rows - bits.sum(axis=1, dtype="int64") != piece.nulls
            valid[piece.of.places] = bits.reshape(-1)
        joining.refuse(piece.of, wrong)
    return pa.py_buffer(np.packbits(valid, bitorder="little"))


class _Fixed:
    """Numbers and instants."""

    n_pieces = 2

    def __init__(self, kind: pa.DataType) -> None:
        self._kind, self._width = kind, kind.bit_width // 8

    def cuts(self, array: pa.Array, cuts: Cuts) -> list[slice]:
        return [_bitmap(array, cuts), cuts.of(array.buffers()[1], len(array) * self._width)]

    def joined(self, pieces: Sequence[Piece], joining: Joining) -> pa.Array:
        unit = f"u{self._width}"
        if len(pieces) == 1:
            values = pieces[0].bytes_(1).reshape(-1)
        else:
            values = np.empty(joining.total, dtype=unit)
            for piece in pieces:
                values[piece.of.places] = piece.bytes_(1).reshape(-1).view(unit)
        buffers = [_validity(pieces, joining), pa.py_buffer(values)]
        return pa.Array.from_buffers(self._kind, joining.total, buffers)


class _Bits:
    """Truth values."""

    n_pieces = 2

    def cuts(self, array: pa.Array, cuts: Cuts) -> list[slice]:
        return [_bitmap(array, cuts), cuts.of(array.buffers()[1], (len(array) + 7) // 8)]

    def joined(self, pieces: Sequence[Piece], joining: Joining) -> pa.Array:
        bits = np.empty(joining.total, dtype="uint8")
        for piece in pieces:
            bits[piece.of.places] = piece.bits(1).reshape(-1)
        content = pa.py_buffer(np.packbits(bits, bitorder="little"))
        return pa.Array.from_buffers(pa.bool_(), joining.total, [_validity(pieces, joining), content])


class _Divided:
    """Values of several lengths: offsets, and what they divide."""

    n_pieces = 3
    _width = 1

    def _parts(self, pieces: Sequence[Piece], joining: Joining) -> tuple[NDArray[np.int32], pa.Buffer]:
        """Joined offsets, and what they divide.

        Raises:
            Unjoinable: It is too much for one column.
        """
        lengths = np.empty(joining.total, dtype="int64")
        parts: list[memoryview | bytes] = [b""] * len(joining.counts)
        whole = None
        for piece in pieces:
            ends = self._ends(piece, joining, lengths)
            same = len(set(ends)) == 1
            content = piece.of.block[:, piece.cuts[2]]
            if same and len(pieces) == 1:
                whole = pa.py_buffer(content[:, : ends[0]].copy().reshape(-1))
            elif same:
                flat, size = content[:, : ends[0]].tobytes(), ends[0]
                for row, number in enumerate(piece.of.numbers.tolist()):
                    parts[number] = flat[row * size : row * size + size]
            else:
                for row, number in enumerate(piece.of.numbers.tolist()):
                    parts[number] = content[row, : ends[row]].data
        offsets = np.zeros(joining.total + 1, dtype="int64")
        np.cumsum(lengths, out=offsets[1:])
        if offsets[-1] > _MOST_BYTES:
            raise Unjoinable("too much for one column")
        return offsets.astype("int32"), pa.py_buffer(b"".join(parts)) if whole is None else whole

    def _ends(self, piece: Piece, joining: Joining, lengths: _Ints) -> list[int]:
        """Where the values of each batch end in its content, in bytes; those of a wrong one are none."""
        offsets = piece.bytes_(1).view("<i4").astype("int64")
        content = piece.cuts[2]
        most = (content.stop - content.start) // self._width
        steps = np.diff(offsets, axis=1)
        wrong = (offsets[:, 0] != 0) | (steps < 0).any(axis=1) | (offsets[:, -1] > most)
        ends = offsets[:, -1]
        if wrong.any():
            joining.refuse(piece.of, wrong)
            steps[wrong] = 0
            ends = np.where(wrong, 0, ends)
        lengths[piece.of.places] = steps.reshape(-1)
        found: list[int] = (ends * self._width).tolist()
        return found


class _Binaries(_Divided):
    """Bytes, or texts."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind

    def cuts(self, array: pa.Array, cuts: Cuts) -> list[slice]:
        _, offsets, content = array.buffers()
        whole = _NOTHING if content is None else cuts.of(content, content.size)
        return [_bitmap(array, cuts), cuts.of(offsets, 4 * (len(array) + 1)), whole]

    def joined(self, pieces: Sequence[Piece], joining: Joining) -> pa.Array:
        offsets, content = self._parts(pieces, joining)
        buffers = [_validity(pieces, joining), pa.py_buffer(offsets), content]
        return pa.Array.from_buffers(self._kind, joining.total, buffers)


class _Texts(_Binaries):
    """Texts, as a dictionary. Of a batch whose rows all have the same text, only that one is read."""

    def joined(self, pieces: Sequence[Piece], joining: Joining) -> pa.Array:
        if any(piece.cuts[0] != _NOTHING or piece.nulls for piece in pieces):
            return super().joined(pieces, joining).dictionary_encode()
        once = np.zeros(len(joining.counts), dtype=bool)
        for piece in pieces:
            once[piece.of.numbers] = _is_one_text(piece)
        if not once.any():
            return super().joined(pieces, joining).dictionary_encode()
        fewer = Joining(np.where(once, 1, joining.counts))
        found = super().joined([*_shortened(pieces, once, fewer)], fewer).dictionary_encode()
        joining.wrong |= fewer.wrong
        each = np.repeat(np.where(once, joining.counts, 1), fewer.counts)
        codes = pa.array(np.repeat(found.indices.to_numpy(), each))
        return pa.DictionaryArray.from_arrays(codes, found.dictionary, safe=False)


def _is_one_text(piece: Piece) -> NDArray[np.bool_]:
    """In which batches all rows have the same text; none is null. False also where offsets are wrong."""
    rows, content = piece.of.rows, piece.of.block[:, piece.cuts[2]]
    offsets = piece.bytes_(1).view("<i4")
    size = int(offsets[0, 1])
    if rows == 1 or size < 0 or size * rows > content.shape[1]:
        return np.zeros(len(offsets), dtype=bool)
    same: NDArray[np.bool_] = (offsets == size * np.arange(rows + 1, dtype="<i4")).all(axis=1)
    same &= (content[:, size : size * rows] == content[:, : size * (rows - 1)]).all(axis=1)
    return same


def _shortened(pieces: Sequence[Piece], once: NDArray[np.bool_], fewer: Joining) -> Iterator[Piece]:
    """The pieces, those of batches of one text as if they had one row; what is left out is checked."""
    firsts = np.cumsum(fewer.counts) - fewer.counts
    for piece in pieces:
        of, (_, offsets, content) = piece.of, piece.cuts
        start, end = min(offsets.start, content.start), max(offsets.stop, content.stop)
        chosen = once[of.numbers]
        for rows, those in ((1, chosen), (of.rows, ~chosen)):
            if those.any():
                block, numbers = of.block[:, start:end], of.numbers
                if not those.all():
                    block, numbers = block[those], numbers[those]
                places = (firsts[numbers][:, None] + np.arange(rows)).ravel()
                low = offsets.start - start
                cuts = (
                    _NOTHING,
                    slice(low, low + 4 * (rows + 1)),
                    slice(content.start - start, content.stop - start),
                )
                yield Piece(Alike(block, rows, numbers, places), cuts, 0)


class _Lists(_Divided):
    """Lists of numbers, none of which is null."""

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

    def joined(self, pieces: Sequence[Piece], joining: Joining) -> pa.Array:
        offsets, content = self._parts(pieces, joining)
        items = pa.Array.from_buffers(self._kind.value_type, int(offsets[-1]), [None, content])
        buffers = [_validity(pieces, joining), pa.py_buffer(offsets)]
        return pa.Array.from_buffers(self._kind, joining.total, buffers, children=[items])
