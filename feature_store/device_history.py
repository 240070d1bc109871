"""Registrations of devices in the order of their commits: one more costs one more, however many there are."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from feature_store import parquet


class _Registered(Protocol):
    @property
    def device_id(self) -> str: ...

    @property
    def key_id(self) -> str: ...

    @property
    def producer(self) -> str: ...


R = TypeVar("R", bound=_Registered)


class DeviceHistory(Generic[R]):
    """All registrations, and the newest of each device.

    It only ever grows, so whoever has seen the first n moments needs to look at those behind them alone.

    Attributes:
        moments: When each record became known, and the record, in commit order.
        newest: Newest record by device id.
        keys: The same by the key's id. Replaced, not changed: it may be read in another thread.
        former: Who once sent for a device and does not any more, and until when, by device id; devices that
            have always had the same producer are left out.
        last: Number of the newest commit; -1: none.
    """

    def __init__(self) -> None:
        self.moments: list[tuple[datetime, R]] = []
        self.newest: dict[str, R] = {}
        self.keys: dict[str, R] = {}
        self.former: dict[str, dict[str, datetime]] = {}
        self.last = -1
        self._shared = False

    def extend(self, moments: Iterable[tuple[datetime, R]], last: int) -> None:
        """Add registrations of commits up to ``last``, in their order, which come after all that are here."""
        keys = self.keys.copy()
        for at, record in moments:
            before = self.newest.get(record.device_id)
            if before is not None and keys.get(before.key_id) is before:
                del keys[before.key_id]
            if before is not None and before.producer != record.producer:
                ended = self.former.setdefault(record.device_id, {})
                ended[before.producer] = at
                ended.pop(record.producer, None)
            self._shared |= record.key_id in keys
            keys[record.key_id] = record
            self.newest[record.device_id] = record
            self.moments.append((at, record))
        if self._shared:  # two devices with one key: as if all had been read at once
            keys = {r.key_id: r for r in self.newest.values()}
        self.keys, self.last = keys, last


def in_order(parts: Iterable[pa.Table], columns: pa.Schema) -> pa.Table:
    """All rows in the order of their commits: clocks may differ."""
    rows = parquet.concat([parquet.conform(t, columns) for t in parts], columns)
    return rows.sort_by([("_offset", "ascending"), ("_row", "ascending")])


def split_after(last: int, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows of commits up to this one, and those after it."""
    later = pc.greater(rows["_offset"], last)
    return rows.filter(pc.invert(later)), rows.filter(later)
