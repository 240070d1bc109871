"""The score of the Numenta Anomaly Benchmark, standard profile. Pure.

Lavin and Ahmad (2015), as in NAB's own code: within a window of labels only the earliest detection counts,
and more the earlier it is; each other detection costs, more the farther it lies behind the window before it.
A silent detector has 0, a perfect one 100. The first 15 % of a file, at most 750 rows, do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

FALSE_POSITIVE = 0.11
"""Weight of a false detection in the standard profile; a hit and a miss weigh 1."""
PROBATION_SHARE, PROBATION_ROWS = 0.15, 750


@dataclass(frozen=True, slots=True, eq=False)
class NabFile:
    """One file's labels.

    Attributes:
        rows: Number of rows.
        windows: First and last row of each labelled window.
    """

    rows: int
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """Rows at the beginning that do not count, and may be learnt from."""
        return min(int(PROBATION_SHARE * self.rows), PROBATION_ROWS)


def nab_score(found: Sequence[tuple[NabFile, Flags]]) -> float:
    """The score over several files.

    Args:
        found: Per file its labels, and which rows the detector alarmed at, shape (rows,).
    """
    windows = sum(len(file.windows) for file, _ in found)
    raw = sum(_raw(file, alarms) for file, alarms in found)
    return 100 * (raw + windows) / (2 * windows)


def best_threshold(found: Sequence[tuple[NabFile, Array]], steps: int = 200) -> tuple[float, float]:
    """Score and threshold of the best single threshold over all files, as NAB reports detectors.

    Args:
        found: Per file its labels, and a score a row, shape (rows,).
        steps: Thresholds that are tried.
    """
    every = np.unique(np.concatenate([s[f.probation :] for f, s in found]))
    tried = every if len(every) <= steps else np.quantile(every, np.linspace(0, 1, steps) ** 0.2)
    return max((nab_score([(f, s >= t) for f, s in found]), float(t)) for t in tried)


def _raw(file: NabFile, alarms: Flags) -> float:
    counted = np.flatnonzero(alarms & (np.arange(file.rows) >= file.probation))
    total, hit = 0.0, set()
    for row in counted.tolist():
        inside = next((w for w in file.windows if w[0] <= row <= w[1]), None)
        if inside is None:
            total += FALSE_POSITIVE * _behind(file, row)
        elif inside not in hit:
            hit.add(inside)
            first, last = inside
            total += _sigmoid(-(last - row + 1) / (last - first + 1)) / _sigmoid(-1.0)
    return total - (len(file.windows) - len(hit))


def _behind(file: NabFile, row: int) -> float:
    before = [w for w in file.windows if w[1] < row]
    if not before:
        return -1.0
    first, last = before[-1]
    return _sigmoid((row - last) / max(last - first, 1))


def _sigmoid(position: float) -> float:
    return -1.0 if position > 3.0 else 2 / (1 + math.exp(5 * position)) - 1
