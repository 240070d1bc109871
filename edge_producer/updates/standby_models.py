"""Models for devices whose updater cannot start now: what runs by the disk, else the factory's, else none.

Nothing is written. Without any model a device has no score, so its action is the profile's fail-safe.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_producer.bundle import load_bundle
from edge_producer.inference import OnnxPredictor
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.slots import ModelSlots
from edge_producer.window import Floats, Predictor, Samples
from schemas.durable import Disk
from schemas.errors import PipelineError
from schemas.profile import Profile

log = logging.getLogger(__name__)


class NoModel:
    """A predictor without features and without a score.

    Args:
        profile: Names the feature set.
    """

    version = "none"
    bin_edges: Mapping[str, NDArray[np.float64]] = {}

    def __init__(self, profile: Profile) -> None:
        self.featureset = profile.featureset
        self._nothing = np.full(len(profile.row_columns), np.nan, dtype=np.float32)

    def score(
        self, device_id: str, samples: Samples, at: datetime | None = None
    ) -> tuple[Floats, float | None]:
        """No score."""
        del device_id, samples, at
        return self._nothing, None

    def take_over(self, device_id: str, predecessor: Predictor) -> None:
        """Nothing: it keeps no reference."""


def standby_model(folder: Path, resources: UpdaterResources, disk: Disk) -> Predictor:
    """The best model that can be had of a device without writing anything.

    Args:
        folder: The device's own folder.
        resources: Profile and loaded models.
        disk: Reads.
    """
    profile = resources.profile
    try:
        slots = ModelSlots(folder, profile, disk)
        for candidate in (slots.pointer().active, *slots.candidates()):
            try:
                return resources.models.get(slots, candidate)
            except PipelineError as exc:
                log.warning("a set cannot be loaded: %s", exc)
    except (PipelineError, OSError) as exc:
        log.warning("the sets of models cannot be read: %s", exc)
    try:
        return OnnxPredictor(load_bundle(profile), profile)
    except (PipelineError, OSError):
        log.exception("no model can be loaded: the fail-safe is in force")
        return NoModel(profile)
