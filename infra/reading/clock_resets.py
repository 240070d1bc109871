"""Doubts the order of one device's rows where its clock may have been set back within the recording. Pure.

Rows in any order can be sorted. But rows that stand in order but for a few falls tell more: where the times
pass the same stretch again, or where some rows lie far from all others and stand on the wrong side of them in
the file, sorting mixes rows that were not measured then.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from infra.printing import count, instant
from infra.reading.decision_record import Doubt
from infra.reading.time_forms import Bools, Ints
from schemas.instants import from_us

_FEW = 0.02
"""Share of the steps that may fall where the file's order tells something; in a shuffled file half do."""
_LATE = 3
"""Changes between pieces of the file that one late row, or one late block, makes in the order of time."""
_MIXED = 1e-3
"""Share of rows that may mix before a person is asked: an hour within months is said only."""
_FAR_STEPS, _FAR_US = 100, 86_400_000_000
"""Rows lie far from others beyond so many usual steps, and beyond a day."""
_FORCED = "--force (sorts them)"


def order_doubt(us: Ints, files: NDArray[np.int64], repeats: Bools) -> Doubt | None:
    """What is doubtful in the order of one device's rows; None: nothing.

    Args:
        us: Times in the file's order.
        files: File of each row, where several are read as one.
        repeats: Which rows equal another one in time and every value: nothing follows from where they stand.
    """
    us, files = us[~repeats], files[~repeats]
    steps = np.diff(us)
    if (steps < 0).sum() > (steps > 0).sum():
        us, files = us[::-1], files[::-1]
        steps = np.diff(us)
    falls = np.flatnonzero(steps < 0)
    if not len(falls) or len(falls) > max(3, _FEW * len(steps)):
        return None
    order = np.argsort(us, kind="stable")
    return _passed_again(us, files, falls, order) or _far_away(us, files, order)


def _passed_again(us: Ints, files: NDArray[np.int64], falls: Ints, order: Ints) -> Doubt | None:
    """A doubt where pieces of the file, each in order, mix when they are sorted."""
    starts = np.zeros(len(us), dtype=np.int64)
    starts[falls + 1] = 1
    piece = np.cumsum(starts)[order]
    changes = int((np.diff(piece) != 0).sum())
    if changes <= max(_LATE * len(falls) + 1, 2 * _MIXED * len(us)):
        return None
    worst = int(falls[np.argmin(np.diff(us)[falls])])
    between_files = files[worst] != files[worst + 1]
    options = ("--device-column @file" if between_files else "--device-column", "--time-column", _FORCED)
    what = (
        f"the times fall back {count(len(falls), 'time')} and pass the same stretch again with other values"
    )
    return Doubt(f"{what}: was the clock set, or are there several devices?", options, _shown(us, worst))


def _far_away(us: Ints, files: NDArray[np.int64], order: Ints) -> Doubt | None:
    """A doubt where rows far from all others stand in the same file on the wrong side of them."""
    gaps = np.diff(us[order])
    if not (gaps > 0).any():
        return None
    far = gaps > max(_FAR_US, _FAR_STEPS * float(np.median(gaps[gaps > 0])))
    group = np.empty(len(us), dtype=np.int64)
    group[order] = np.concatenate([[0], np.cumsum(far)])
    wrong = np.flatnonzero((np.diff(group) < 0) & (np.diff(files) == 0))
    if not len(wrong):
        return None
    at = int(wrong[0])
    sizes = np.bincount(group)
    lost = group[at] if sizes[group[at]] < sizes[group[at + 1]] else group[at + 1]
    rows = count(int(sizes[lost]), "row")
    what = f"{rows} lie far from the others in time and stand on their wrong side in the file"
    return Doubt(f"{what}: was the clock set?", ("--time-column", _FORCED), _shown(us, at))


def _shown(us: Ints, at: int) -> tuple[str, ...]:
    """The rows around a fall."""
    before, after = (instant(from_us(int(us[i]))) for i in (at, at + 1))
    return (f"{before}, then {after}",)
