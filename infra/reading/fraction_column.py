"""Joins times in whole seconds with a column of the milli-, micro- or nanoseconds within them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from infra.reading.number_forms import Surroundings, read_numbers
from infra.reading.time_column import TimeReading
from infra.reading.time_formats import WRITTEN, order_of
from infra.reading.time_forms import ORDERS

_SECOND_US = 1_000_000
_FRACTIONS = (
    (re.compile(r"(?i)^(ms|m_?sec|millis|milli_?seconds?|millisekunden?)$"), 1000, 1000.0),
    (re.compile(r"(?i)^(us|µs|u_?sec|micros|micro_?seconds?|mikrosekunden?)$"), 1_000_000, 1.0),
    (re.compile(r"(?i)^(ns|n_?sec|nanos|nano_?sec|nano_?seconds?|nanosekunden?)$"), 1_000_000_000, 1e-3),
)
"""Names of such a column, how many of its units are a second, and microseconds in one."""


def is_fraction(name: str) -> bool:
    """Whether a column's name says that it holds parts of a second."""
    return any(pattern.match(name.strip()) for pattern, _, _ in _FRACTIONS)


def with_fraction(
    time: TimeReading, names: Sequence[str], column: Callable[[int], pa.Array], only: Collection[int] = ()
) -> TimeReading:
    """The time with the parts of its seconds, where several rows share each and one column holds them.

    Args:
        time: The time without them.
        names: Of the columns.
        column: All cells of a column.
        only: Columns that a person named; empty: all.
    """
    us = time.us[time.ok]
    shared = len(us) > 1 and len(np.unique(us)) < len(us)
    if not time.absolute or (us % _SECOND_US).any() or not (shared or only):
        return time
    for i, name in enumerate(names):
        if i in time.columns or (only and i not in only):
            continue
        for pattern, size, scale in _FRACTIONS:
            if not pattern.match(name.strip()):
                continue
            values = read_numbers(column(i), Surroundings()).values
            ok = time.ok & np.isfinite(values)
            given = values[ok]
            if not len(given) or given.min() < 0 or given.max() >= size or (given != np.round(given)).any():
                continue
            parts = np.round(np.where(ok, values, 0) * scale).astype(np.int64)
            return replace(
                time,
                columns=(*time.columns, i),
                us=time.us + parts,
                ok=ok,
                format=time.format if time.format in ORDERS else order_of(time.format) or WRITTEN,
                evidence=f"{time.evidence}, and the parts of a second in '{name.strip()}'",
            )
    return time
