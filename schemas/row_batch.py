"""Rows as columns of numpy, written and read as one Arrow record batch.

What ``schemas.arrow_message`` writes of them is what pyarrow would, without pyarrow: a device that sends rows
needs a tenth of its memory. The cloud reads them with pyarrow, which checks what it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.arrow_message import BatchParts, Node, read_batch, write_batch
from schemas.columns import Kind, RowLayout

_FIXED: dict[Kind, Any] = {
    Kind.INT8: np.dtype("<i1"),
    Kind.INT32: np.dtype("<i4"),
    Kind.INT64: np.dtype("<i8"),
    Kind.FLOAT32: np.dtype("<f4"),
    Kind.FLOAT64: np.dtype("<f8"),
    Kind.TIME: np.dtype("<i8"),
}
"""Kinds whose values all take the same bytes; ``TIME`` is µs since 1970."""
_LISTS = {Kind.INT64_LIST: np.dtype("<i8"), Kind.FLOAT64_LIST: np.dtype("<f8")}
_BYTE = np.dtype("u1")
_OFFSET = np.dtype("<i4")

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ColumnValues:
    """Values of one column.

    Attributes:
        valid: Which values are there; None: all.
        values: One for each row; with offsets, those of all rows behind one another.
        offsets: Where the values of each row begin, and the last ones end; None: one value a row.
    """

    valid: Mask | None
    values: NDArray[Any]
    offsets: NDArray[np.int32] | None = None

    def part(self, start: int, stop: int) -> ColumnValues:
        """The values of some rows."""
        valid = None if self.valid is None else _missing_or_none(self.valid[start:stop])
        if self.offsets is None:
            return ColumnValues(valid, self.values[start:stop])
        offsets = self.offsets[start : stop + 1]
        values = self.values[offsets[0] : offsets[-1]]
        return ColumnValues(valid, values, offsets - offsets[0])


def fixed(kind: Kind, values: Any, valid: Mask | None = None) -> ColumnValues:
    """A column of numbers or times: an array, or a sequence with None where there is no value."""
    if not isinstance(values, np.ndarray):
        given = np.array([v is not None for v in values], dtype=bool)
        valid, values = given, [0 if v is None else v for v in values]
    dtype = np.dtype(bool) if kind is Kind.BOOL else _FIXED[kind]
    # A float64 that no float32 can hold becomes infinite, without a word.
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(np.asarray(values), dtype=dtype)
    return ColumnValues(None if valid is None else _missing_or_none(valid), array)


def texts(values: Iterable[str | None]) -> ColumnValues:
    """A column of text; None where there is none."""
    return binaries([None if value is None else value.encode() for value in values])


def binaries(values: Sequence[bytes | None]) -> ColumnValues:
    """A column of bytes; None where there is no value."""
    data = np.frombuffer(b"".join(v or b"" for v in values), dtype=_BYTE)
    return ColumnValues(_there(values), data, _offsets([len(v or b"") for v in values]))


def lists(kind: Kind, values: Sequence[Any | None]) -> ColumnValues:
    """A column of lists of numbers; None where there is no list."""
    parts = [np.asarray(v, dtype=_LISTS[kind]) for v in values if v is not None]
    joined = np.concatenate(parts) if parts else np.empty(0, dtype=_LISTS[kind])
    return ColumnValues(_there(values), joined, _offsets([0 if v is None else len(v) for v in values]))


class RowBatch:
    """Rows of one layout.

    Args:
        layout: Their columns.
        columns: The values of each.
        num_rows: How many rows there are.
    """

    def __init__(self, layout: RowLayout, columns: Sequence[ColumnValues], num_rows: int) -> None:
        if len(columns) != len(layout.columns):
            raise ValueError(f"{len(columns)} columns, the layout has {len(layout.columns)}")
        self.layout = layout
        self.columns = tuple(columns)
        self.num_rows = num_rows

    def serialize(self) -> bytes:
        """An Arrow record batch message, without its schema."""
        nodes: list[Node] = []
        buffers: list[bytes | memoryview] = []
        for values in self.columns:
            missing = 0 if values.valid is None else int(len(values.valid) - values.valid.sum())
            nodes.append(Node(self.num_rows, missing))
            buffers.append(b"" if values.valid is None else _bitmap(values.valid))
            if values.offsets is not None:
                buffers.append(values.offsets.tobytes())
                if values.values.dtype != _BYTE:  # the values of lists are a column of their own
                    nodes.append(Node(len(values.values), 0))
                    buffers.append(b"")
            is_bool = values.values.dtype == np.bool_
            buffers.append(_bitmap(values.values) if is_bool else values.values.tobytes())
        return write_batch(BatchParts(self.num_rows, nodes, buffers))

    @classmethod
    def deserialize(cls, raw: bytes, layout: RowLayout) -> RowBatch:
        """The batch that ``serialize`` wrote, or an earlier release with pyarrow.

        Raises:
            ValueError: It is no batch of this layout.
        """
        parts = read_batch(raw)
        nodes, buffers = iter(parts.nodes), iter(parts.buffers)
        try:
            columns = [_read(column.kind, parts.rows, nodes, buffers) for column in layout.columns]
        except StopIteration as exc:
            raise ValueError("fewer columns than the layout has") from exc
        if next(nodes, None) is not None or next(buffers, None) is not None:
            raise ValueError("more columns than the layout has")
        return cls(layout, columns, parts.rows)

    def slice(self, start: int, count: int | None = None) -> RowBatch:
        """Some of the rows; without a count all from ``start`` on."""
        stop = self.num_rows if count is None else min(start + count, self.num_rows)
        return RowBatch(self.layout, [c.part(start, stop) for c in self.columns], stop - start)

    @classmethod
    def concat(cls, batches: Sequence[RowBatch]) -> RowBatch:
        """All rows of batches of one layout, behind one another; at least one batch."""
        if len(batches) == 1:
            return batches[0]
        columns = [_joined(parts) for parts in zip(*(b.columns for b in batches), strict=True)]
        return cls(batches[0].layout, columns, sum(b.num_rows for b in batches))

    def to_pylist(self) -> list[dict[str, Any]]:
        """Each row as values by name; times as µs since 1970, None where there is no value."""
        named = zip(self.layout.columns, self.columns, strict=True)
        plain = {column.name: _plain(column.kind, values, self.num_rows) for column, values in named}
        return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]

    @classmethod
    def from_pylist(cls, rows: Sequence[dict[str, Any]], layout: RowLayout) -> RowBatch:
        """Rows from ``to_pylist``."""
        columns = [_column(column.kind, [row[column.name] for row in rows]) for column in layout.columns]
        return cls(layout, columns, len(rows))


def _column(kind: Kind, values: list[Any]) -> ColumnValues:
    if kind is Kind.TEXT:
        return texts(values)
    if kind is Kind.BINARY:
        return binaries(values)
    return lists(kind, values) if kind in _LISTS else fixed(kind, values)


def _plain(kind: Kind, values: ColumnValues, rows: int) -> list[Any]:
    there = [True] * rows if values.valid is None else values.valid.tolist()
    if values.offsets is None:
        found = values.values.tolist()
    else:
        spans = zip(values.offsets[:-1].tolist(), values.offsets[1:].tolist(), strict=True)
        found = [values.values[low:high] for low, high in spans]
        if kind in _LISTS:
            found = [part.tolist() for part in found]
        else:
            found = [part.tobytes().decode() if kind is Kind.TEXT else part.tobytes() for part in found]
    return [value if ok else None for value, ok in zip(found, there, strict=True)]


def _read(kind: Kind, rows: int, nodes: Any, buffers: Any) -> ColumnValues:
    length, nulls = next(nodes)
    if length != rows:
        raise ValueError(f"a column of {length} rows among {rows}")
    bitmap = next(buffers)
    valid = _bits(bitmap, rows) if nulls else None
    if kind in _FIXED:
        return ColumnValues(valid, _numbers(next(buffers), _FIXED[kind], rows))
    if kind is Kind.BOOL:
        return ColumnValues(valid, _bits(next(buffers), rows))
    offsets = _numbers(next(buffers), _OFFSET, rows + 1)
    count = int(offsets[-1])
    if offsets[0] or (np.diff(offsets) < 0).any():
        raise ValueError("offsets do not rise from 0")
    if kind in _LISTS:
        next(nodes), next(buffers)
        return ColumnValues(valid, _numbers(next(buffers), _LISTS[kind], count), offsets)
    return ColumnValues(valid, _numbers(next(buffers), _BYTE, count), offsets)


def _numbers(buffer: memoryview, dtype: Any, count: int) -> NDArray[Any]:
    if len(buffer) < count * dtype.itemsize:
        raise ValueError("a buffer is too short")
    return np.frombuffer(buffer, dtype=dtype, count=count)


def _joined(parts: Sequence[ColumnValues]) -> ColumnValues:
    values = np.concatenate([p.values for p in parts])
    valid = None
    if any(p.valid is not None for p in parts):
        valid = np.concatenate([np.ones(_rows(p), bool) if p.valid is None else p.valid for p in parts])
    if parts[0].offsets is None:
        return ColumnValues(valid, values)
    lengths = np.concatenate([np.diff(p.offsets) for p in parts if p.offsets is not None])
    return ColumnValues(valid, values, _offsets(lengths))


def _rows(values: ColumnValues) -> int:
    return len(values.values) if values.offsets is None else len(values.offsets) - 1


def _offsets(lengths: Any) -> NDArray[np.int32]:
    offsets = np.zeros(len(lengths) + 1, dtype=_OFFSET)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _there(values: Sequence[Any]) -> Mask | None:
    return _missing_or_none(np.array([v is not None for v in values], dtype=bool))


def _missing_or_none(valid: Mask) -> Mask | None:
    """The mask, or None where no value is missing: then Arrow writes none."""
    return None if valid.all() else valid


def _bitmap(mask: Mask) -> bytes:
    return np.packbits(mask, bitorder="little").tobytes()


def _bits(buffer: memoryview, count: int) -> Mask:
    packed = _numbers(buffer, _BYTE, (count + 7) // 8)
    bits: Mask = np.unpackbits(packed, count=count, bitorder="little").view(bool)
    return bits
