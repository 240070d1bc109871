"""Rows of many sealed messages of one schema, decoded and checked together.

A message of one row costs 60 to 200 us by itself: Arrow reads its metadata, makes an array a column and
validates each. The metadata of two messages with equally many rows and equally long texts is the same bytes,
so what Arrow found in the first of them (where each buffer lies) holds for the next. Messages are unpacked
into a matrix, one a row, for each size; those whose metadata is the same lie alike, and their columns are
columns of the matrix. They are joined in the order of the messages, and validated once. Whatever does not
hold together is decoded by itself, and has the verdict that it always had.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.arrow_bounds import check_value
from schemas.envelope import decode_rows
from schemas.errors import DecodeError
from schemas.lz4_block import unpack_into
from schemas.text_dictionaries import with_dictionaries
from stream_processors.ingest.joined_columns import (
    Cuts,
    JoinedColumn,
    Joining,
    Piece,
    Unjoinable,
    joined_column,
    placed,
)

FEWEST_TOGETHER = 4
"""Fewer messages are decoded one by one."""
MOST_LAYOUTS = 1024
"""Layouts that one schema's reader knows; at one more it begins anew."""
MOST_METADATA_BYTES = 32 * 1024
"""Metadata of a layout; messages with more (some 700 columns) are decoded one by one, and not remembered."""
MOST_OF_ONE_SIZE, NEW_OF_ONE_SIZE = 32, 4
"""Layouts of messages of one size that are looked for in one call, known and new ones."""
TRIED_FOR_LAYOUT = 3
"""Messages with the same metadata that are tried in turn for a sound one."""
_MARKER = b"\xff\xff\xff\xff"
_PREFIX_BYTES = 8  # of an Arrow message: the marker, and the size of the metadata


class SealedValue(NamedTuple):
    """A message's value as it came, and its length before compression by its header."""

    value: bytes
    raw_bytes: int


@dataclass(slots=True)
class RowSpan:
    """Rows of one message: ``n`` rows of a table, from ``start``; of many messages texts are dictionaries."""

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
        size: Bytes of the whole message; -1: such messages are always decoded one by one.
        cuts: Where the pieces of each column lie.
        nulls: Nulls of each column, as its metadata states.
    """

    rows: int
    size: int
    cuts: tuple[tuple[slice, ...], ...]
    nulls: tuple[int, ...]


_NO_LAYOUT = _Layout(0, -1, (), ())


class _Group(NamedTuple):
    """Unpacked messages that lie alike.

    Attributes:
        block: Their bytes, a message a row.
        places: Of these among all messages, ascending.
    """

    layout: _Layout
    block: NDArray[np.uint8]
    places: NDArray[np.int64]

    def only(self, chosen: NDArray[np.bool_]) -> _Group:
        """Some of them."""
        return self if chosen.all() else _Group(self.layout, self.block[chosen], self.places[chosen])


class RowReader:
    """Reads messages of one schema, as Arrow wrote them. Keeps layouts that it has seen twice."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema, self._held = schema, with_dictionaries(schema).with_metadata(schema.metadata)
        self._columns: list[JoinedColumn] | None = None  # None: each message is decoded by itself
        with suppress(Unjoinable):
            self._columns = [joined_column(f.type) for f in schema]
        self._layouts: dict[bytes, _Layout | None] = {}  # by metadata; None: it came once
        self._of_size: dict[int, list[bytes]] = defaultdict(list)  # metadata of layouts, by size of messages

    def read(self, messages: Sequence[SealedValue]) -> list[RowSpan | DecodeError]:
        """The rows of each message, or why it has none; the same as ``decode_rows`` says of it alone."""
        found: list[RowSpan | None] = [None] * len(messages)
        if self._columns is not None and len(messages) >= FEWEST_TOGETHER:
            groups = [g for size in _by_size(messages) for g in self._alike(messages, *size)]
            for place, span in self._together(groups):
                found[place] = span
        return [one if one is not None else self._alone(m) for one, m in zip(found, messages, strict=True)]

    def _alike(
        self, messages: Sequence[SealedValue], block: NDArray[np.uint8], places: NDArray[np.int64]
    ) -> Iterator[_Group]:
        """Unpacked messages of one size, in groups that lie alike; others are left out."""
        size = block.shape[1]
        for metadata in self._of_size[size][:MOST_OF_ONE_SIZE]:
            layout = self._layouts[metadata]
            alike = _begin_with(block, metadata)
            if layout is not None and alike.any():
                yield _Group(layout, block, places).only(alike)
                block, places = (
                    (block[~alike], places[~alike]) if not alike.all() else (block[:0], places[:0])
                )
        for _ in range(NEW_OF_ONE_SIZE):
            if not len(block):
                return
            metadata = _metadata_of(block[0])
            alike = _begin_with(block, metadata) if metadata else np.arange(len(block)) == 0
            layout = (
                self._learnt(metadata, [messages[p] for p in places[alike].tolist()]) if metadata else None
            )
            if layout is not None and layout.size == size:
                yield _Group(layout, block, places).only(alike)
            block, places = block[~alike], places[~alike]

    def _learnt(self, metadata: bytes, messages: Sequence[SealedValue]) -> _Layout | None:
        """The layout of messages with this metadata; None: it has come only once, or they are not sound."""
        if metadata in self._layouts and self._layouts[metadata] is not None:
            return self._layouts[metadata]
        if metadata not in self._layouts:
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
                self._of_size.clear()
            self._layouts[metadata] = None
            if len(messages) < FEWEST_TOGETHER:
                return None
        for message in messages[:TRIED_FOR_LAYOUT]:
            try:
                batch = decode_rows(message.value, message.raw_bytes, self._schema)
            except DecodeError:
                continue
            layout = self._layouts[metadata] = self._layout_of(message, batch)
            if layout.size >= 0:
                self._of_size[layout.size].append(metadata)
            return layout
        return None

    def _layout_of(self, message: SealedValue, sound: pa.RecordBatch) -> _Layout:
        """Where Arrow found the columns of a valid message."""
        raw = bytearray(message.raw_bytes)
        unpack_into(message.value, raw)
        whole = pa.py_buffer(raw)
        batch = pa.ipc.read_record_batch(pa.ipc.read_message(whole), self._schema)
        if sound.num_rows == 0 or self._columns is None:
            return _NO_LAYOUT
        try:
            cuts = tuple(
                tuple(column.cuts(array, Cuts(whole.address, len(raw))))
                for column, array in zip(self._columns, batch.columns, strict=True)
            )
        except Unjoinable:
            return _NO_LAYOUT
        return _Layout(batch.num_rows, len(raw), cuts, tuple(c.null_count for c in batch.columns))

    def _together(self, groups: Sequence[_Group]) -> Iterator[tuple[int, RowSpan]]:
        """Messages as one table, with their places; where they do not hold, halves of them."""
        groups = [g for g in groups if len(g.places)]
        places = np.sort(np.concatenate([g.places for g in groups])) if groups else np.empty(0, "int64")
        if len(places) < FEWEST_TOGETHER:
            return
        try:
            joining, table = self._joined(groups, places)
        except (Unjoinable, pa.ArrowException):
            middle = places[len(places) // 2]
            yield from self._together([g.only(g.places < middle) for g in groups])
            yield from self._together([g.only(g.places >= middle) for g in groups])
            return
        if table is None:
            right = places[~joining.wrong]
            yield from self._together([g.only(np.isin(g.places, right)) for g in groups])
            return
        starts = np.cumsum(joining.counts) - joining.counts
        for place, start, n in zip(places.tolist(), starts.tolist(), joining.counts.tolist(), strict=True):
            yield place, RowSpan(table, start, n)

    def _joined(self, groups: Sequence[_Group], places: NDArray[np.int64]) -> tuple[Joining, pa.Table | None]:
        """One table of all rows; None: some messages are not what their metadata says.

        A column that may not be null has no nulls: a layout is learnt from a sound message, and each message
        has as many nulls as its layout states.

        Raises:
            Unjoinable: They are too much for one table.
            pyarrow.ArrowException: They hold what Arrow refuses.
        """
        blocks = [(g.block, g.layout.rows, np.searchsorted(places, g.places)) for g in groups]
        alike, counts = placed(blocks)
        joining, arrays = Joining(counts), []
        for number, column in enumerate(self._columns or ()):
            pieces = [
                Piece(one, g.layout.cuts[number], g.layout.nulls[number])
                for one, g in zip(alike, groups, strict=True)
            ]
            arrays.append(column.joined(pieces, joining))
        if joining.wrong.any():
            return joining, None
        table = pa.Table.from_arrays(arrays, schema=self._held)
        table.validate(full=True)
        return joining, table

    def _alone(self, message: SealedValue) -> RowSpan | DecodeError:
        try:
            batch = decode_rows(message.value, message.raw_bytes, self._schema)
        except DecodeError as exc:
            return DecodeError(str(exc))  # a new one: the raised one's frames hold the unpacked message
        return RowSpan(pa.Table.from_batches([batch]), 0, batch.num_rows)


def _by_size(messages: Sequence[SealedValue]) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """What is unpacked, a message a row, with the places of the messages; what cannot be is left out."""
    of_size: dict[int, list[int]] = defaultdict(list)
    for place, message in enumerate(messages):
        of_size[message.raw_bytes].append(place)
    for size, places in of_size.items():
        if size <= _PREFIX_BYTES:
            continue
        allowed = [p for p in places if _may_unpack(messages[p])]
        block = np.empty((len(allowed), size), dtype="uint8")
        kept = np.ones(len(allowed), dtype=bool)
        for row, place in enumerate(allowed):
            try:
                unpack_into(messages[place].value, block[row])
            except DecodeError:
                kept[row] = False
        found = np.array(allowed, dtype="int64")
        yield (block, found) if kept.all() else (block[kept], found[kept])


def _may_unpack(message: SealedValue) -> bool:
    try:
        check_value(len(message.value), message.raw_bytes)
    except DecodeError:
        return False
    return True


def _metadata_of(raw: NDArray[np.uint8]) -> bytes:
    """Framing and metadata of a message; empty: it is not framed as today, or has too much of it."""
    prefix = raw[:_PREFIX_BYTES].tobytes()
    end = _PREFIX_BYTES + int.from_bytes(prefix[len(_MARKER) :], "little")
    if not prefix.startswith(_MARKER) or end > min(MOST_METADATA_BYTES, len(raw)):
        return b""  # without the marker (Arrow before 0.15) the size stands elsewhere
    return raw[:end].tobytes()


def _begin_with(block: NDArray[np.uint8], metadata: bytes) -> NDArray[np.bool_]:
    """Which messages begin with these bytes."""
    wanted = np.frombuffer(metadata, "uint8")
    alike: NDArray[np.bool_] = (block[:, : len(wanted)] == wanted).all(axis=1)
    return alike
