"""The robust reference as a detector: how far the farthest feature lies from its frozen healthy median.

The generic score `robust` measures the same against what each device learnt by itself; here the medians and
spreads come from a history and are constants of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.detector import DetectorKind, Settings
from model_service.detectors.scaling import WANDER, OnScaling, Scaling, calibration_of
from model_service.models.graph import GraphWriter, nan_where_missing
from model_service.models.mahalanobis import calibrated, write_calibration
from schemas.manifest import Calibration, Manifest

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RobustReference(OnScaling):
    """Median and spread of each feature in a history."""

    scaling: Scaling
    calibration: Calibration

    def distance(self, features: Array) -> Array:
        """Spreads between the farthest feature and its median, shape (n,)."""
        return np.asarray(np.abs(self.scaling.z(features)).max(axis=1))

    def score(self, features: Array) -> Array:
        """See ``AnomalyDetector.score``."""
        return calibrated(self.distance(features), self.calibration)

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """See ``AnomalyDetector.parameters``."""
        return self.scaling.parameters()

    def moved_to(self, mean: Array, std: Array) -> RobustReference:
        """See ``AdaptableModel.moved_to``."""
        return replace(self, scaling=Scaling(self.scaling.logged, mean, std))

    def calibrated_by(self, calibration: Calibration) -> RobustReference:
        """See ``AnomalyDetector.calibrated_by``."""
        return replace(self, calibration=calibration)

    def write(self, writer: GraphWriter, features: str) -> str:
        """See ``AnomalyDetector.write``."""
        off = writer.op("Abs", self.scaling.write(writer, features))
        distance = writer.op("ReduceMax", off, axes=[1], keepdims=0)
        score = write_calibration(writer, distance, self.calibration)
        return nan_where_missing(writer, features, score)


def fit_robust(features: Array, logged: Flags, settings: Settings) -> RobustReference:
    """The detector of healthy rows (n, F)."""
    raw = RobustReference(
        Scaling.robust(features, logged, settings.get(WANDER, 0.0)), Calibration(middle=1.0, slope=1.0)
    )
    return raw.calibrated_by(calibration_of(raw.distance(features)))


def robust_of(manifest: Manifest) -> RobustReference:
    """The detector whose parameters a manifest holds."""
    return RobustReference(Scaling.of(manifest), manifest.calibration)


ROBUST_REFERENCE = DetectorKind(
    "robust_reference",
    "the farthest feature, in robust spreads from its median",
    ({},),
    fit_robust,
    robust_of,
)
