"""Packed rows of many messages, unpacked at once: the cost is in the number of columns, not of messages.

Each column of all messages is read before the next one; what follows it begins elsewhere in each message.
What is accepted here is what ``schemas.packed_rows.unpack_rows`` accepts of each message alone, and gives the
same rows; the tests hold both against each other. What is not, is to be unpacked alone, which says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.columns import Kind, RowLayout
from schemas.packed_rows import FLOATS, INTEGERS, MAX_TEXT, MAX_UNPACKED, VERSION, Form, known_texts, mark_of
from schemas.row_batch import ColumnValues, Mask, RowBatch
from schemas.varints import unzigzag

MOST_ROWS = 4096
"""A message with more rows gains nothing here."""
MOST_UNPACKED = 64 * 1024 * 1024
"""Bound on what all messages of one call may unpack to."""
_MISSING = 0x80
_MORE = 0x80
_LONGEST = 10
_OF_LISTS = {Kind.INT64_LIST: "<i8", Kind.FLOAT64_LIST: "<f8", Kind.BINARY: "u1"}
_Ints = NDArray[np.int64]


class NotTogetherError(Exception):
    """Some messages do not unpack, or all of them to too much.

    Attributes:
        wrong: Which of the messages; all where they are too much together.
    """

    def __init__(self, wrong: Mask) -> None:
        super().__init__(f"{int(wrong.sum())} of {len(wrong)}")
        self.wrong = wrong


class UnpackedRows(NamedTuple):
    """Rows of messages behind one another, and how many are of each."""

    batch: RowBatch
    counts: _Ints


def unpack_together(parts: Sequence[bytes], layout: RowLayout) -> UnpackedRows:
    """The rows of messages of one layout.

    Raises:
        NotTogetherError: Some are no packed rows of this layout, or have none or more than ``MOST_ROWS``.
    """
    reader = _Reader(parts)
    reader.check(reader.bytes_() != VERSION)
    mark = mark_of(layout)
    reader.check((reader.bytes_() != mark[0]) | (reader.bytes_() != mark[1]))
    rows = reader.varints(np.ones(len(parts), np.int64))
    reader.check((rows == 0) | (rows > MOST_ROWS))
    known, columns = known_texts(layout), _Columns(reader, rows.astype(np.int64))
    values = [columns.read(c.kind, known.get(c.name, ())) for c in layout.columns]
    reader.check(reader.at != reader.end)
    return UnpackedRows(RowBatch(layout, values, int(columns.rows.sum())), columns.rows)


def _places(starts: _Ints, counts: _Ints) -> _Ints:
    """``counts[i]`` numbers from ``starts[i]`` on, for each i."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()), dtype=np.int64)


class _Reader:
    """Reads all messages from front to back at once.

    Attributes:
        at: How far each message is read, as a place in all their bytes.
        end: Where each message ends.
    """

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.raw = b"".join(parts)
        self._data = np.frombuffer(self.raw, np.uint8)
        sizes = np.array([len(part) for part in parts], np.int64)
        self.end = np.cumsum(sizes)
        self.at = self.end - sizes
        self._stops = np.flatnonzero(self._data < _MORE)
        self._spent = np.zeros(len(parts), np.int64)

    def check(self, wrong: Mask) -> None:
        """Return if no message is wrong."""
        if wrong.any():
            raise NotTogetherError(wrong)

    def check_values(self, wrong: Mask, counts: _Ints) -> None:
        """Return if no value is wrong; ``counts`` of them are of each message."""
        if wrong.any():
            of = np.repeat(np.arange(len(counts)), counts)[wrong]
            raise NotTogetherError(np.bincount(of, minlength=len(counts)) > 0)

    def spend(self, sizes: _Ints) -> None:
        """Count what each message unpacks to."""
        self._spent += sizes
        self.check(self._spent > MAX_UNPACKED)
        if self._spent.sum() > MOST_UNPACKED:
            raise NotTogetherError(np.ones(len(self.end), bool))

    def take(self, sizes: _Ints) -> _Ints:
        """Where the next bytes of each message begin."""
        starts = self.at
        self.check((sizes < 0) | (sizes > self.end - starts))
        self.at = starts + sizes
        return starts

    def bytes_(self, there: Mask | None = None) -> NDArray[np.uint8]:
        """The next byte of each message; of those that are not there 0, and nothing is read."""
        sizes = np.ones(len(self.end), np.int64) if there is None else there.astype(np.int64)
        starts = self.take(sizes)
        found = np.zeros(len(starts), np.uint8)
        found[sizes > 0] = self._data[starts[sizes > 0]]
        return found

    def joined(self, sizes: _Ints) -> NDArray[np.uint8]:
        """The next bytes of all messages behind one another."""
        starts = self.take(sizes)
        spans = zip(starts.tolist(), self.at.tolist(), strict=True)
        return np.frombuffer(b"".join([self.raw[low:high] for low, high in spans if high > low]), np.uint8)

    def bits(self, counts: _Ints) -> Mask:
        """The next bits of all messages, the lowest of each byte first."""
        sizes = (counts + 7) // 8
        flat = np.unpackbits(self.joined(sizes), bitorder="little")
        return flat[_places(8 * (np.cumsum(sizes) - sizes), counts)].view(np.bool_)

    def varints(self, counts: _Ints) -> NDArray[np.uint64]:
        """The next numbers of all messages."""
        first = np.searchsorted(self._stops, self.at)
        some = counts > 0
        self.check(counts > len(self._stops) - first)
        last = self.at.copy()
        last[some] = self._stops[(first + counts - 1)[some]]
        self.check(some & (last >= self.end))
        ends = self._stops[_places(first, counts)]
        starts = np.empty_like(ends)
        starts[1:] = ends[:-1] + 1
        starts[(np.cumsum(counts) - counts)[some]] = self.at[some]
        lengths = ends - starts + 1
        self.check_values((lengths > _LONGEST) | ((lengths == _LONGEST) & (self._data[ends] > 1)), counts)
        numbers = np.zeros(len(ends), np.uint64)
        for k in range(int(lengths.max(initial=0))):
            there = lengths > k
            piece = self._data[starts[there] + k].astype(np.uint64) & np.uint64(0x7F)
            numbers[there] |= piece << np.uint64(7 * k)
        self.at = np.where(some, last + 1, self.at)
        return numbers

    def texts(self, counts: _Ints) -> tuple[list[bytes], _Ints]:
        """The next texts of each message, each behind its length; and what they take of its room."""
        found: list[bytes] = []
        room = np.zeros(len(counts), np.int64)
        for message in np.flatnonzero(counts).tolist():
            at, end = int(self.at[message]), int(self.end[message])
            for _ in range(int(counts[message])):
                size, at = self._length(at, end)
                if size > min(MAX_TEXT, end - at):
                    self.check(np.arange(len(counts)) == message)
                found.append(self.raw[at : at + size])
                room[message] += size + 64
                at += size
            self.at[message] = at
        return found, room

    def _length(self, at: int, end: int) -> tuple[int, int]:
        """A number that must be small, and where it ends; a large one where there is none."""
        if at < end and self.raw[at] < _MORE:
            return self.raw[at], at + 1
        if at + 1 < end and self.raw[at + 1] < _MORE:
            return self.raw[at] & 0x7F | self.raw[at + 1] << 7, at + 2
        return MAX_TEXT + 1, at


class _Columns:
    """Reads one column of all messages after the other.

    Args:
        reader: Stands before the first column.
        rows: Of each message.
    """

    def __init__(self, reader: _Reader, rows: _Ints) -> None:
        self._reader, self.rows = reader, rows
        self._total = int(rows.sum())

    def read(self, kind: Kind, known: Sequence[str]) -> ColumnValues:
        """The next column."""
        how = self._reader.bytes_()
        forms = how & np.uint8(0x7F)
        nothing = forms == Form.NOTHING
        rows = np.where(nothing, 0, self.rows)
        valid = self._valid((how & _MISSING > 0) & ~nothing, nothing)
        fixed = kind in INTEGERS or kind in FLOATS
        self._reader.spend(np.where(nothing | fixed, 8, 0) * self.rows)
        if kind is Kind.TEXT:
            return self._texts(forms, rows, known, valid)
        if kind in INTEGERS:
            return ColumnValues(
                valid, self._spread(self._narrow(self._integers(forms, rows), kind, rows), rows)
            )
        if kind in FLOATS:
            return ColumnValues(valid, self._spread(self._floats(forms, rows, np.dtype(FLOATS[kind])), rows))
        self._reader.check(~nothing & (forms != Form.WHOLE))
        if kind is Kind.BOOL:
            self._reader.spend(rows)
            return ColumnValues(valid, self._spread(self._reader.bits(rows), rows))
        return self._lists(kind, rows, ~nothing, valid)

    def _valid(self, stated: Mask, nothing: Mask) -> Mask | None:
        if not (stated.any() or nothing.any()):
            return None
        valid = np.repeat(~nothing, self.rows)
        valid[np.repeat(stated, self.rows)] = self._reader.bits(np.where(stated, self.rows, 0))
        return None if valid.all() else valid

    def _spread(self, values: NDArray[Any], rows: _Ints) -> NDArray[Any]:
        """Values of the rows of all messages: 0 in those that have none."""
        if len(values) == self._total:
            return values
        spread = np.zeros(self._total, values.dtype)
        spread[np.repeat(rows > 0, self.rows)] = values
        return spread

    def _integers(self, forms: NDArray[np.uint8], rows: _Ints) -> _Ints:
        """Whole numbers of those messages that have rows."""
        same, steps = forms == Form.SAME, forms == Form.STEPS
        some = rows > 0
        self._reader.check(some & ~(same | steps | (forms == Form.DELTAS)))
        counts = np.where(some, np.where(same, 1, np.where(steps, 2, rows)), 0)
        flat = unzigzag(self._reader.varints(counts))
        at, begins = (np.cumsum(counts) - counts)[some], (np.cumsum(rows) - rows)[some]
        # What is added from row to row: nothing, the step, or what is written.
        added = np.zeros(int(rows.sum()), np.int64)
        of_deltas = some & ~same & ~steps
        added[np.repeat(of_deltas, rows)] = flat[np.repeat(of_deltas, counts)]
        of_steps = some & steps
        if of_steps.any():
            step = flat[np.where(of_steps, np.cumsum(counts) - counts + 1, 0)]
            added[np.repeat(of_steps, rows)] = np.repeat(step[of_steps], rows[of_steps])
        added[begins] = flat[at]
        with np.errstate(over="ignore"):  # sums wrap, as they do in a message alone
            sums: _Ints = np.cumsum(added)
            numbers: _Ints = sums - np.repeat(sums[begins] - added[begins], rows[some])
        return numbers

    def _narrow(self, values: _Ints, kind: Kind, rows: _Ints) -> NDArray[Any]:
        narrow = values.astype(INTEGERS[kind])
        self._reader.check_values(narrow != values, rows)
        return narrow

    def _floats(self, forms: NDArray[np.uint8], rows: _Ints, dtype: np.dtype[Any]) -> NDArray[Any]:
        some = rows > 0
        same, single = some & (forms == Form.SAME), some & (forms == Form.SINGLE)
        whole = some & (forms == Form.WHOLE)
        self._reader.check(some & ~(same | single | whole))
        sizes = np.select([same, single, whole], [dtype.itemsize, 4 * rows, dtype.itemsize * rows], 0)
        data = self._reader.joined(sizes)
        if whole[some].all():
            return data.view(dtype)
        values = np.zeros(int(rows.sum()), dtype)
        values[np.repeat(whole, rows)] = data[np.repeat(whole, sizes)].view(dtype)
        values[np.repeat(single, rows)] = data[np.repeat(single, sizes)].view("<f4").astype(dtype)
        values[np.repeat(same, rows)] = np.repeat(data[np.repeat(same, sizes)].view(dtype), rows[same])
        return values

    def _texts(
        self, forms: NDArray[np.uint8], rows: _Ints, known: Sequence[str], valid: Mask | None
    ) -> ColumnValues:
        there = (rows > 0).astype(np.int64)
        stated = self._reader.varints(there)
        fresh = np.zeros(len(rows), np.int64)
        fresh[there > 0] = np.minimum(stated, 2**31).astype(np.int64)
        self._reader.check(fresh > self._reader.end - self._reader.at)  # each takes a byte at least
        new, room = self._reader.texts(fresh)
        self._reader.spend(room)
        codes = self._integers(forms, rows)
        n = len(known)
        self._reader.check_values((codes < 0) | (codes >= n + np.repeat(fresh, rows)), rows)
        codes = codes + np.where(codes < n, 0, np.repeat(np.cumsum(fresh) - fresh, rows))
        texts = [*(text.encode() for text in known), *new]
        lengths = np.array([len(text) for text in texts], np.int64)[codes]
        self._spend_on(lengths, rows)
        joined = b"".join([texts[code] for code in codes.tolist()])
        return ColumnValues(valid, np.frombuffer(joined, np.uint8), self._offsets(lengths, rows))

    def _lists(self, kind: Kind, rows: _Ints, there: Mask, valid: Mask | None) -> ColumnValues:
        lengths = self._integers(self._reader.bytes_(there), rows)
        self._reader.check_values((lengths < 0) | (lengths > MAX_UNPACKED), rows)
        totals = self._spend_on(lengths, rows, 1 if kind is Kind.BINARY else 8)
        if kind is Kind.INT64_LIST:
            values = self._with_zeros(totals, there)
        else:
            dtype = np.dtype(_OF_LISTS[kind])
            values = self._reader.joined(totals * dtype.itemsize).view(dtype)
        return ColumnValues(valid, values, self._offsets(lengths, rows))

    def _with_zeros(self, totals: _Ints, there: Mask) -> _Ints:
        counts = np.zeros(len(totals), np.int64)
        stated = self._reader.varints(there.astype(np.int64))
        counts[there] = np.minimum(stated, 2**62).astype(np.int64)
        self._reader.check(counts > totals)
        gaps = self._reader.varints(counts)
        self._reader.check_values(gaps >= np.repeat(totals, counts).astype(np.uint64), counts)
        steps = gaps.astype(np.int64) + 1
        sums, some = np.cumsum(steps), counts > 0
        begins = (np.cumsum(counts) - counts)[some]
        places = sums - np.repeat(sums[begins] - steps[begins], counts[some]) - 1
        self._reader.check_values(places >= np.repeat(totals, counts), counts)
        values = np.zeros(int(totals.sum()), np.int64)
        values[places + np.repeat(np.cumsum(totals) - totals, counts)] = unzigzag(
            self._reader.varints(counts)
        )
        return values

    def _spend_on(self, lengths: _Ints, rows: _Ints, each: int = 1) -> _Ints:
        """Count what values of these lengths take; returns the length of all values of each message."""
        ends = np.concatenate([[0], np.cumsum(lengths)])
        last = np.cumsum(rows)
        totals: _Ints = ends[last] - ends[last - rows]
        self._reader.spend(each * totals + 4 * rows)
        return totals

    def _offsets(self, lengths: _Ints, rows: _Ints) -> NDArray[np.int32]:
        offsets = np.zeros(self._total + 1, "<i4")
        np.cumsum(self._spread(lengths, rows), out=offsets[1:])
        return offsets
