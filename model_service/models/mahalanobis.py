"""The anomaly model: how far a window lies from healthy ones, in shrunk Mahalanobis distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model_service.models.graph import GraphWriter, nan_where_missing
from model_service.models.rounding import rounded, rounded_number
from schemas.errors import BundleError
from schemas.manifest import Calibration, Manifest

Array = NDArray[np.float64]

SHRINKAGE = 0.2
"""Weight of the identity in the correlation matrix, so that no direction has (almost) no spread."""
SMALLEST = 1e-6
"""Features are raised to this before their logarithm is taken."""
HEALTHY_SCORE = 0.4
"""Score of the distance that one healthy window in a thousand exceeds."""
SLOPE = 3.0


@dataclass(frozen=True, slots=True)
class Mahalanobis:
    """Fitted parameters, rounded: the same on every machine that trains them.

    Attributes:
        logged: Which features are taken as logarithms, shape (F,).
        mean: Of the features, logarithms taken, shape (F,).
        std: Of the same, shape (F,).
        whitening: Shape (F, F): standardised features times it have unit covariance.
        calibration: From distance to score.
    """

    logged: NDArray[np.bool_]
    mean: Array
    std: Array
    whitening: Array
    calibration: Calibration

    def distance(self, features: Array) -> Array:
        """Distance of each row of (n, F); NaN where a feature is missing."""
        return np.asarray(np.sqrt(((self.standardised(features) @ self.whitening) ** 2).sum(axis=1)))

    def score(self, features: Array) -> Array:
        """Score in [0, 1] of each row of (n, F); NaN where a feature is missing."""
        return calibrated(self.distance(features), self.calibration)

    def standardised(self, features: Array) -> Array:
        """Features of (n, F) as standard deviations from their means, logarithms taken."""
        return np.asarray((logarithms(features, self.logged) - self.mean) / self.std)

    def unstandardised(self, z: Array) -> Array:
        """Features of rows (n, F) given as standard deviations: the inverse of ``standardised``."""
        x = z * self.std + self.mean
        return np.asarray(np.where(self.logged, np.exp(np.where(self.logged, x, 0.0)), x))

    def correlation(self) -> Array:
        """The (shrunk) correlation matrix behind the whitening, shape (F, F)."""
        return np.asarray(np.linalg.inv(self.whitening @ self.whitening.T))

    def moved_to(self, mean: Array, std: Array) -> Mahalanobis:
        """The model in a regime of this centre and spread; spread that grew is independent of all else."""
        # D: share of each spread that was known. New spread is independent, so R' = D R D + (I - D²), which
        # stays positive definite.
        known = np.minimum(self.std / std, 1.0)
        return self._grown(mean, std, self.correlation() * np.outer(known, known))

    def moved_by_one_cause(self, mean: Array, std: Array) -> Mahalanobis:
        """The same, where all spread that grew has one cause: its features go together, each as it moved."""
        # R' = D R D + g g', g the new share of each spread with the sign of its shift: positive definite too.
        known = np.minimum(self.std / std, 1.0)
        grown = np.sqrt(1.0 - known**2) * np.sign(mean - self.mean)
        return self._grown(mean, std, self.correlation() * np.outer(known, known) + np.outer(grown, grown))

    def _grown(self, mean: Array, std: Array, correlation: Array) -> Mahalanobis:
        np.fill_diagonal(correlation, 1.0)
        return Mahalanobis(self.logged, mean, std, whitening_of(correlation), self.calibration)

    def calibrated_by(self, calibration: Calibration) -> Mahalanobis:
        """The same model with another map from distance to score."""
        return replace(self, calibration=calibration)

    def write(self, writer: GraphWriter, features: str) -> str:
        """Adds the model to a graph: (B, F) features to (B,) score."""
        return write_score(writer, features, self)

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """Everything but the calibration, as a manifest holds it."""
        parts = {
            "logged": self.logged.astype(float),
            "mean": self.mean,
            "std": self.std,
            "whitening": self.whitening.ravel(),
        }
        return {name: tuple(values.tolist()) for name, values in parts.items()}

    @classmethod
    def of(cls, manifest: Manifest) -> Mahalanobis:
        """The model whose parameters a manifest holds.

        Raises:
            BundleError: It holds none, or they do not fit the number of its features.
        """
        try:
            parts = {k: np.array(manifest.parameters[k]) for k in ("logged", "mean", "std", "whitening")}
            f = len(manifest.features)
            whitening = parts["whitening"].reshape(f, f)
        except (KeyError, ValueError) as exc:
            raise BundleError(
                f"model {manifest.version}: its manifest holds no parameters of an anomaly model"
            ) from exc
        if any(len(parts[k]) != f for k in ("logged", "mean", "std")):
            raise BundleError(f"model {manifest.version}: its parameters do not fit {f} features")
        return cls(parts["logged"] > 0, parts["mean"], parts["std"], whitening, manifest.calibration)


def whitening_of(correlation: Array) -> Array:
    """Matrix that gives rows of this correlation unit covariance, rounded."""
    return rounded(_inverse_lower(_cholesky(correlation)).T)


def fit(features: Array, logged: Sequence[bool]) -> Mahalanobis:
    """The model of healthy windows.

    Args:
        features: Shape (n, F), finite.
        logged: Which features are strictly positive scales, which are closer to normal as logarithms.
    """
    mask = np.array(logged, dtype=bool)
    x = logarithms(features, mask)
    mean, std = rounded(x.mean(axis=0)), rounded(x.std(axis=0))
    z = (x - mean) / std
    correlation = z.T @ z / len(z)
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(mean))
    whitening = whitening_of(shrunk)
    # The score of HEALTHY_SCORE is given to the distance that one healthy window in a thousand exceeds.
    raw = Mahalanobis(mask, mean, std, whitening, Calibration(middle=1.0, slope=SLOPE))
    healthy = float(np.quantile(raw.distance(features), 0.999))
    middle = healthy * ((1 - HEALTHY_SCORE) / HEALTHY_SCORE) ** (1 / SLOPE)
    calibration = Calibration(
        middle=rounded_number(middle), slope=SLOPE, healthy_p999=rounded_number(healthy)
    )
    return Mahalanobis(mask, mean, std, whitening, calibration)


def calibrated(distance: Array, calibration: Calibration) -> Array:
    """d^s / (d^s + m^s), NaN for NaN."""
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(1.0 / (1.0 + np.power(calibration.middle / distance, calibration.slope)))


def write_score(writer: GraphWriter, features: str, model: Mahalanobis) -> str:
    """Adds the model to a graph: (B, F) features to (B,) score."""
    logs = writer.op("Log", writer.op("Max", features, writer.floats(SMALLEST)))
    x = writer.op("Where", writer.constant(model.logged), logs, features)
    centred = writer.op("Sub", x, writer.constant(model.mean.astype(np.float32)))
    z = writer.op("Div", centred, writer.constant(model.std.astype(np.float32)))
    white = writer.op("MatMul", z, writer.constant(model.whitening.astype(np.float32)))
    square = writer.op("ReduceSum", writer.op("Mul", white, white), writer.ints(1), keepdims=0)
    score = write_calibration(writer, writer.op("Sqrt", square), model.calibration)
    return nan_where_missing(writer, features, score)


def write_calibration(writer: GraphWriter, distance: str, calibration: Calibration) -> str:
    """Adds ``calibrated`` to a graph, written as a logistic function of the logarithm of the distance."""
    logarithm = writer.op("Log", writer.op("Div", distance, writer.floats(calibration.middle)))
    return writer.op("Sigmoid", writer.op("Mul", logarithm, writer.floats(calibration.slope)))


def logarithms(features: Array, mask: NDArray[np.bool_]) -> Array:
    """Features of (n, F), those of the mask as logarithms."""
    # np.maximum passes NaN through: a missing feature stays missing.
    return np.asarray(np.where(mask, np.log(np.maximum(features, SMALLEST)), features))


def _cholesky(matrix: Array) -> Array:
    """Lower factor. Written out: BLAS libraries differ in the last bits, plain loops do not."""
    n = len(matrix)
    lower = np.zeros_like(matrix)
    for i in range(n):
        for j in range(i + 1):
            rest = matrix[i, j] - float((lower[i, :j] * lower[j, :j]).sum())
            lower[i, j] = math.sqrt(rest) if i == j else rest / lower[j, j]
    return lower


def _inverse_lower(lower: Array) -> Array:
    """Inverse of a lower triangular matrix, by forward substitution."""
    n = len(lower)
    inverse = np.zeros_like(lower)
    for i in range(n):
        unit = np.zeros(n)
        unit[i] = 1.0
        inverse[i] = (unit - lower[i, :i] @ inverse[:i]) / lower[i, i]
    return inverse
