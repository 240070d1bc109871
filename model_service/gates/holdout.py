"""The rows that gates judge on, by device, and two models that score them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_service.models.classifier import is_fault
from model_service.models.fault_bank import FaultBank
from model_service.models.training_rows import feature_matrix, floats, sorted_rows

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

Score = Callable[[Array], Array]
"""From rows of features (n, F) to their scores (n,); NaN: no score."""

LABELLED = "labelled"
"""Kind of the faults that people labelled, beside the kinds of the fault bank."""


@dataclass(frozen=True, slots=True, eq=False)
class HoldoutRows:
    """Complete rows of several devices.

    Attributes:
        features: Shape (n, F), finite.
        weights: How many rows each one stands for, shape (n,), positive.
        device: Number of each row's device, shape (n,).
    """

    features: Array
    weights: Array
    device: Labels

    def with_features(self, features: Array) -> HoldoutRows:
        """The same rows with other features."""
        return HoldoutRows(features, self.weights, self.device)


@dataclass(frozen=True, slots=True, eq=False)
class Holdout:
    """The holdout: rows younger than all that trained the candidate.

    Attributes:
        healthy: Rows that no label marks as faulty.
        labelled: Rows that a label marks as faulty; may be empty.
        devices: Device ids in the order of their numbers.
        cohorts: Cohort by device id, where known.
    """

    healthy: HoldoutRows
    labelled: HoldoutRows
    devices: tuple[str, ...]
    cohorts: Mapping[str, str]

    def faults(self, bank: FaultBank | None, base: HoldoutRows | None = None) -> dict[str, list[HoldoutRows]]:
        """Faulty rows by kind, one set a severity: the bank's, injected into rows, and labelled ones.

        Args:
            bank: Faults to inject; None: none are known.
            base: Rows to inject them into; None: the healthy rows. Labelled faults are added only then.
        """
        rows = self.healthy if base is None else base
        kinds: dict[str, list[HoldoutRows]] = {}
        if bank is not None and len(rows.features):
            for kind in bank.kinds:
                injected = [bank.inject(rows.features, kind, s) for s in bank.severities(kind)]
                kinds[kind] = [rows.with_features(features) for features in injected]
        if base is None and len(self.labelled.features):
            kinds[LABELLED] = [self.labelled]
        return kinds


@dataclass(frozen=True, slots=True, eq=False)
class PairedScores:
    """Two models on the same rows.

    Attributes:
        candidate: Scores rows by the candidate's own operators.
        champion: Scores rows by the champion's own operators.
        holdout: The rows.
        bank: Faults to inject; None: only labelled ones are known.
        enter: Score from which a window counts as an alarm.
    """

    candidate: Score
    champion: Score
    holdout: Holdout
    bank: FaultBank | None
    enter: float

    @property
    def devices(self) -> int:
        """Number of devices of the holdout."""
        return len(self.holdout.devices)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which devices have healthy rows, shape (devices,)."""
        return np.asarray(np.bincount(self.holdout.healthy.device, minlength=self.devices) > 0)

    @property
    def drawable(self) -> NDArray[np.bool_]:
        """Which devices have any rows, shape (devices,); some may have labelled faults only."""
        labelled = np.bincount(self.holdout.labelled.device, minlength=self.devices) > 0
        return np.asarray(self.present | labelled)


def holdout_of(rows: pa.Table, features: Sequence[str], cohorts: Mapping[str, str]) -> Holdout:
    """The holdout as arrays, without rows that lack a feature.

    Args:
        rows: As ``feature_store.point_in_time.training_rows`` gives them, part ``holdout``.
        features: Feature names in the models' order.
        cohorts: Cohort by device.
    """
    table = sorted_rows(rows)
    values, weights = feature_matrix(table, features), floats(table, "weight")
    usable = np.isfinite(values).all(axis=1) & (weights > 0)
    names, device = np.unique(np.array(table.column("device_id").to_pylist(), dtype=str), return_inverse=True)
    faulty = np.array([is_fault(label) for label in table.column("label").to_pylist()], dtype=bool)
    parts = [HoldoutRows(values[m], weights[m], device[m]) for m in (usable & ~faulty, usable & faulty)]
    return Holdout(parts[0], parts[1], tuple(names.tolist()), cohorts)
