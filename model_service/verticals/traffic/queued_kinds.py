"""Feature kinds of queues as logarithms see them: one more than the vehicles that wait.

Entry points of ``edgeloop.features``. Queues are counts with a long tail: their logarithm is closer to
normal, and that of one more has a value where nobody waits. So a jam at one peak does not set the scale.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from model_service.models.feature_graph import WindowKinds
from model_service.models.feature_kind import FeatureKind
from model_service.models.features import all_kinds
from model_service.models.graph import GraphWriter
from schemas.feature_set import FEATURE_KINDS

Array = NDArray[np.float64]


class QueuedMean(FeatureKind):
    """One more than the mean number of vehicles."""

    meaning = "one more than the mean"
    logged = True
    built_in: ClassVar[str] = "mean"
    """Kind that it is one more than."""

    def compute(self, windows: Array) -> Array:
        """Of windows (n, W, 1), shape (n,)."""
        return np.asarray(1.0 + all_kinds(windows)[:, 0, list(FEATURE_KINDS).index(self.built_in)])

    def write(self, writer: GraphWriter, window: str) -> str:
        """The same in ONNX operators."""
        by_channel = writer.op("Transpose", window, perm=[0, 2, 1])
        found = WindowKinds(writer, by_channel).kind(self.built_in)
        return writer.op("Add", writer.op("Reshape", found, writer.ints(-1)), writer.floats(1.0))


class QueuedLast(QueuedMean):
    """One more than the vehicles in the last sample."""

    meaning = "one more than the last sample"
    built_in = "last"


class QueuedLeast(QueuedMean):
    """One more than the fewest vehicles."""

    meaning = "one more than the smallest sample"
    built_in = "min"
