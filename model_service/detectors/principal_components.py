"""PCA: how far a window lies within the healthy subspace (Hotelling's T²) and beside it (Q, the residual).

Both are divided by their healthy limits and added, the combined index of Yue and Qin (2001): one number sees
a usual pattern of unusual size and an unusual pattern of usual size alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.detector import DetectorKind, Settings
from model_service.detectors.scaling import WANDER, OnScaling, Scaling, calibration_of, vector
from model_service.detectors.symmetric_eigen import eigen
from model_service.models.graph import GraphWriter, nan_where_missing
from model_service.models.mahalanobis import calibrated, write_calibration
from model_service.models.rounding import rounded, rounded_number
from schemas.errors import BundleError
from schemas.manifest import Calibration, Manifest

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

LIMIT_SHARE = 0.99
"""Share of healthy windows below the limits of T² and of Q."""
LEAST_LIMIT = 1e-6


@dataclass(frozen=True, slots=True)
class PrincipalComponents(OnScaling):
    """Healthy subspace and its limits.

    Attributes:
        scores: Shape (F, k): z times it gives k uncorrelated numbers of variance 1.
        residual: Shape (F, F): z times it is what the subspace does not explain.
        t2_limit, q_limit: Of healthy windows.
    """

    scaling: Scaling
    scores: Array
    residual: Array
    t2_limit: float
    q_limit: float
    calibration: Calibration

    def t2(self, features: Array) -> Array:
        """Hotelling's T² of each row of (n, F)."""
        return np.asarray(((self.scaling.z(features) @ self.scores) ** 2).sum(axis=1))

    def q(self, features: Array) -> Array:
        """Squared residual of each row of (n, F), in spreads."""
        return np.asarray(((self.scaling.z(features) @ self.residual) ** 2).sum(axis=1))

    def distance(self, features: Array) -> Array:
        """Root of T² and Q in units of their limits, shape (n,)."""
        return np.asarray(np.sqrt(self.t2(features) / self.t2_limit + self.q(features) / self.q_limit))

    def score(self, features: Array) -> Array:
        """See ``AnomalyDetector.score``."""
        return calibrated(self.distance(features), self.calibration)

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """See ``AnomalyDetector.parameters``."""
        parts = {"scores": self.scores.ravel(), "residual": self.residual.ravel()}
        limits = {"limits": (self.t2_limit, self.q_limit)}
        return self.scaling.parameters() | {n: tuple(v.tolist()) for n, v in parts.items()} | limits

    def moved_to(self, mean: Array, std: Array) -> PrincipalComponents:
        """See ``AdaptableModel.moved_to``."""
        return replace(self, scaling=Scaling(self.scaling.logged, mean, std))

    def calibrated_by(self, calibration: Calibration) -> PrincipalComponents:
        """See ``AnomalyDetector.calibrated_by``."""
        return replace(self, calibration=calibration)

    def write(self, writer: GraphWriter, features: str) -> str:
        """See ``AnomalyDetector.write``."""
        z = self.scaling.write(writer, features)
        t2 = _squares(writer, z, self.scores, self.t2_limit)
        q = _squares(writer, z, self.residual, self.q_limit)
        distance = writer.op("Sqrt", writer.op("Add", t2, q))
        return nan_where_missing(writer, features, write_calibration(writer, distance, self.calibration))


def fit_components(features: Array, logged: Flags, settings: Settings) -> PrincipalComponents:
    """The detector of healthy rows (n, F).

    Args:
        features: Finite.
        logged: Which features are taken as logarithms, shape (F,).
        settings: ``explained``: share of the variance that the subspace holds.
    """
    scaling = Scaling.moments(features, logged, settings.get(WANDER, 0.0))
    z = scaling.z(features)
    values, vectors = eigen(rounded(z.T @ z / len(z), digits=9))
    explained = np.cumsum(values) / values.sum()
    kept = int(np.searchsorted(explained, settings["explained"] - 1e-9)) + 1
    kept = min(kept, len(values))
    basis = vectors[:, :kept]
    scores = rounded(basis / np.sqrt(np.maximum(values[:kept], LEAST_LIMIT)))
    residual = np.eye(len(values)) - basis @ basis.T
    # What is left of the rounding of a subspace that holds everything must not count as a residual.
    residual = rounded(np.where(np.abs(residual) < LEAST_LIMIT, 0.0, residual))
    raw = PrincipalComponents(scaling, scores, residual, 1.0, 1.0, Calibration(middle=1.0, slope=1.0))
    limits = [float(np.quantile(part, LIMIT_SHARE)) for part in (raw.t2(features), raw.q(features))]
    t2_limit, q_limit = (rounded_number(max(limit, LEAST_LIMIT)) for limit in limits)
    raw = replace(raw, t2_limit=t2_limit, q_limit=q_limit)
    return raw.calibrated_by(calibration_of(raw.distance(features)))


def components_of(manifest: Manifest) -> PrincipalComponents:
    """The detector whose parameters a manifest holds.

    Raises:
        BundleError: It holds none, or they do not fit its features.
    """
    scaling, width = Scaling.of(manifest), len(manifest.features)
    try:
        scores = vector(manifest, "scores").reshape(width, -1)
        residual = vector(manifest, "residual").reshape(width, width)
        t2_limit, q_limit = vector(manifest, "limits").tolist()
    except ValueError as exc:
        raise BundleError(f"model {manifest.version}: parameters of other features") from exc
    return PrincipalComponents(scaling, scores, residual, t2_limit, q_limit, manifest.calibration)


def _squares(writer: GraphWriter, z: str, matrix: Array, limit: float) -> str:
    product = writer.op("MatMul", z, writer.constant(matrix.astype(np.float32)))
    total = writer.op("ReduceSum", writer.op("Mul", product, product), writer.ints(1), keepdims=0)
    return writer.op("Div", total, writer.floats(limit))


PCA = DetectorKind(
    "pca",
    "T² within the healthy subspace and Q beside it",
    ({"explained": 0.9}, {"explained": 0.7}, {"explained": 0.97}),
    fit_components,
    components_of,
)
