"""The rows that gates judge on, and how models score them, device by device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model_service.models.classifier import is_fault
from model_service.models.fault_bank import FaultBank

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

Score = Callable[[Array], Array]
"""Scores of rows of features (n, F), shape (n,); NaN: none."""

LABELLED = "labelled"
"""Name of the real faults among the kinds of the fault bank."""
KEY = ("device_id", "boot_id", "seq")


@dataclass(frozen=True, slots=True, eq=False)
class HoldoutRows:
    """Complete rows of several devices.

    Attributes:
        features: Shape (n, F), finite.
        weights: What each stands for, shape (n,), positive.
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
        healthy: Rows of no fault.
        labelled: Rows that a label calls faulty; may be empty.
        devices: Name of each device number.
        cohorts: Cohort of each device, where known.
    """

    healthy: HoldoutRows
    labelled: HoldoutRows
    devices: tuple[str, ...]
    cohorts: Mapping[str, str]

    def faults(self, bank: FaultBank | None, base: HoldoutRows | None = None) -> dict[str, list[HoldoutRows]]:
        """Faulty rows by kind: the bank's, one set a severity, injected into healthy ones, and real ones.

        Args:
            bank: Faults to inject; None: none are known.
            base: Into what; None: the healthy rows, and only then are real faults among the kinds.
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
        champion: Likewise.
        evidence: The holdout.
        bank: Faults to inject; None: only labelled ones are known.
        enter: Score from which a window counts as an alarm.
    """

    candidate: Score
    champion: Score
    evidence: Holdout
    bank: FaultBank | None
    enter: float

    @property
    def devices(self) -> int:
        """Devices that the evidence numbers."""
        return len(self.evidence.devices)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which of them have healthy rows."""
        return np.asarray(np.bincount(self.evidence.healthy.device, minlength=self.devices) > 0)

    @property
    def drawable(self) -> NDArray[np.bool_]:
        """Which of them have any rows; real faults may be of devices without healthy ones."""
        labelled = np.bincount(self.evidence.labelled.device, minlength=self.devices) > 0
        return np.asarray(self.present | labelled)


def evidence_of(holdout: pa.Table, features: Sequence[str], cohorts: Mapping[str, str]) -> Holdout:
    """Evidence of holdout rows; rows that lack a feature say nothing and are left out.

    Args:
        holdout: As ``feature_store.point_in_time.training_rows`` gives them.
        features: Feature names in the models' order.
        cohorts: Cohort by device.
    """
    table = holdout.sort_by([(name, "ascending") for name in KEY])
    values = np.stack([_floats(table, name) for name in features], axis=1)
    weights = _floats(table, "weight")
    whole = np.isfinite(values).all(axis=1) & (weights > 0)
    names, device = np.unique(np.array(table.column("device_id").to_pylist(), dtype=str), return_inverse=True)
    faulty = np.array([is_fault(label) for label in table.column("label").to_pylist()], dtype=bool)
    parts = [HoldoutRows(values[m], weights[m], device[m]) for m in (whole & ~faulty, whole & faulty)]
    return Holdout(parts[0], parts[1], tuple(names.tolist()), cohorts)


def part(rows: pa.Table, name: str) -> pa.Table:
    """Rows of one part."""
    return rows.filter(pc.equal(rows.column("part"), name))


def _floats(table: pa.Table, name: str) -> Array:
    column = table.column(name).cast(pa.float64()).fill_null(float("nan"))
    return np.asarray(column.to_numpy(), dtype=np.float64)
