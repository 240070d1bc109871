"""Where healthy windows of a model lie, feature by feature: by its parameters, or by its baselines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.scaling import LEAST_SPREAD
from model_service.detectors.trained_mark import is_trained
from model_service.models.features import logged_features
from model_service.models.mahalanobis import SMALLEST
from schemas.manifest import Manifest
from schemas.profile import Profile

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class HealthyReference:
    """Centre and spread of each feature, logarithms taken where ``logged``; arrays of shape (F,)."""

    logged: NDArray[np.bool_]
    mean: Array
    std: Array


def healthy_reference(manifest: Manifest, profile: Profile) -> HealthyReference | None:
    """The reference of a model; None: nobody has fitted it to healthy windows.

    What a trainer made keeps its parameters in its graph: its baselines say how its windows are spread.
    """
    given = manifest.parameters
    if "std" in given:
        logged = np.array(given["logged"]) > 0.5
        return HealthyReference(logged, np.array(given["mean"]), np.array(given["std"]))
    stated = [manifest.baselines.get(name) for name in profile.feature_names]
    known = [b for b in stated if b is not None]
    if not is_trained(manifest) or len(known) < len(stated):
        return None
    logged = logged_features(profile)
    mean, std = (np.array([getattr(b, name) for b in known]) for name in ("mean", "std"))
    size = np.maximum(np.abs(mean), SMALLEST)
    centre = np.where(logged, np.log(size), mean)
    spread = np.maximum(np.where(logged, std / size, std), LEAST_SPREAD * np.where(logged, 1.0, size))
    return HealthyReference(logged, centre, spread)
