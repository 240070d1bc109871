"""The interface of detectors, and the list of those that `fit` chooses among.

A detector is a function of one row of features: the lake holds rows of features and no raw samples, so the
loop can train it again. Its distance is a plain number, larger where a window is farther from healthy ones;
the calibration makes a score in [0, 1] of it. The same detector exists three times: in numpy (the reference),
as parameters in a manifest, and as operators of a graph; tests hold the three to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.history import BLOCKS
from model_service.models.adapt import AdaptableModel
from schemas.manifest import Manifest

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Settings = Mapping[str, float]


class AnomalyDetector(AdaptableModel, Protocol):
    """A fitted detector; immutable, its numbers rounded so that every machine fits the same."""


@dataclass(frozen=True, slots=True)
class DetectorKind:
    """One kind of detector: how it is fitted, and read back from a manifest.

    Attributes:
        name: As manifests and reports name it.
        says: What it measures, in words.
        settings: The settings that `fit` tries, each a mapping; the first is the plainest.
        fit: Healthy rows (n, F), which features are taken as logarithms, settings -> the detector.
        of: Reads it back.
        blocks: Of the cross-fitting that sets its threshold.
        follows: Whether it goes on following what wanders.
    """

    name: str
    says: str
    settings: tuple[Settings, ...]
    fit: Callable[[Array, Flags, Settings], AnomalyDetector]
    of: Callable[[Manifest], AnomalyDetector]
    blocks: int = BLOCKS
    follows: bool = False
