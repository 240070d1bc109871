"""Rows of many sealed messages of one schema, decoded and checked together.

A message of one row costs 60 to 200 us by itself: Arrow reads its metadata, makes an array a column and
validates each. The metadata of two messages with equally many rows and equally long texts is the same bytes,
so what Arrow found in the first of them (where each buffer lies) holds for the next: their columns are cut
out and joined, and validated once. Whatever does not hold together is decoded by itself, and has the verdict
that it always had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import pyarrow as pa

from schemas.envelope import decode_rows
from schemas.errors import DecodeError
from schemas.lz4_block import unpack
from stream_processors.ingest.joined_columns import Cuts, JoinedColumn, Pieces, Unjoinable, joined_column

FEWEST_TOGETHER = 4
"""Fewer messages are decoded one by one."""
MOST_LAYOUTS = 1024
"""Layouts that one schema's reader knows; at one more it begins anew."""
MOST_METADATA_BYTES = 32 * 1024
"""Metadata of a layout; messages with more (some 700 columns) are decoded one by one, and not remembered."""
_MARKER = b"\xff\xff\xff\xff"
_PREFIX_BYTES = 8  # of an Arrow message: the marker, and the size of the metadata


class SealedValue(NamedTuple):
    """A message's value as it came, and its length before compression by its header."""

    value: bytes
    raw_bytes: int


@dataclass(slots=True)
class RowSpan:
    """Rows of one message: ``n`` rows of a table, from ``start``."""

    table: pa.Table
    start: int
    n: int

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        """One column of these rows."""
        return self.table.column(column).slice(self.start, self.n)

    def rows(self) -> pa.Table:
        """These rows only."""
        return self.table.slice(self.start, self.n)


class _Layout(NamedTuple):
    """Where the columns of a message lie.

    Attributes:
        size: Bytes of the whole message.
        cut: Takes every piece of every column out of one.
        nulls: Nulls of each column, as its metadata states.
    """

    rows: int
    size: int
    cut: Callable[[bytes], tuple[bytes, ...]]
    nulls: tuple[int, ...]


_NO_LAYOUT = _Layout(0, -1, lambda _: (), ())
"""Of messages that are always decoded one by one: none has that size."""


class _Laid(NamedTuple):
    """A message whose layout is known."""

    raw: bytes
    layout: _Layout


class RowReader:
    """Reads messages of one schema, as Arrow wrote them. Keeps layouts that it has seen twice."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns: list[JoinedColumn] | None = None  # None: each message is decoded by itself
        with suppress(Unjoinable):
            self._columns = [joined_column(f.type) for f in schema]
        self._layouts: dict[bytes, _Layout | None] = {}  # by metadata; None: it came once

    def read(self, messages: Sequence[SealedValue]) -> list[RowSpan | DecodeError]:
        """The rows of each message, or why it has none; the same as ``decode_rows`` says of it alone."""
        found: list[RowSpan | DecodeError] = []
        run: list[SealedValue] = []
        laid: list[_Laid] = []
        for message in messages:
            known = self._laid(message) if self._columns is not None else None
            if known is not None:
                run.append(message)
                laid.append(known)
                continue
            found += self._together(run, laid)
            run, laid = [], []
            found.append(self._alone(message))
        return found + self._together(run, laid)

    def _laid(self, message: SealedValue) -> _Laid | None:
        """The unpacked message, if its layout is known; None: it is to be decoded by itself."""
        try:
            raw = unpack(message.value, message.raw_bytes)
        except DecodeError:
            return None
        end = _PREFIX_BYTES + int.from_bytes(raw[len(_MARKER) : _PREFIX_BYTES], "little")
        if not raw.startswith(_MARKER) or end > MOST_METADATA_BYTES:
            return None  # without the marker (Arrow before 0.15) the size stands elsewhere
        metadata = raw[:end]
        layout = self._layouts.get(metadata)
        if layout is None:
            layout = self._learnt(message, raw, metadata)
        return _Laid(raw, layout) if layout is not None and layout.size == len(raw) else None

    def _learnt(self, message: SealedValue, raw: bytes, metadata: bytes) -> _Layout | None:
        """The layout of a message whose metadata came before; None: it did not, or has none to learn."""
        if metadata not in self._layouts:
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[metadata] = None
            return None
        try:
            decode_rows(message.value, message.raw_bytes, self._schema)
        except DecodeError:
            return None
        layout = self._layouts[metadata] = self._layout_of(raw)
        return layout

    def _layout_of(self, raw: bytes) -> _Layout:
        """Where Arrow found the columns of a valid message."""
        whole = pa.py_buffer(raw)
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(whole), self._schema)
        if batch.num_rows == 0 or self._columns is None:
            return _NO_LAYOUT
        cuts: list[slice] = []
        try:
            for column, array in zip(self._columns, batch.columns, strict=True):
                cuts += column.cuts(array, Cuts(whole.address, len(raw)))
        except Unjoinable:
            return _NO_LAYOUT
        nulls = tuple(c.null_count for c in batch.columns)
        return _Layout(batch.num_rows, len(raw), itemgetter(*cuts), nulls)

    def _together(
        self, messages: Sequence[SealedValue], laid: Sequence[_Laid]
    ) -> list[RowSpan | DecodeError]:
        """All of them as one table; where they do not hold, halves of them."""
        if len(messages) < FEWEST_TOGETHER:
            return [self._alone(m) for m in messages]
        try:
            table = self._joined(laid)
        except (Unjoinable, pa.ArrowException):
            middle = len(messages) // 2
            return [
                *self._together(messages[:middle], laid[:middle]),
                *self._together(messages[middle:], laid[middle:]),
            ]
        spans, start = list[RowSpan | DecodeError](), 0
        for one in laid:
            spans.append(RowSpan(table, start, one.layout.rows))
            start += one.layout.rows
        return spans

    def _joined(self, laid: Sequence[_Laid]) -> pa.Table:
        """One table of all rows.

        A column that may not be null has no nulls: a layout is learnt from a sound message, and each message
        has as many nulls as its layout states.

        Raises:
            Unjoinable: The columns of a message are not what its metadata says.
            pyarrow.ArrowException: They are, but hold what Arrow refuses.
        """
        pieces = list(zip(*(one.layout.cut(one.raw) for one in laid), strict=True))
        nulls = list(zip(*(one.layout.nulls for one in laid), strict=True))
        counts = Pieces.counts_of([one.layout.rows for one in laid])
        arrays, at = [], 0
        for number, column in enumerate(self._columns or ()):
            own = pieces[at : at + column.n_pieces]
            arrays.append(column.joined(Pieces(own, counts, nulls[number])))
            at += column.n_pieces
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        table.validate(full=True)
        return table

    def _alone(self, message: SealedValue) -> RowSpan | DecodeError:
        try:
            batch = decode_rows(message.value, message.raw_bytes, self._schema)
        except DecodeError as exc:
            return DecodeError(str(exc))  # a new one: the raised one's frames hold the unpacked message
        return RowSpan(pa.Table.from_batches([batch]), 0, batch.num_rows)
