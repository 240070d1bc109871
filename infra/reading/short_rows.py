"""Finds rows with too few cells of which something in the middle is missing, not the end. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.reading.measured_column import MeasuredColumn
from infra.reading.time_forms import Bools

_ENOUGH_WHOLE = 20
"""Rows with all their cells from which the others are compared with them."""


def broken_rows(
    short: Bools | None, rows: int, measured: Sequence[MeasuredColumn], *, anywhere: bool = False
) -> Bools:
    """Short rows whose cells do not fit their columns: a number that is none, or one of the next column.

    Args:
        short: Rows with too few cells; None: there are none.
        rows: Number of rows.
        measured: The columns of numbers, in the file's order.
        anywhere: Whether nothing tells which cell is missing, as where blanks separate cells and the last one
            is a number as well: such a row counts only if it has no number at all.
    """
    odd = np.zeros(rows, dtype=np.bool_)
    if short is None:
        return odd
    if anywhere and len(measured) > 1:
        return np.asarray(short & np.any([np.isfinite(c.values) for c in measured], axis=0))
    for column in measured:
        if column.unreadable is not None:
            odd |= column.unreadable
    for column, following in itertools.pairwise(measured):
        odd |= _shifted(column.values, following.values, short)
    return short & odd


def _shifted(values: NDArray[np.float64], following: NDArray[np.float64], short: Bools) -> Bools:
    """Rows with a number here that lies far from those of whole rows, and among those of the next column."""
    here, there = values[~short & np.isfinite(values)], following[~short & np.isfinite(following)]
    if min(len(here), len(there)) < _ENOUGH_WHOLE:
        return np.zeros(len(values), dtype=np.bool_)
    low, high = float(here.min()), float(here.max())
    far = (values < low - (high - low)) | (values > high + (high - low))
    return np.asarray(far & (values >= there.min()) & (values <= there.max()))
