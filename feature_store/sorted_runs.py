"""The order of rows in compacted files: by device, then by time. And how sorted runs are merged, in pieces.

Everything here is a pure function of the rows and their sequence. So the same files merged in the same
sequence give the same rows in the same row groups, however much of them is in memory at a time: a damaged
file can be made again from what it merged. Texts are dictionaries throughout: a third of the memory, and a
tenth of the time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.text_dictionaries import TEXTS, in_one_piece

_WHO = ("device_id", "cohort")
_WHEN = ("event_time", "period_start", "window_start", "known_at")
_LATEST = np.iinfo(np.int64).max

_Key = tuple[bool, str, int]
"""Of a row: whether nobody is named, who, when. Rows that name nobody come last."""


def order_of(columns: pa.Schema) -> tuple[str, ...]:
    """Columns that the rows of a table are ordered by: who, then when; empty: the table names nobody."""
    who = next((n for n in _WHO if n in columns.names and columns.field(n).type == pa.string()), None)
    when = next(
        (n for n in _WHEN if n in columns.names and pa.types.is_timestamp(columns.field(n).type)), None
    )
    return (who, when) if who and when else ()


def in_order(parts: list[pa.Table], order: Sequence[str]) -> pa.Table:
    """The rows sorted; those that are equal in ``order`` keep their sequence.

    Args:
        parts: Emptied, so that their memory is free while the rows are sorted.
        order: As of ``order_of``.
    """
    rows = in_one_piece(pa.concat_tables(parts))
    parts.clear()
    if not order or rows.num_rows < 2:
        return rows
    who, when = order
    keys = pa.table({"who": _ranks(rows, who), "when": _times(rows, when)})
    rows_in_order = pc.sort_indices(keys, [("who", "ascending"), ("when", "ascending")])  # a stable sort
    sequence = rows_in_order.to_numpy()
    if bool(np.all(sequence[1:] > sequence[:-1])):
        return rows
    return rows.take(rows_in_order)


def merged(runs: Iterable[Iterator[pa.Table]], order: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of sorted runs as one, sorted; of equal rows those of the earlier run come first.

    Args:
        runs: Each gives its rows a piece at a time; one piece of each is in memory.
        order: As of ``order_of``; empty: one run after the other.

    Yields:
        Pieces of any length.
    """
    if not order:
        for pieces in runs:
            yield from pieces
        return
    left = [run for pieces in runs if (run := _Run(pieces, order)).load()]
    while len(left) > 1:
        # No row after these pieces comes before the smallest of their last rows.
        lowest = min(range(len(left)), key=lambda i: left[i].last)
        bound = left[lowest].last
        parts = [run.take_until(bound, inclusive=i <= lowest) for i, run in enumerate(left)]
        yield in_order(parts, order)
        left = [run for run in left if not run.is_empty or run.load()]
    for run in left:
        yield run.rest()
        yield from run.pieces


class _Run:
    """A sorted run: the piece of it that is in memory, and the pieces after it."""

    def __init__(self, pieces: Iterator[pa.Table], order: Sequence[str]) -> None:
        self.pieces = pieces
        self._who, self._when = order
        self._at = 0

    def load(self) -> bool:
        """Take the next piece that has rows; False: there is none."""
        for piece in self.pieces:
            if piece.num_rows:
                self._rows, self._at = in_one_piece(piece), 0
                column = self._rows.column(self._who).chunk(0)
                self._names = column.dictionary.to_pylist()
                self._codes = _filled(column.indices, -1).to_numpy()
                self._instants = _times(self._rows, self._when)
                self.last = self._key(self._rows.num_rows - 1)
                return True
        return False

    @property
    def is_empty(self) -> bool:
        """Whether every row of the piece was taken."""
        return bool(self._at == self._rows.num_rows)

    def take_until(self, bound: _Key, *, inclusive: bool) -> pa.Table:
        """Rows of the piece up to the bound."""
        search = bisect_right if inclusive else bisect_left
        start = self._at
        self._at = search(range(self._rows.num_rows), bound, lo=start, key=self._key)
        return self._rows.slice(start, self._at - start)

    def rest(self) -> pa.Table:
        """Rows of the piece that were not taken."""
        return self._rows.slice(self._at)

    def _key(self, row: int) -> _Key:
        code = self._codes[row]
        return (
            (True, "", int(self._instants[row]))
            if code < 0
            else (False, self._names[code], int(self._instants[row]))
        )


def in_groups(pieces: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The rows again, in groups of exactly so many; the last one may have fewer."""
    held: list[pa.Table] = []
    number = 0
    for piece in pieces:
        held.append(piece)
        number += piece.num_rows
        if number >= rows:
            whole = pa.concat_tables(held)
            for start in range(0, number - rows + 1, rows):
                yield _canonical(whole.slice(start, rows))
            held = [whole.slice(number - number % rows)]
            number %= rows
    if number:
        yield _canonical(pa.concat_tables(held))


def _canonical(group: pa.Table) -> pa.Table:
    """The same rows; each dictionary holds what the group needs, sorted, and says nothing of its past."""
    whole = in_one_piece(group)
    columns = [_own_texts(c.chunk(0)) if c.type == TEXTS else c for c in whole.columns]
    return pa.table(columns, schema=whole.schema)


def _own_texts(column: pa.DictionaryArray) -> pa.DictionaryArray:
    codes, absent = _filled(column.indices, 0).to_numpy(), column.indices.is_null()
    if len(column.dictionary) == 0:
        return column
    present = codes if not column.null_count else codes[~absent.to_numpy(zero_copy_only=False)]
    used = np.flatnonzero(np.bincount(present, minlength=len(column.dictionary)))
    texts = column.dictionary.take(pa.array(used))
    sequence = pc.sort_indices(texts)
    place = np.zeros(len(column.dictionary), dtype=np.int32)
    place[used[sequence.to_numpy()]] = np.arange(len(used), dtype=np.int32)
    mask = absent.to_numpy(zero_copy_only=False) if column.null_count else None
    return pa.DictionaryArray.from_arrays(pa.array(place[codes], pa.int32(), mask=mask), texts.take(sequence))


def _ranks(rows: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """A number for each row that is in the order of its text; without a text it is the highest."""
    found = rows.column(column).chunk(0)
    texts = found.dictionary
    ranks = np.empty(len(texts) + 1, dtype=np.int64)
    ranks[pc.sort_indices(texts).to_numpy()] = np.arange(len(texts))
    ranks[len(texts)] = len(texts)
    codes: npt.NDArray[np.int32] = _filled(found.indices, len(texts)).to_numpy()
    return ranks[codes]


def _times(rows: pa.Table, column: str) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = _filled(rows.column(column).cast(pa.int64()), _LATEST).to_numpy()
    return found


def _filled(numbers: Any, value: int) -> Any:
    """The array or column with a value for each null; Arrow copies also those that have none."""
    return numbers.fill_null(value) if numbers.null_count else numbers
