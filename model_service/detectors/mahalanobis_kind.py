"""The shrunk Mahalanobis distance among the detectors: `models/mahalanobis.py` under the common interface."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.detector import DetectorKind, Settings
from model_service.detectors.scaling import WANDER, Scaling, calibration_of
from model_service.models.mahalanobis import Mahalanobis, whitening_of
from schemas.manifest import Calibration

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]


def fit_mahalanobis(features: Array, logged: Flags, settings: Settings) -> Mahalanobis:
    """The detector of healthy rows (n, F).

    Args:
        features: Finite.
        logged: Which features are taken as logarithms, shape (F,).
        settings: ``shrinkage``: weight of the identity in the correlation matrix.
    """
    scaling = Scaling.moments(features, logged, settings.get(WANDER, 0.0))
    weight = settings["shrinkage"]
    z = scaling.z(features)
    shrunk = (1 - weight) * (z.T @ z / len(z))
    # Features that never moved have a variance near 0 after the floor of their spread: here it is 1.
    np.fill_diagonal(shrunk, 1.0)
    whitening = whitening_of(shrunk)
    raw = Mahalanobis(logged, scaling.centre, scaling.spread, whitening, Calibration(middle=1.0, slope=1.0))
    return raw.calibrated_by(calibration_of(raw.distance(features)))


MAHALANOBIS = DetectorKind(
    "mahalanobis",
    "distance from the healthy mean, in the healthy covariance",
    ({"shrinkage": 0.2}, {"shrinkage": 0.5}, {"shrinkage": 0.05}),
    fit_mahalanobis,
    Mahalanobis.of,
)
