"""The door to scikit-learn: where labels exist, a forest that gives the probability of a labelled fault.

A random forest and not boosting: with a few dozen labelled rows it kept more recall on faults without any
label (docs/adr/0013), it trains in 0.1 s, and its conversion needs no shim for protobuf 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feature_store.labels import is_healthy
from model_service.models.adapt import RegimeRows
from model_service.models.feature_graph import graph_inputs, graph_outputs, write_profile_features
from model_service.models.graph import ML_DOMAIN, ML_OPSET, OPSET, GraphWriter, nan_where_missing
from schemas.errors import DatasetError
from schemas.profile import Profile

# scikit-learn and its converter take two seconds and 150 MB to load. They are loaded where a forest is
# trained: three of the model service's processes, and every test of it, do without.
if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

Array = NDArray[np.float64]

MIN_CLASS_ROWS = 20
"""Rows that each class needs: with fewer, a forest is worse than the anomaly model."""
MIN_CLASS_DEVICES = 2
_TREES, _DEPTH, _LEAF = 100, 6, 3


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A trained forest.

    Attributes:
        forest: Classes 0 healthy and 1 fault.
        width: Number of features.
    """

    forest: RandomForestClassifier
    width: int

    def score(self, features: Array) -> Array:
        """Probability of a fault in each row of (n, F), by scikit-learn; NaN where a feature is missing."""
        complete = np.isfinite(features).all(axis=1)
        score = np.full(len(features), math.nan)
        if complete.any():
            score[complete] = self.forest.predict_proba(features[complete].astype(np.float32))[:, 1]
        return score

    def graph(self, profile: Profile) -> bytes:
        """The graph's bytes: raw window in, features and score out."""
        writer = GraphWriter()
        score = self._write_score(writer, write_profile_features(writer, profile))
        writer.op("Identity", score, output="score")
        return writer.build(profile.model.family, graph_inputs(profile), graph_outputs(profile))

    def _write_score(self, writer: GraphWriter, features: str) -> str:
        spliced = writer.splice(_converted(self.forest, self.width), {"features": features})
        fault = writer.op("Gather", spliced["probabilities"], writer.integer(1), axis=1)
        # A sum of float32 trees may come to 1.0000001.
        clipped = writer.op("Clip", fault, writer.floats(0.0), writer.floats(1.0))
        return nan_where_missing(writer, features, clipped)


def is_fault(label: str | None) -> bool:
    """Whether a row with this label shows a fault; without a label (and alarm) a row counts as healthy."""
    return label is not None and not is_healthy(label)


def enough_labels(labels: Sequence[str | None], devices: Sequence[object]) -> bool:
    """Whether rows with these labels, of these devices, can train a classifier."""
    for wanted in (False, True):
        of_class = [d for label, d in zip(labels, devices, strict=True) if is_fault(label) == wanted]
        if len(of_class) < MIN_CLASS_ROWS or len(set(of_class)) < MIN_CLASS_DEVICES:
            return False
    return True


def train_classifier(rows: RegimeRows, labels: Sequence[str | None], seed: int) -> Classifier:
    """The forest. Both classes get the same total weight; within a class, rows keep their own weights.

    Raises:
        DatasetError: Too few rows or devices of a class.
    """
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415  (dear to load)

    if not enough_labels(labels, rows.device.tolist()):
        raise DatasetError(
            f"a classifier needs {MIN_CLASS_ROWS} rows of {MIN_CLASS_DEVICES} devices of each class: "
            f"{sum(map(is_fault, labels))} of {len(labels)} rows are labelled as a fault"
        )
    y = np.array([int(is_fault(label)) for label in labels])
    mass = np.bincount(y, rows.weights, minlength=2)
    weights = rows.weights / mass[y] * len(y) / 2
    forest = RandomForestClassifier(
        _TREES, max_depth=_DEPTH, min_samples_leaf=_LEAF, random_state=seed % 2**32, n_jobs=1
    )
    forest.fit(rows.features.astype(np.float32), y, sample_weight=weights)
    return Classifier(forest, rows.features.shape[1])


def _converted(forest: RandomForestClassifier, width: int) -> Any:
    """The forest as ``GraphProto``: input ``features``, output ``probabilities``."""
    from skl2onnx import convert_sklearn  # noqa: PLC0415  (dear to load)
    from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415

    model = convert_sklearn(
        forest,
        initial_types=[("features", FloatTensorType([None, width]))],
        options={id(forest): {"zipmap": False}},
        target_opset={"": OPSET, ML_DOMAIN: ML_OPSET},
    )
    return model.graph
