"""Rows of the lake as arrays, in an order that follows from their identity alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model_service.models.adapt import RegimeRows
from schemas.errors import DatasetError
from schemas.profile import Profile

Array = NDArray[np.float64]

ROW_KEY = ("device_id", "boot_id", "seq")
"""Identity of a row; rows are sorted by it before anything is added up."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRows:
    """The rows that may train, complete and sorted.

    Attributes:
        rows: As numbers.
        labels: Label of each row, None: none.
    """

    rows: RegimeRows
    labels: tuple[str | None, ...]


def training_part(rows: pa.Table, profile: Profile) -> TrainingRows:
    """Rows of part ``train`` with every feature, in the order of their identity.

    Raises:
        DatasetError: Rows of fewer than two devices are left.
    """
    table = part_of(rows, "train") if "part" in rows.column_names else rows
    table = sorted_rows(table)
    features = feature_matrix(table, profile.feature_names)
    weights = floats(table, "weight")
    usable = np.isfinite(features).all(axis=1) & (weights > 0)
    names, device = np.unique(np.array(table.column("device_id").to_pylist())[usable], return_inverse=True)
    if len(names) < 2:
        raise DatasetError(
            f"{int(usable.sum())} complete rows of {len(names)} devices: two devices are needed to know how "
            "devices differ"
        )
    labels = table.column("label").to_pylist() if "label" in table.column_names else [None] * len(usable)
    kept = tuple(label for label, ok in zip(labels, usable, strict=True) if ok)
    return TrainingRows(RegimeRows(features[usable], weights[usable], device, len(names)), kept)


def part_of(rows: pa.Table, name: str) -> pa.Table:
    """Rows of one part: ``train`` or ``holdout``."""
    return rows.filter(pc.equal(rows.column("part"), name))


def sorted_rows(rows: pa.Table) -> pa.Table:
    """The rows in the order of their identity: the order of the lake must not reach any sum."""
    return rows.sort_by([(name, "ascending") for name in ROW_KEY])


def feature_matrix(rows: pa.Table, names: Sequence[str]) -> Array:
    """Shape (n, F); NaN where a feature is missing."""
    return np.stack([floats(rows, name) for name in names], axis=1)


def floats(rows: pa.Table, name: str) -> Array:
    """A column in float64; NaN where it is null."""
    column = rows.column(name).cast(pa.float64()).fill_null(float("nan"))
    return np.asarray(column.to_numpy(), dtype=np.float64)
