"""The factory model of robots: what their trainer makes of simulated healthy windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.trained_mark import MARK
from model_service.detectors.trainer_interface import TrainerInput
from model_service.detectors.user_trainer import calibrated_graph
from model_service.models.bundle_files import BundleFiles
from model_service.models.factory_models import learnt_bundle
from model_service.models.features import logged_features
from model_service.models.imported_graph import imported_graph
from model_service.verticals.robot.residual_trainer import ResidualTrainer
from schemas.manifest import TrainingFacts
from schemas.profile import Profile

Array = NDArray[np.float64]


def residual_bundle(
    profile: Profile,
    healthy: Sequence[Sequence[Array]],
    golden: NDArray[np.float32],
    training: TrainingFacts,
) -> BundleFiles:
    """The bundle; arguments as of ``factory_models.factory_bundle``."""
    rows = np.concatenate([stretch for device in healthy for stretch in device]).astype(np.float32)
    made = ResidualTrainer().fit(TrainerInput(rows, profile.feature_names, training.seed))
    model = calibrated_graph(imported_graph(made, profile), rows.astype(np.float64), logged_features(profile))
    detector = f"{MARK}{profile.training.trainer}"
    return learnt_bundle(profile, profile.model.family, model, healthy, golden, training, detector)
