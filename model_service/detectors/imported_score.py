"""The score of an imported graph, as bundles are made of it; what is missing gets no score. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model_service.models.features import Ends, profile_features
from model_service.models.graph import GraphWriter, write_output
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

    def of_windows(self, windows: Windows, ends_us: Ends) -> Array:
        """Score of each of (n, W, C) that ended at these times; NaN where there is none.

        Raises:
            BundleError: It leaves [0, 1], gives none where all is there, or has another shape.
        """
        return self.all_of_windows(windows, ends_us)[:, 0]

    def all_of_windows(self, windows: Windows, ends_us: Ends) -> Array:
        """As ``of_windows``, shape (n, 1 + O): the score, then the further outputs."""
        features = self.features(windows, ends_us)
        if not self.reads_window:
            return self._of_rows(features)
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
        return self._of_rows(features)[:, 0]

    def further(self, features: Array) -> Array:
        """Further outputs of each row of (n, F), shape (n, O), for a graph that reads features."""
        return self._of_rows(features)[:, 1:]

    def features(self, windows: Windows, ends_us: Ends) -> Array:
        """Features of each window, shape (n, F)."""
        return profile_features(self._profile, windows, ends_us)

    def write(self, writer: GraphWriter, features: str) -> str:
        """Adds it to a graph whose input is ``window``: (B, F) features to (B,) score."""
        return self.write_all(writer, features)[0]

    def write_all(self, writer: GraphWriter, features: str) -> tuple[str, ...]:
        """As ``write``; behind the score come the further outputs."""
        given = self._write_filled(writer) if self.reads_window else features
        return tuple(write_output(writer, raw, features) for raw in self._graph.write_all(writer, given))

    def _of_rows(self, features: Array) -> Array:
        return self._scored(np.where(np.isfinite(features), features, 0.0), features)

    def _scored(self, given: Windows, features: Array) -> Array:
        complete = np.isfinite(features).all(axis=1)
        every = np.full((len(given), 1 + len(self._graph.further)), math.nan)
        if not complete.any():
            return every
        all_found = self._runner.run_all(given[complete])
        found = all_found[:, 0]
        if not np.isfinite(found).all():
            raise BundleError("it gives no number for a window that lacks nothing: make it give one")
        worst = float(np.maximum(found - 1.0, -found).max())
        if worst > ROUNDING:
            raise BundleError(
                f"it gives scores from {found.min():.4g} to {found.max():.4g}: {WHAT_A_SCORE_IS}"
            )
        every[complete] = np.clip(all_found, 0.0, 1.0)
        return every

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
