"""Reads packed messages of one schema: many together where they hold together, each of the others alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from schemas.envelope import decode_rows
from schemas.errors import DecodeError
from schemas.lz4_block import unpack
from schemas.packed_arrow import arrow_rows, layout_of
from schemas.text_dictionaries import encoded
from stream_processors.ingest.packed_together import NotTogetherError, unpack_together
from stream_processors.ingest.sealed_rows import FEWEST_TOGETHER, RowSpan, SealedValue

MOST_BYTES = 4 * 1024 * 1024
"""Bytes before unpacking that are read together."""
ROUNDS = 3
"""So often are the messages left aside that do not hold; then each is read alone."""


class _Raw(NamedTuple):
    """A message's place among all, and its packed rows."""

    place: int
    packed: bytes


class PackedReader:
    """As ``RowReader``, of a schema whose rows come packed."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._layout = layout_of(schema)

    def read(self, messages: Sequence[SealedValue]) -> list[RowSpan | DecodeError]:
        """The rows of each message, or why it has none; the same as ``decode_rows`` says of it alone."""
        found: list[RowSpan | DecodeError | None] = [None] * len(messages)
        for part in _parts(messages):
            for place, span in self._together(part):
                found[place] = span
        return [one if one is not None else self._alone(m) for one, m in zip(found, messages, strict=True)]

    def _together(self, part: Sequence[_Raw]) -> Iterator[tuple[int, RowSpan]]:
        for _ in range(ROUNDS):
            if len(part) < FEWEST_TOGETHER:
                return
            try:
                rows = unpack_together([one.packed for one in part], self._layout)
                table = self._checked(arrow_rows(rows.batch, self._schema))
            except NotTogetherError as exc:
                part = [one for one, is_wrong in zip(part, exc.wrong, strict=True) if not is_wrong]
                continue
            except (pa.ArrowException, ValueError):
                return
            starts = np.cumsum(rows.counts) - rows.counts
            for one, start, count in zip(part, starts.tolist(), rows.counts.tolist(), strict=True):
                yield one.place, RowSpan(table, start, count)
            return

    def _checked(self, batch: pa.RecordBatch) -> pa.Table:
        """The rows as a table.

        Raises:
            ValueError: A column that may not be null is.
            pyarrow.ArrowException: The rows hold what Arrow refuses.
        """
        batch.validate(full=True)
        if any(c.null_count and not f.nullable for f, c in zip(self._schema, batch.columns, strict=True)):
            raise ValueError("a missing value that must be there")
        return encoded(pa.Table.from_batches([batch]))

    def _alone(self, message: SealedValue) -> RowSpan | DecodeError:
        try:
            batch = decode_rows(message.value, message.raw_bytes, self._schema)
        except DecodeError as exc:
            return DecodeError(str(exc))  # a new one: the raised one's frames hold the unpacked message
        return RowSpan(pa.Table.from_batches([batch]), 0, batch.num_rows)


def _parts(messages: Sequence[SealedValue]) -> Iterator[list[_Raw]]:
    """What is unpacked, in parts of at most ``MOST_BYTES``; what cannot be is left out."""
    part: list[_Raw] = []
    size = 0
    for place, message in enumerate(messages):
        try:
            packed = unpack(message.value, message.raw_bytes)
        except DecodeError:
            continue
        if part and size + len(packed) > MOST_BYTES:
            yield part
            part, size = [], 0
        part.append(_Raw(place, packed))
        size += len(packed)
    yield part
