"""The part of a model's graph behind its features, with which rows of the lake can be scored.

It is extracted from the bytes that devices run; nothing is trained or written anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import helper

from model_service.models.graph import FLOAT, tensor
from model_service.models.runtime import OrtGraph
from schemas.errors import BundleError

Array = NDArray[np.float64]

_ROWS = "features_given"


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
        [score] = self._graph.run(("score",), {_ROWS: rows})
        if score.shape != (len(rows),):
            raise BundleError(f"model {self._name}: scores of shape {score.shape} for {len(rows)} rows")
        return score.astype(np.float64)


def score_part(model: bytes, width: int, name: str) -> bytes:
    """The part of the graph behind its features.

    Raises:
        BundleError: As for ``ScoreStage``.
    """
    whole = parsed(model, name)
    producers = {output: node for node in whole.graph.node for output in node.output}
    source = _source(producers, name)
    constants = {i.name: i for i in whole.graph.initializer}
    needed = _needed(producers, source, constants, name)
    nodes = []
    for node in (n for n in whole.graph.node if n.output[0] in needed):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for at, given in enumerate(node.input):
            if given == source:
                copy.input[at] = _ROWS
        nodes.append(copy)
    initializers = [constants[c] for c in sorted({i for n in nodes for i in n.input} & constants.keys())]
    graph = helper.make_graph(
        nodes,
        "score",
        [tensor(_ROWS, FLOAT, ["rows", width])],
        [tensor("score", FLOAT, ["rows"])],
        initializers,
    )
    part = helper.make_model(graph, ir_version=whole.ir_version, opset_imports=list(whole.opset_import))
    data: bytes = part.SerializeToString(deterministic=True)
    return data


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


def _source(producers: dict[str, Any], name: str) -> str:
    """Name of the tensor that the score is computed from: ``features`` is an Identity of it."""
    node = producers.get("features")
    if node is None or "score" not in producers:
        raise BundleError(f"model {name}: the graph has no outputs features and score")
    return str(node.input[0]) if node.op_type == "Identity" else "features"


def _needed(producers: dict[str, Any], source: str, constants: dict[str, Any], name: str) -> set[str]:
    """First outputs of the operators between features and score."""
    needed: set[str] = set()
    todo = ["score"]
    while todo:
        wanted = todo.pop()
        if wanted in ("", source) or wanted in constants:
            continue
        node = producers.get(wanted)
        if node is None:
            raise BundleError(f"model {name}: its score depends on '{wanted}', not on features alone")
        if node.output[0] not in needed:
            needed.add(node.output[0])
            todo += list(node.input)
    return needed
