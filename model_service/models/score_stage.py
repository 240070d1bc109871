"""Scores rows of the lake with the part of a model's graph behind its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from model_service.models.runtime import OrtGraph
from schemas.errors import BundleError
from schemas.history_spec import HISTORY, HOURS, golden_history
from schemas.output_names import PRIMARY
from schemas.recent_level import RECENT
from schemas.score_part import ROWS, score_part

Array = NDArray[np.float64]


class ScoreStage:
    """Scores rows of features with a model's own operators.

    Args:
        model: The whole graph, raw window to ``features`` and ``score``.
        width: Number of features.
        name: Of the model, for messages.
        further: The graph's further outputs, such as ``score_queue``. What of them reads hours before
            is computed with ``golden_history``: rows have none.

    Raises:
        BundleError: Not such a graph, or an output depends on more than its features.
    """

    def __init__(self, model: bytes, width: int, name: str, further: Sequence[str] = ()) -> None:
        self._width, self._name, self._further = width, name, tuple(further)
        part = score_part(model, width, name, (HISTORY, RECENT), (PRIMARY, *further))
        self._graph = OrtGraph(part, name)
        hours = self._graph.width_of(HISTORY)
        self._extra = {HISTORY: golden_history((hours - 1) // HOURS)} if hours else {}
        self._reads_recent = RECENT in self._graph.inputs

    def score(self, features: Array) -> Array:
        """Score of each row of (n, F), or of (n, 2F) with recent levels behind; NaN where there is none.

        A model that reads no recent levels leaves them out; one that does takes those that are not given as
        not known.

        Raises:
            BundleError: The graph gives scores of another shape.
        """
        return self._run((PRIMARY,), features)[:, 0]

    def further(self, features: Array) -> Array:
        """Further outputs for each row of (n, F), shape (n, O); NaN where the model gives none.

        Raises:
            BundleError: As ``score``.
        """
        return self._run(self._further, features)

    def _run(self, outputs: Sequence[str], features: Array) -> Array:
        given = np.asarray(features, dtype=np.float32)
        given = given.reshape(-1, self._width if given.ndim == 1 else given.shape[1])
        rows, extra = given[:, : self._width], dict(self._extra)
        if self._reads_recent:
            recent = given[:, self._width :]
            extra[RECENT] = recent if recent.shape[1] else np.full_like(rows, np.nan)
        found = self._graph.run(tuple(outputs), {ROWS: rows, **extra})
        for scores in found:
            if scores.shape != (len(rows),):
                raise BundleError(f"model {self._name}: scores of shape {scores.shape} for {len(rows)} rows")
        return np.stack(found, axis=1).astype(np.float64)


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
