"""Few rows with many columns as few bytes: each column written in the shortest of a handful of ways.

Arrow describes a column in 50 to 80 bytes. That is nothing beside thousands of rows, and four fifths of one
device's summary of a minute. Here a column that holds one value takes that value and one byte. No number
changes: what is unpacked equals what was packed, bit for bit.

A layout whose metadata has the key ``packing`` is written like this:

- a byte with the version, 1; two bytes, the lowest of the CRC-32 of ``known``; the number of rows;
- each column: a byte that says how (the low bits) and whether values are missing (the highest bit: then one
  bit a row follows, 1 where there is a value); then the values of all rows, 0 or empty where missing.

Numbers are varints (7 bits a byte, the lowest first); numbers that may be negative are zigzag. In lists of
whole numbers zeros are left out. Texts are numbers into a list: first what the metadata's ``known`` lists for
that column, then what follows here.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Kind, RowLayout
from schemas.row_batch import ColumnValues, RowBatch
from schemas.varints import Bytes, read_varints, unzigzag, varints, zigzag

PACKING = "packing"
"""Key of a layout's metadata; its value is the version, and the first byte of what is packed."""
KNOWN = "known"
"""Key of a layout's metadata: JSON, texts that need not be sent by the name of their column."""
VERSION = 1
MAX_ROWS = 65_536
MAX_UNPACKED = 16 * 1024 * 1024
"""Bound on what one message may unpack to, as columns in memory."""
MAX_TEXT = 1024
_MISSING = 0x80
_MARK_BYTES = 2
INTEGERS = {Kind.INT8: "<i1", Kind.INT32: "<i4", Kind.INT64: "<i8", Kind.TIME: "<i8"}
FLOATS = {Kind.FLOAT32: "<f4", Kind.FLOAT64: "<f8"}
"""How numbers of each kind lie in memory."""
_Ints = NDArray[np.int64]


class Form(IntEnum):
    """How the values of a column are written."""

    NOTHING = 0
    """No row has a value."""
    SAME = 1
    """One value, which all rows have."""
    STEPS = 2
    """First value and step."""
    DELTAS = 3
    """Each value less the one before."""
    SINGLE = 4
    """Floats of 4 bytes, which hold the values exactly."""
    WHOLE = 5
    """As they are: floats, bits, or bytes and lists with their lengths before them."""


def is_packed(data: bytes) -> bool:
    """Whether bytes from ``RowBatch`` are packed: an Arrow message begins with 255."""
    return data[:1] == bytes([VERSION])


def is_of(data: bytes, layout: RowLayout) -> bool:
    """Whether packed rows were packed with the texts that this layout knows."""
    return data[1 : 1 + _MARK_BYTES] == mark_of(layout)


def pack_rows(batch: RowBatch) -> bytes:
    """The rows, packed; their layout has the key ``packing``."""
    known = known_texts(batch.layout)
    parts = [bytes([VERSION]), mark_of(batch.layout), varints([batch.num_rows])]
    for column, values in zip(batch.layout.columns, batch.columns, strict=True):
        parts.append(_packed(column.kind, values, batch.num_rows, known.get(column.name, ())))
    return b"".join(parts)


def read_rows(raw: bytes, layout: RowLayout) -> RowBatch:
    """Rows of a layout, packed or not, as its metadata says.

    Raises:
        ValueError: They are none.
    """
    return unpack_rows(raw, layout) if PACKING in layout.metadata else RowBatch.deserialize(raw, layout)


def unpack_rows(data: bytes, layout: RowLayout) -> RowBatch:
    """The rows that were packed.

    Raises:
        ValueError: They are no rows of this layout, or would take more than ``MAX_UNPACKED``.
    """
    reader = Bytes(data)
    if reader.byte() != VERSION:
        raise ValueError("packed in another way")
    if reader.take(_MARK_BYTES) != mark_of(layout):
        raise ValueError("packed with other known texts")
    rows = reader.number()
    if rows > MAX_ROWS:
        raise ValueError(f"{rows} rows; at most {MAX_ROWS}")
    known, budget = known_texts(layout), _Budget(MAX_UNPACKED)
    columns = [_read(c.kind, reader, rows, known.get(c.name, ()), budget) for c in layout.columns]
    reader.end()
    return RowBatch(layout, columns, rows)


class _Budget:
    """What may still be unpacked."""

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError(f"it would unpack to more than {MAX_UNPACKED} bytes")


def mark_of(layout: RowLayout) -> bytes:
    """Tells layouts apart whose known texts differ: a number into another list would be another text."""
    return (zlib.crc32(layout.metadata.get(KNOWN, "").encode()) & 0xFFFF).to_bytes(_MARK_BYTES, "little")


@lru_cache(maxsize=64)
def _listed(text: str) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in json.loads(text).items()}


def known_texts(layout: RowLayout) -> dict[str, tuple[str, ...]]:
    """Texts that need not be sent, by the name of their column."""
    return _listed(layout.metadata.get(KNOWN, "{}"))


# Packing ---------------------------------------------------------------------------------------------------


def _packed(kind: Kind, values: ColumnValues, rows: int, known: Sequence[str]) -> bytes:
    valid = values.valid
    if valid is not None and not valid.any():
        return bytes([Form.NOTHING])
    form, body = _body(kind, values, rows, known)
    if valid is None:
        return bytes([form]) + body
    return bytes([form | _MISSING]) + np.packbits(valid, bitorder="little").tobytes() + body


def _body(kind: Kind, values: ColumnValues, rows: int, known: Sequence[str]) -> tuple[Form, bytes]:
    if values.offsets is not None:
        return _body_of_parts(kind, values, known)
    plain = values.values
    if values.valid is not None:
        plain = np.where(values.valid, plain, plain.dtype.type(0))
    if kind is Kind.BOOL:
        return Form.WHOLE, np.packbits(plain, bitorder="little").tobytes()
    if kind in INTEGERS:
        return _integers(plain.astype(np.int64))
    return _floats(plain)


def _integers(values: _Ints) -> tuple[Form, bytes]:
    if not len(values) or (values == values[0]).all():
        return Form.SAME, varints(zigzag(values[:1]))
    with np.errstate(over="ignore"):  # differences wrap, and so do the sums that undo them
        deltas = np.diff(values)
    if (deltas == deltas[0]).all():
        return Form.STEPS, varints(zigzag(np.array([values[0], deltas[0]])))
    return Form.DELTAS, varints(zigzag(np.concatenate([values[:1], deltas])))


def _floats(values: NDArray[Any]) -> tuple[Form, bytes]:
    bits = values.view(f"<i{values.dtype.itemsize}")
    if not len(values) or (bits == bits[0]).all():
        return Form.SAME, values[:1].tobytes()
    if values.dtype == np.float64:
        with np.errstate(over="ignore", invalid="ignore"):
            single = values.astype("<f4")
            exact = (single.astype("<f8").view("<i8") == bits).all()
        if exact:
            return Form.SINGLE, single.tobytes()
    return Form.WHOLE, values.tobytes()


def _body_of_parts(kind: Kind, values: ColumnValues, known: Sequence[str]) -> tuple[Form, bytes]:
    """Texts, bytes or lists; those of missing rows are empty."""
    assert values.offsets is not None  # noqa: S101  (for the type checker)
    offsets = values.offsets
    if values.valid is not None and np.diff(offsets)[~values.valid].any():
        raise ValueError("a missing value that is not empty")
    if kind is Kind.TEXT:
        data, spans = values.values.tobytes(), zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        return _texts([data[low:high] for low, high in spans], known)
    form, lengths = _integers(np.diff(offsets).astype(np.int64))
    inner = values.values[offsets[0] : offsets[-1]]
    if kind is Kind.INT64_LIST:
        return Form.WHOLE, bytes([form]) + lengths + _without_zeros(inner)
    return Form.WHOLE, bytes([form]) + lengths + inner.tobytes()


def _without_zeros(values: _Ints) -> bytes:
    """Numbers, most of which are 0: how many others there are, the zeros before each, and they themselves."""
    places = np.flatnonzero(values)
    gaps = np.diff(places, prepend=-1) - 1
    return varints([len(places)]) + varints(gaps.astype(np.uint64)) + varints(zigzag(values[places]))


def _texts(values: Sequence[bytes], known: Sequence[str]) -> tuple[Form, bytes]:
    codes = {text.encode(): code for code, text in enumerate(known)}
    fresh = len(codes)
    numbers = [codes.setdefault(value, len(codes)) for value in values]
    new = list(codes)[fresh:]
    form, body = _integers(np.array(numbers, dtype=np.int64))
    texts = b"".join(varints([len(text)]) + text for text in new)
    return form, varints([len(new)]) + texts + body


# Unpacking -------------------------------------------------------------------------------------------------


def _read(kind: Kind, data: Bytes, rows: int, known: Sequence[str], budget: _Budget) -> ColumnValues:
    how = data.byte()
    form, valid = how & ~_MISSING, None
    if how & _MISSING or form == Form.NOTHING:
        valid = np.zeros(rows, bool) if form == Form.NOTHING else data.bits(rows)
    if valid is not None and valid.all():
        valid = None
    if form == Form.NOTHING:
        budget.take(8 * rows)
        return _nothing(kind, rows, valid)
    if kind is Kind.TEXT:
        return _read_texts(form, data, rows, known, budget, valid)
    if kind in INTEGERS:
        budget.take(8 * rows)
        return ColumnValues(valid, _narrowed(_read_integers(form, data, rows), INTEGERS[kind]))
    if kind in FLOATS:
        budget.take(8 * rows)
        return ColumnValues(valid, _read_floats(form, data, rows, np.dtype(FLOATS[kind])))
    if form != Form.WHOLE:
        raise ValueError(f"no column of {kind} is written as {form}")
    if kind is Kind.BOOL:
        budget.take(rows)
        return ColumnValues(valid, data.bits(rows))
    return _read_parts(kind, data, rows, budget, valid)


def _nothing(kind: Kind, rows: int, valid: NDArray[np.bool_] | None) -> ColumnValues:
    if kind is Kind.BOOL:
        return ColumnValues(valid, np.zeros(rows, bool))
    if kind in INTEGERS or kind in FLOATS:
        return ColumnValues(valid, np.zeros(rows, {**INTEGERS, **FLOATS}[kind]))
    dtype = {Kind.INT64_LIST: "<i8", Kind.FLOAT64_LIST: "<f8"}.get(kind, "u1")
    return ColumnValues(valid, np.zeros(0, dtype), np.zeros(rows + 1, "<i4"))


def _read_integers(form: int, data: Bytes, rows: int) -> _Ints:
    if form == Form.SAME:
        return np.full(rows, unzigzag(read_varints(data, min(rows, 1)))[0] if rows else 0, np.int64)
    if form == Form.STEPS:
        first, step = unzigzag(read_varints(data, 2))
        with np.errstate(over="ignore"):
            return np.asarray(first + step * np.arange(rows, dtype=np.int64))
    if form == Form.DELTAS:
        with np.errstate(over="ignore"):
            return np.cumsum(unzigzag(read_varints(data, rows)))
    raise ValueError(f"no whole numbers are written as {form}")


def _narrowed(values: _Ints, dtype: str) -> NDArray[Any]:
    narrow = values.astype(dtype)
    if (narrow != values).any():
        raise ValueError("a number is too large for its column")
    return narrow


def _read_floats(form: int, data: Bytes, rows: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if form == Form.SAME:
        return np.repeat(data.array(dtype, min(rows, 1)), max(rows, 1))[:rows]
    if form == Form.SINGLE:
        return data.array(np.dtype("<f4"), rows).astype(dtype)
    if form == Form.WHOLE:
        return data.array(dtype, rows)
    raise ValueError(f"no floats are written as {form}")


def _read_texts(
    form: int,
    data: Bytes,
    rows: int,
    known: Sequence[str],
    budget: _Budget,
    valid: NDArray[np.bool_] | None,
) -> ColumnValues:
    texts = [text.encode() for text in known]
    for _ in range(data.number()):
        size = data.number()
        if size > MAX_TEXT:
            raise ValueError(f"a text of {size} bytes")
        budget.take(size + 64)
        texts.append(data.take(size))
    codes = _read_integers(form, data, rows)
    if rows and not (codes.min() >= 0 and codes.max() < len(texts)):
        raise ValueError("a text that is not there")
    lengths = np.array([len(text) for text in texts], dtype=np.int64)[codes] if rows else codes
    budget.take(int(lengths.sum()) + 4 * rows)
    joined = b"".join([texts[code] for code in codes.tolist()])
    return ColumnValues(valid, np.frombuffer(joined, "u1"), _offsets(lengths))


def _read_parts(
    kind: Kind, data: Bytes, rows: int, budget: _Budget, valid: NDArray[np.bool_] | None
) -> ColumnValues:
    lengths = _read_integers(data.byte(), data, rows)
    if rows and not (lengths.min() >= 0 and lengths.max() <= MAX_UNPACKED):
        raise ValueError("a length that cannot be")
    total = int(lengths.sum())
    budget.take((1 if kind is Kind.BINARY else 8) * total + 4 * rows)
    inner: dict[Kind, Callable[[], NDArray[Any]]] = {
        Kind.BINARY: lambda: data.array(np.dtype("u1"), total),
        Kind.FLOAT64_LIST: lambda: data.array(np.dtype("<f8"), total),
        Kind.INT64_LIST: lambda: _with_zeros(data, total),
    }
    return ColumnValues(valid, inner[kind](), _offsets(lengths))


def _with_zeros(data: Bytes, total: int) -> _Ints:
    count = data.number()
    if count > total:
        raise ValueError("more numbers than there is room for")
    values = np.zeros(total, np.int64)
    gaps = read_varints(data, count)
    if (gaps >= total).any():
        raise ValueError("a number beyond the last one")
    places = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if count and places[-1] >= total:
        raise ValueError("a number beyond the last one")
    values[places] = unzigzag(read_varints(data, count))
    return values


def _offsets(lengths: _Ints) -> NDArray[np.int32]:
    offsets = np.zeros(len(lengths) + 1, "<i4")
    np.cumsum(lengths, out=offsets[1:])
    return offsets
