"""Rows of features with the recent level of each feature behind: what detectors of short sequences read.

A row has F numbers, or 2F: the window's features, then their recent levels before it, NaN where they are not
known (``schemas/recent_level.py``). Detectors of single windows never see the second half.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from model_service.models.fault_bank import FaultBank

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

RECENT_WEIGHT = "recent"
"""Setting of a detector that reads recent levels: weight of the newest window."""
LASTED = 12
"""Windows after which a fault that lasts is tried once more: its recent level has followed by then."""


@runtime_checkable
class ReadsRecent(Protocol):
    """A model that reads recent levels."""

    @property
    def recent(self) -> float:
        """Weight of the newest window in them, in (0, 1]."""
        ...


def weight_read(model: object) -> float:
    """Weight of the newest window in the recent levels that a model reads; 0: it reads none."""
    return model.recent if isinstance(model, ReadsRecent) else 0.0


def weight_set(settings: Mapping[str, float]) -> float:
    """The same of a detector's settings."""
    return settings.get(RECENT_WEIGHT, 0.0)


def parts(rows: Array, width: int) -> tuple[Array, Array]:
    """Features of rows, and their recent levels: a window's own where one is not known; both (n, width)."""
    features, recent = rows[:, :width], rows[:, width:]
    if not recent.shape[1]:
        return features, features
    return features, np.where(np.isnan(recent), features, recent)


def known(rows: Array, width: int) -> Flags:
    """Which rows have every recent level, shape (n,)."""
    recent = rows[:, width:]
    return np.asarray((recent.shape[1] > 0) & np.isfinite(recent).all(axis=1))


def with_fault(bank: FaultBank, rows: Array, kind: str, severity: float, weight: float) -> Array:
    """Rows as they would be with a fault.

    Args:
        bank: Has the fault.
        rows: Shape (n, F), or (n, 2F) with recent levels.
        kind: Of the fault.
        severity: Of the fault.
        weight: Of the newest window in the recent levels; 0: there are none.

    Returns:
        Shape (n, F); with recent levels (2n, 2F): as the fault begins, and after ``LASTED`` windows, when the
        recent level has followed as far as it does.
    """
    width = len(bank.logged)
    faulty, recent = bank.inject(rows[:, :width], kind, severity), rows[:, width:]
    if not weight or not recent.shape[1]:
        return faulty
    followed = 1 - (1 - weight) ** LASTED
    lasted = recent + followed * (bank.inject(recent, kind, severity) - recent)
    return np.vstack([np.hstack([faulty, recent]), np.hstack([faulty, lasted])])
