"""Refuses a graph whose scores leave [0, 1] by more than rounding, before anybody signs it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.models.bundle_files import BundleFiles
from model_service.models.golden import golden_feeds
from model_service.models.runtime import OrtGraph
from schemas.errors import BundleError
from schemas.output_names import PRIMARY
from schemas.score_range import ROUNDING

STRETCHES = (1.0, 0.0, -1.0, 10.0, -10.0, 1000.0)
"""Factors on the golden windows: a faulty device gives windows that no training set holds."""


def check_scores(bundle: BundleFiles) -> BundleFiles:
    """The bundle, if its graph keeps to scores.

    Raises:
        BundleError: A score lies outside [0, 1] by more than rounding.
    """
    excess = largest_excess(stretched_scores(bundle))
    if excess > ROUNDING:
        raise BundleError(f"model {bundle.manifest.version}: a score lies {excess:.3g} outside [0, 1]")
    return bundle


def stretched_scores(bundle: BundleFiles) -> NDArray[np.float32]:
    """All scores of the golden windows and of stretched ones, as the graph gives them."""
    manifest, scores = bundle.manifest, []
    graph, outputs = OrtGraph(bundle.model, manifest.version), (PRIMARY, *manifest.output_columns)
    for stretch in STRETCHES:
        # One by one, as devices run them: not every graph takes a batch.
        for feed in golden_feeds(bundle.golden, manifest, stretch):
            scores += [found.ravel() for found in graph.run(outputs, feed)]
    return np.concatenate(scores)


def largest_excess(scores: NDArray[np.floating]) -> float:
    """How far the worst score lies outside [0, 1]; 0 where all are inside, NaN left out."""
    return float(np.nanmax(np.maximum(scores - 1.0, -scores), initial=0.0))
