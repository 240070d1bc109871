"""The score of an imported graph, as bundles are made of it; what is missing gets no score. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model_service.models.features import compute
from model_service.models.graph import GraphWriter, nan_where_missing
from model_service.models.imported_graph import ImportedGraph
from schemas.errors import BundleError
from schemas.profile import Profile
from schemas.score_range import ROUNDING

Array = NDArray[np.float64]
Windows = NDArray[np.floating]

WHAT_A_SCORE_IS = "a score lies between 0 (healthy) and 1: end the graph with one, such as a Sigmoid"


class ImportedScore:
    """Scores windows by the given file alone, and writes the same into a graph of ours.

    A sample that is missing is replaced by its channel's mean in the window; a window without one of its
    features has no score.

    Args:
        graph: Checked.
        profile: It fits.
    """

    def __init__(self, graph: ImportedGraph, profile: Profile) -> None:
        self._graph, self._profile, self._runner = graph, profile, graph.runner()

    @property
    def reads_window(self) -> bool:
        """Whether it needs raw samples: rows of the lake cannot be scored."""
        return self._graph.reads == "window"

    def of_windows(self, windows: Windows) -> Array:
        """Score of each of (n, W, C); NaN where there is none.

        Raises:
            BundleError: It leaves [0, 1], gives none where all is there, or has another shape.
        """
        features = self.features(windows)
        if not self.reads_window:
            return self.of_features(features)
        samples = np.asarray(windows, dtype=np.float32)
        finite = np.isfinite(samples)
        total = np.where(finite, samples, 0).sum(axis=1, keepdims=True)
        means = total / np.maximum(finite.sum(axis=1, keepdims=True), 1)
        return self._scored(np.where(finite, samples, means), features)

    def of_features(self, features: Array) -> Array:
        """Score of each row of (n, F), for a graph that reads features.

        Raises:
            BundleError: As ``of_windows``.
        """
        return self._scored(np.where(np.isfinite(features), features, 0.0), features)

    def features(self, windows: Windows) -> Array:
        """Features of each window, shape (n, F)."""
        return compute(windows, self._profile.feature_specs(), self._profile.channel_names)

    def write(self, writer: GraphWriter, features: str) -> str:
        """Adds it to a graph whose input is ``window``: (B, F) features to (B,) score."""
        given = self._write_filled(writer) if self.reads_window else features
        raw = self._graph.write(writer, given)
        clipped = writer.op("Clip", raw, writer.floats(0.0), writer.floats(1.0))
        none = writer.op("IsNaN", raw)
        score = writer.op("Where", none, writer.floats(math.nan), clipped)
        return nan_where_missing(writer, features, score)

    def _scored(self, given: Windows, features: Array) -> Array:
        score, complete = np.full(len(given), math.nan), np.isfinite(features).all(axis=1)
        if not complete.any():
            return score
        found = self._runner.run(given[complete])
        if not np.isfinite(found).all():
            raise BundleError("it gives no number for a window that lacks nothing: make it give one")
        worst = float(np.maximum(found - 1.0, -found).max())
        if worst > ROUNDING:
            raise BundleError(
                f"it gives scores from {found.min():.4g} to {found.max():.4g}: {WHAT_A_SCORE_IS}"
            )
        score[complete] = np.clip(found, 0.0, 1.0)
        return score

    @staticmethod
    def _write_filled(writer: GraphWriter) -> str:
        """The window with its missing samples replaced by their channel's mean."""
        largest = writer.floats(float(np.finfo(np.float32).max))
        valid = writer.op("LessOrEqual", writer.op("Abs", "window"), largest)
        zeroed = writer.op("Where", valid, "window", writer.floats(0.0))
        count = writer.op("ReduceSum", writer.op("Cast", valid, to=1), writer.ints(1), keepdims=1)
        total = writer.op("ReduceSum", zeroed, writer.ints(1), keepdims=1)
        mean = writer.op("Div", total, writer.op("Max", count, writer.floats(1.0)))
        return writer.op("Where", valid, "window", mean)
