"""ONNX files as somebody else's training leaves them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.model_service.test_detectors import rows

HEALTHY = rows(300)
CENTRE, SPREAD = HEALTHY.mean(axis=0), HEALTHY.std(axis=0)
FAR = 3.5
"""Spreads from the centre that score one half."""


def file_of(
    nodes: Sequence[object],
    shape: Sequence[int | str | None],
    constants: dict[str, np.ndarray],
    *,
    outputs: Sequence[str] = ("score",),
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
    sets: Sequence[object] = (),
) -> bytes:
    """A graph with the input ``x`` and float outputs of any shape."""
    graph = helper.make_graph(
        list(nodes),
        "given",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(name, kind, [None, None]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *sets]
    return helper.make_model(graph, ir_version=8, opset_imports=opsets).SerializeToString()


def of_features(*, opset: int = 13, dtype: type = np.float32) -> bytes:
    """How far the farthest feature lies off, as a score; another operator set than ours."""
    nodes = [
        helper.make_node("Sub", ["x", "centre"], ["off"]),
        helper.make_node("Div", ["off", "spread"], ["z"]),
        helper.make_node("Abs", ["z"], ["far"]),
        helper.make_node("ReduceMax", ["far"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["most", "limit"], ["beyond"]),
        helper.make_node("Sigmoid", ["beyond"], ["score"]),
    ]
    constants = {
        "centre": CENTRE.astype(dtype),
        "spread": SPREAD.astype(dtype),
        "limit": np.array([FAR], dtype),
    }
    kind = TensorProto.DOUBLE if dtype is np.float64 else TensorProto.FLOAT
    return file_of(nodes, [None, 4], constants, opset=opset, kind=kind)


def of_windows() -> bytes:
    """The same of raw windows: means and spreads of both channels, computed by itself."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("ReduceMean", ["x"], ["kept"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["x", "kept"], ["around"]),
        helper.make_node("Mul", ["around", "around"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["var"], axes=[1], keepdims=0),
        helper.make_node("Sqrt", ["var"], ["std"]),
        helper.make_node("Concat", ["mean", "std"], ["all"], axis=1),
        helper.make_node("Sub", ["all", "centre"], ["off"]),
        helper.make_node("Div", ["off", "spread"], ["z"]),
        helper.make_node("Abs", ["z"], ["far"]),
        helper.make_node("ReduceMax", ["far"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["most", "limit"], ["beyond"]),
        helper.make_node("Sigmoid", ["beyond"], ["score"]),
    ]
    order = [0, 2, 1, 3]  # means of both channels, then their spreads
    constants = {
        "centre": CENTRE[order].astype(np.float32),
        "spread": SPREAD[order].astype(np.float32),
        "limit": np.array([FAR], np.float32),
    }
    return file_of(nodes, ["n", 8, 2], constants)
