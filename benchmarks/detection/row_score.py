"""Figures of a detector that calls each row faulty or not: F1 and the share of false alarms. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RowScore:
    """Figures over all rows of all files.

    Attributes:
        f1: Of the faulty rows.
        false_alarms: Share of the healthy rows that are called faulty.
        missed: Share of the faulty rows that are not.
    """

    f1: float
    false_alarms: float
    missed: float


def row_score(found: Sequence[tuple[Flags, Flags]]) -> RowScore:
    """The figures.

    Args:
        found: Per file which rows are faulty, and which are called faulty.
    """
    truth = np.concatenate([t for t, _ in found])
    said = np.concatenate([s for _, s in found])
    hit, false = int((truth & said).sum()), int((~truth & said).sum())
    missed = int((truth & ~said).sum())
    return RowScore(
        2 * hit / max(2 * hit + false + missed, 1),
        false / max(int((~truth).sum()), 1),
        missed / max(int(truth.sum()), 1),
    )


def always(found: Sequence[tuple[Flags, Flags]]) -> RowScore:
    """Of a detector that always alarms."""
    return row_score([(truth, np.ones_like(truth)) for truth, _ in found])
