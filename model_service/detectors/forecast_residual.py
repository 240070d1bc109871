"""The residual of a one-step forecast: how far a window lies from what the windows just before foretell.

What wanders, as a temperature does, is foretold by its recent level; what does not is foretold by its healthy
centre. How much of each counts is fitted, feature by feature. So a level that wanders slowly is no fault, a
step in it is one as long as the recent level has not followed, and a step in anything else stays one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.detector import DetectorKind, Settings
from model_service.detectors.scaling import WANDER, OnScaling, Scaling, calibration_of, vector, wandered
from model_service.models.graph import GraphWriter, nan_where_missing
from model_service.models.mahalanobis import calibrated, logarithms, whitening_of, write_calibration
from model_service.models.recent_rows import RECENT_WEIGHT, known, parts
from model_service.models.rounding import rounded
from schemas.errors import BundleError
from schemas.manifest import Calibration, Manifest
from schemas.recent_level import RECENT

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEAST_PAIRS = 20
"""Windows with a recent level from which a forecast can be fitted."""
RIDGE = 4.0
"""Windows that speak against any forecast: of few windows the healthy centre foretells more."""


@dataclass(frozen=True, slots=True)
class ForecastResidual(OnScaling):
    """Healthy centre and spread, how much of the recent level foretells, and how residuals are spread.

    Attributes:
        recent: Weight of the newest window in the recent level.
        carried: Share of a recent deviation that is still there a window later, shape (F,), in [0, 1].
        whitening: Shape (F, F): residuals times it have unit covariance.
    """

    scaling: Scaling
    recent: float
    carried: Array
    whitening: Array
    calibration: Calibration

    def distance(self, rows: Array) -> Array:
        """Distance of each row, shape (n,): NaN where a feature is missing.

        Args:
            rows: Shape (n, F), or (n, 2F) with the recent levels behind; where one is not known the window's
                own stands for it, so that what wanders is not judged.
        """
        return np.asarray(np.sqrt(((self._residual(rows) @ self.whitening) ** 2).sum(axis=1)))

    def score(self, rows: Array) -> Array:
        """See ``AnomalyDetector.score``; rows as for ``distance``."""
        return calibrated(self.distance(rows), self.calibration)

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """See ``AnomalyDetector.parameters``."""
        parts = {"carried": self.carried, "whitening": self.whitening.ravel()}
        return self.scaling.parameters() | {name: tuple(v.tolist()) for name, v in parts.items()}

    def moved_to(self, mean: Array, std: Array) -> ForecastResidual:
        """See ``AdaptableModel.moved_to``."""
        return replace(self, scaling=Scaling(self.scaling.logged, mean, std))

    def calibrated_by(self, calibration: Calibration) -> ForecastResidual:
        """See ``AnomalyDetector.calibrated_by``."""
        return replace(self, calibration=calibration)

    def write(self, writer: GraphWriter, features: str) -> str:
        """See ``AnomalyDetector.write``; the graph also has the input ``recent``."""
        recent = writer.op("Where", writer.op("IsNaN", RECENT), features, RECENT)
        now, before = (self.scaling.write(writer, rows) for rows in (features, recent))
        foretold = writer.op("Mul", before, writer.constant(self.carried.astype(np.float32)))
        residual = writer.op("Sub", now, foretold)
        white = writer.op("MatMul", residual, writer.constant(self.whitening.astype(np.float32)))
        square = writer.op("ReduceSum", writer.op("Mul", white, white), writer.ints(1), keepdims=0)
        score = write_calibration(writer, writer.op("Sqrt", square), self.calibration)
        return nan_where_missing(writer, features, score)

    def _residual(self, rows: Array) -> Array:
        features, recent = parts(rows, len(self.carried))
        return np.asarray(self.scaling.z(features) - self.scaling.z(recent) * self.carried)


def fit_forecast(rows: Array, logged: Flags, settings: Settings) -> ForecastResidual:
    """The detector of healthy rows with their recent levels (n, 2F).

    Args:
        rows: Features finite; a recent level that is not known is NaN, and its row shows no residual.
        logged: Which features are taken as logarithms, shape (F,).
        settings: ``recent``: weight of the newest window; ``shrinkage``: of the identity in the correlation.

    Raises:
        ValueError: Too few rows have a recent level.
    """
    pairs = rows[known(rows, len(logged))]
    if len(pairs) < LEAST_PAIRS:
        raise ValueError(
            f"{len(pairs)} of {len(rows)} windows follow another without a gap, and a forecast needs "
            f"{LEAST_PAIRS}"
        )
    features = rows[:, : len(logged)]
    scaling = Scaling.moments(features, logged)
    now, before = (scaling.z(part) for part in parts(pairs, len(logged)))
    carried = rounded(np.clip((now * before).sum(axis=0) / ((before**2).sum(axis=0) + RIDGE), 0.0, 1.0))
    residual = now - before * carried
    covariance = residual.T @ residual / len(residual)
    # What is not foretold of a wandering goes on growing: as far as a random walk takes it.
    grown = settings.get(WANDER, 0.0) * wandered(logarithms(features, logged)) / scaling.spread**2
    variance = np.maximum(np.diag(covariance) + (1 - carried) ** 2 * grown, SMALLEST_VARIANCE)
    spread = np.sqrt(variance)
    weight = settings["shrinkage"]
    correlation = (1 - weight) * covariance / np.outer(spread, spread)
    np.fill_diagonal(correlation, 1.0)
    whitening = rounded(whitening_of(correlation) / spread[:, np.newaxis])
    raw = ForecastResidual(
        scaling, settings[RECENT_WEIGHT], carried, whitening, Calibration(middle=1.0, slope=1.0)
    )
    return raw.calibrated_by(calibration_of(raw.distance(pairs)))


SMALLEST_VARIANCE = 1e-4
"""Of a residual, in units of the feature's: one that is foretold exactly must not alarm at the last bit."""


def forecast_of(manifest: Manifest) -> ForecastResidual:
    """The detector whose parameters a manifest holds.

    Raises:
        BundleError: It holds none, or they do not fit its features.
    """
    scaling, width = Scaling.of(manifest), len(manifest.features)
    carried, whitening = vector(manifest, "carried"), vector(manifest, "whitening")
    if len(carried) != width or len(whitening) != width * width:
        raise BundleError(f"model {manifest.version}: parameters of other features")
    square = whitening.reshape(width, width)
    return ForecastResidual(scaling, manifest.recent, carried, square, manifest.calibration)


FORECAST = DetectorKind(
    "forecast_residual",
    "distance from what the recent level of each feature foretells, in the covariance of such residuals",
    ({RECENT_WEIGHT: 0.03, "shrinkage": 0.2},),
    fit_forecast,
    forecast_of,
    follows=True,
)
