"""Scores of a model's golden windows under a profile: what shows whether other ranges change any score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_producer.bundle import Bundle
from edge_producer.golden_vectors import read_golden
from edge_producer.inference import OnnxPredictor
from edge_producer.window import Floats, Window
from edge_producer.window_scoring import WindowScorer
from schemas.instants import from_us
from schemas.manifest import ANY_FEATURESET
from schemas.profile import Profile
from schemas.profile_changes import Scored
from schemas.row_schemas import TimeQuality

_NAME = "golden"


def golden_scores(bundle: Bundle) -> Scored | None:
    """What scores the golden windows of a model under a profile, as a device does; NaN: no usable score.

    None: the model fits any profile, so its golden windows are of none.
    """
    manifest = bundle.manifest
    if manifest.featureset == ANY_FEATURESET:
        return None
    golden = read_golden(bundle.golden, manifest.version)
    ends = golden.ends_us.tolist() or [0] * len(golden.windows)
    windows = list(zip(golden.windows, ends, strict=True))

    def scored(profile: Profile) -> NDArray[np.float64]:
        predictor = OnnxPredictor(bundle, profile)
        return np.array([_score(predictor, profile, *window) for window in windows], dtype=np.float64)

    return scored


def _score(predictor: OnnxPredictor, profile: Profile, samples: Floats, end_us: int) -> float:
    scorer = WindowScorer(_NAME, profile)
    window = scorer.begin(Window(_NAME, samples, from_us(end_us), 0, TimeQuality.SYNCHRONISED, 0.0))
    _, score = scorer.score(predictor, window)
    return float("nan") if score is None else score
