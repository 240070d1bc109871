"""What the gate predicted of a new model: how many alarms it gains and loses against the one before it.

The gate measures it on the rows that it judges on, with both models on the same rows. A right recalibration
changes the alarms by so much; only what lies beyond counts against a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from model_service.count_bounds import count_upper
from model_service.registry.registry_tables import gate_verdicts

GATE, KEY = "false_alarms", "predicted"
"""Gate whose verdict holds the prediction, and its key there."""


@dataclass(frozen=True)
class PredictedShare:
    """A share of windows.

    Attributes:
        value: Measured.
        windows: Independent windows that would show it as surely: devices and sampling weights make them
            fewer than were read.
    """

    value: float
    windows: float

    @property
    def guess(self) -> float:
        """The share where it was measured, and not 0 where nothing was seen: half an event more."""
        return self.value + 0.5 / max(self.windows, 1.0)

    def upper(self, alpha: float) -> float:
        """A share above it, at error probability alpha."""
        windows = max(self.windows, 1.0)
        return min(1.0, count_upper(self.value * windows, alpha) / windows)


@dataclass(frozen=True)
class PredictedLoss:
    """By how much the new model detects fewer known faults than the old one.

    Attributes:
        value: Mean over devices, in [-1, 1]; below 0: it detects more.
        spread: Standard deviation over devices.
        devices: Number of devices.
    """

    value: float
    spread: float
    devices: int


@dataclass(frozen=True)
class PredictedAlarms:
    """What the gate predicted.

    Attributes:
        old, new: Share of windows on which each model alarms.
        gained, lost: Share on which only the new, and only the old one does.
        recall: Loss of recall on known faults; None: there were none.
    """

    old: PredictedShare
    new: PredictedShare
    gained: PredictedShare
    lost: PredictedShare
    recall: PredictedLoss | None = None


def predicted_alarms(connection: Connection, version: str) -> PredictedAlarms | None:
    """The prediction of a version; None: the gate stored none."""
    detail = connection.execute(
        select(gate_verdicts.c.detail).where(gate_verdicts.c.version == version, gate_verdicts.c.gate == GATE)
    ).scalar_one_or_none()
    return None if detail is None else read_prediction(detail.get(KEY))


def read_prediction(stored: Mapping[str, Any] | None) -> PredictedAlarms | None:
    """The prediction in a verdict's detail; None: there is none that can be read."""
    if not isinstance(stored, Mapping):
        return None
    try:
        old, new, gained, lost = (_share(stored[name]) for name in ("old", "new", "gained", "lost"))
        return PredictedAlarms(old, new, gained, lost, _loss(stored.get("recall")))
    except (KeyError, TypeError, ValueError):
        return None


def _share(stored: Mapping[str, Any]) -> PredictedShare:
    value, windows = float(stored["value"]), float(stored["windows"])
    if not (0.0 <= value <= 1.0 and windows > 0 and math.isfinite(windows)):
        raise ValueError("a predicted share lies within 0 and 1, and rests on windows")
    return PredictedShare(value, windows)


def _loss(stored: Mapping[str, Any] | None) -> PredictedLoss | None:
    if stored is None:
        return None
    return PredictedLoss(float(stored["value"]), float(stored["spread"]), int(stored["devices"]))
