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
class PredictedMean:
    """The mean over devices of one number of each, in [-1, 1].

    Attributes:
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
        recall: Loss of recall on known faults, below 0 where more are detected; None: there were none.
        score, rise: Mean score of the new model, and by how much it lies above the old one's; None: an
            earlier release judged the model.
    """

    old: PredictedShare
    new: PredictedShare
    gained: PredictedShare
    lost: PredictedShare
    recall: PredictedMean | None = None
    score: PredictedMean | None = None
    rise: PredictedMean | None = None


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
        means = (_mean(stored.get(name)) for name in ("recall", "score", "rise"))
        return PredictedAlarms(old, new, gained, lost, *means)
    except (KeyError, TypeError, ValueError):
        return None


def _share(stored: Mapping[str, Any]) -> PredictedShare:
    value, windows = float(stored["value"]), float(stored["windows"])
    if not (0.0 <= value <= 1.0 and windows > 0 and math.isfinite(windows)):
        raise ValueError("a predicted share lies within 0 and 1, and rests on windows")
    return PredictedShare(value, windows)


def _mean(stored: Mapping[str, Any] | None) -> PredictedMean | None:
    if stored is None:
        return None
    return PredictedMean(float(stored["value"]), float(stored["spread"]), int(stored["devices"]))
