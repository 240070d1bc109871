"""Scores rows of the lake with the part of a model's graph behind its features."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from model_service.models.runtime import OrtGraph
from schemas.errors import BundleError
from schemas.score_part import ROWS, score_part

Array = NDArray[np.float64]


class ScoreStage:
    """Scores rows of features with a model's own operators.

    Args:
        model: The whole graph, raw window to ``features`` and ``score``.
        width: Number of features.
        name: Of the model, for messages.

    Raises:
        BundleError: Not such a graph, or its score depends on more than its features.
    """

    def __init__(self, model: bytes, width: int, name: str) -> None:
        self._width, self._name = width, name
        self._graph = OrtGraph(score_part(model, width, name), name)

    def score(self, features: Array) -> Array:
        """Score of each row of (n, F); NaN where the model gives none.

        Raises:
            BundleError: The graph gives scores of another shape.
        """
        rows = np.asarray(features, dtype=np.float32).reshape(-1, self._width)
        [score] = self._graph.run(("score",), {ROWS: rows})
        if score.shape != (len(rows),):
            raise BundleError(f"model {self._name}: scores of shape {score.shape} for {len(rows)} rows")
        return score.astype(np.float64)


def parsed(model: bytes, name: str) -> Any:
    """``ModelProto`` of these bytes.

    Raises:
        BundleError: They are not an ONNX model.
    """
    whole = onnx.ModelProto()
    try:
        whole.ParseFromString(model)
    except DecodeError as exc:
        raise BundleError(f"model {name}: not an ONNX model") from exc
    return whole
