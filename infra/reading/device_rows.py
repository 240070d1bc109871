"""Sorts the rows of each device by time, and finds those whose time another row has. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.reading.clock_resets import order_doubt
from infra.reading.decision_record import Doubt
from infra.reading.row_order import order_rows, spread_rows
from infra.reading.time_forms import Bools, Ints

Places = NDArray[np.int64]
_ENOUGH, _FEW, _SLOW_US, _APART = 5, 4, 10_000_000, 3.0


@dataclass(frozen=True, slots=True, eq=False)
class DeviceRows:
    """One device's rows, in the order of time.

    Attributes:
        us: Microseconds since 1970, UTC, rising.
        places: Where the rows stand in the columns.
    """

    us: Ints
    places: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SortedRows:
    """Rows by device, and what became of the others.

    Attributes:
        devices: By the name in the file; one without a name where the file names none.
        words: How the rows of each device stood in the file.
        spread: How rows that share a time were spread; empty: they were not.
        repeated: Rows that equal another row of the device in time and every value.
        duplicate: Rows that have the time of another row of the device and other values.
        collisions: Rows that have the time of another row and other values, spread ones included.
        level: Index of a column in which rows that share a time keep levels of their own; None: none.
        falls: How often times fall back in the file, where its rows stand in no order.
        doubt: About the order of a device's rows; None: there is none.
    """

    devices: Mapping[str, DeviceRows]
    words: frozenset[str]
    spread: str
    repeated: int
    duplicate: int
    collisions: int
    level: int | None = None
    falls: int = 0
    doubt: Doubt | None = None


def rows_by_device(
    us: Ints,
    kept: Places,
    names: pa.Array | None,
    values: Sequence[NDArray[np.float64]],
    file_rows: Sequence[int] = (),
    *,
    spreads: bool,
) -> SortedRows:
    """Each device's rows in the order of time, one for each time.

    Args:
        us: Times of the rows that have one.
        kept: Where these rows stand in the columns.
        names: Device of every row of the file; None: there is one.
        values: Every column of numbers.
        file_rows: Rows of each file, where several are read as one.
        spreads: Whether rows that share a time may be spread over it.
    """
    devices: dict[str, DeviceRows] = {}
    words: set[str] = set()
    spread = ""
    repeated = duplicate = collisions = falls = 0
    level: int | None = None
    doubt: Doubt | None = None
    for name, rows in grouped(len(us), kept, names).items():
        order = order_rows(us[rows])
        words.add(order.words)
        falls += int((np.diff(us[rows]) < 0).sum()) if order.words == "mixed" else 0
        places = kept[rows[order.places]]
        identical = _identical(places, order.us, values)
        shared = np.diff(order.us, prepend=order.us[:1] - 1) == 0
        if doubt is None and order.words != "rising" and spreads:
            repeats = np.zeros(len(rows), dtype=np.bool_)
            repeats[order.places] = identical
            files = np.searchsorted(np.cumsum(file_rows), kept[rows], side="right")
            doubt = order_doubt(us[rows], files, repeats)
        collisions += int((shared & ~identical).sum())
        if spreads:
            level = _level(order.us, places, values) if level is None else level
            order = spread_rows(order, identical)
            spread = spread or order.spread
        fresh = np.diff(order.us, prepend=order.us[:1] - 1) > 0
        repeated += int((~fresh & identical).sum())
        duplicate += int((~fresh & ~identical).sum())
        devices[name] = DeviceRows(order.us[fresh], places[fresh])
    return SortedRows(devices, frozenset(words), spread, repeated, duplicate, collisions, level, falls, doubt)


def grouped(size: int, kept: Places, names: pa.Array | None) -> dict[str, Places]:
    """Indices of each device's rows, in the file's order."""
    if names is None:
        return {"": np.arange(size)}
    coded = names.take(pa.array(kept)).dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False)
    by_code = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_code], np.arange(len(coded.dictionary) + 1))
    return {str(v): by_code[starts[i] : starts[i + 1]] for i, v in enumerate(coded.dictionary.to_pylist())}


def _level(us: Ints, places: Places, values: Sequence[NDArray[np.float64]]) -> int | None:
    """A column whose first rows of each time differ from its second ones, as those of two devices do."""
    starts = np.flatnonzero(np.diff(us, prepend=us[:1] - 1) != 0)
    runs = np.diff(starts, append=len(us))
    each = int(np.median(runs)) if len(runs) else 0
    whole = starts[runs == each]
    if each < 2 or len(whole) < max(_ENOUGH, len(runs) // 2):
        return None
    if each > _FEW and float(np.median(np.diff(us[starts]))) < _SLOW_US:
        return None  # a signal may turn as often as times are written
    at = places[whole[:, None] + np.arange(each)]
    for i, column in enumerate(values):
        rows = column[at]
        rows = rows[np.isfinite(rows).all(axis=1)]
        if len(rows) >= _ENOUGH and np.ptp(rows.mean(axis=0)) > _APART * float(rows.std(axis=0).max()):
            return i
    return None


def _identical(places: Places, us: Ints, values: Sequence[NDArray[np.float64]]) -> Bools:
    """Which rows equal the row before in time and every value."""
    same = np.asarray(np.diff(us, prepend=us[:1] - 1) == 0)
    for column in values:
        if not same.any():
            break
        at = np.flatnonzero(same)
        now, before = column[places[at]], column[places[at - 1]]
        same[at] = (now == before) | (np.isnan(now) & np.isnan(before))
    return same
