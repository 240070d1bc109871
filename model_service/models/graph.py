"""A thin writer of ONNX graphs: names tensors, stores equal constants once, builds reproducible bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
"""Lowest operator set with DFT: any onnxruntime since 1.12 runs it."""
ML_DOMAIN, ML_OPSET = "ai.onnx.ml", 3
"""ONNX's own operators for trees; every onnxruntime has them."""
IR_VERSION = 8

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


class GraphWriter:
    """Collects nodes and constants; each method appends one operator and returns its output's name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[Any] = []

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Output name of one new operator."""
        name = output or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        """Name of a constant tensor; equal ones share one."""
        key = (str(value.dtype), value.shape, value.tobytes())
        if key not in self._constants:
            name = f"const_{len(self._constants)}"
            self._constants[key] = name
            self._initializers.append(numpy_helper.from_array(value, name))
        return self._constants[key]

    def floats(self, *values: float) -> str:
        """A float32 scalar (one value) or vector constant."""
        array = np.array(values[0] if len(values) == 1 else values, dtype=np.float32)
        return self.constant(array)

    def ints(self, *values: int) -> str:
        """An int64 vector constant."""
        return self.constant(np.array(values, dtype=np.int64))

    def integer(self, value: int) -> str:
        """An int64 scalar constant."""
        return self.constant(np.array(value, dtype=np.int64))

    def largest(self, values: str, count: int) -> str:
        """The ``count`` largest along the last axis, sorted."""
        name = f"topk_{len(self._nodes)}"
        outputs = [f"{name}_values", f"{name}_at"]
        self._nodes.append(helper.make_node("TopK", [values, self.ints(count)], outputs, name=name, axis=-1))
        return outputs[0]

    def splice(self, graph: Any, inputs: Mapping[str, str]) -> dict[str, str]:
        """Adds all operators of another graph.

        Args:
            graph: ``GraphProto`` of the same operator sets.
            inputs: For each input of that graph, the name of a tensor in this one.

        Returns:
            For each output of that graph, its name in this one.
        """
        names = dict(inputs) | {i.name: self.constant(numpy_helper.to_array(i)) for i in graph.initializer}
        for node in graph.node:
            copied = helper.make_node(node.op_type, [names[i] for i in node.input], [], domain=node.domain)
            copied.attribute.extend(node.attribute)
            copied.name = f"{node.op_type.lower()}_{len(self._nodes)}"
            names |= {output: f"{copied.name}_{at}" for at, output in enumerate(node.output)}
            copied.output.extend(names[output] for output in node.output)
            self._nodes.append(copied)
        return {output.name: names[output.name] for output in graph.output}

    def adopt(self, graph: Any) -> None:
        """Adds all operators and constants of a graph of the same operator sets, under their own names."""
        self._nodes += graph.node
        self._initializers += graph.initializer

    def build(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> bytes:
        """The model as bytes, checked.

        Args:
            name: Of the graph.
            inputs: Declared by ``tensor``, as are the outputs.
            outputs: In the order in which they are to be returned.
        """
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == ML_DOMAIN for node in self._nodes):
            opsets.append(helper.make_opsetid(ML_DOMAIN, ML_OPSET))
        graph = helper.make_graph(self._nodes, name, list(inputs), list(outputs), self._initializers)
        model = helper.make_model(
            graph,
            producer_name="edgeloop",
            ir_version=IR_VERSION,
            opset_imports=opsets,
        )
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def nan_where_missing(writer: GraphWriter, features: str, score: str) -> str:
    """Adds a check to a graph: the score (B,) becomes NaN where any of the features (B, F) is NaN."""
    missing = writer.op("Cast", writer.op("IsNaN", features), to=FLOAT)
    any_missing = writer.op(
        "Greater", writer.op("ReduceMax", missing, axes=[1], keepdims=0), writer.floats(0.0)
    )
    return writer.op("Where", any_missing, writer.floats(math.nan), score)


def write_output(writer: GraphWriter, raw: str, features: str) -> str:
    """Adds to a graph an output (B,), made of a raw one: within [0, 1]; NaN where it or a feature is NaN."""
    clipped = writer.op("Clip", raw, writer.floats(0.0), writer.floats(1.0))
    none = writer.op("IsNaN", raw)
    return nan_where_missing(writer, features, writer.op("Where", none, writer.floats(math.nan), clipped))


def tensor(name: str, kind: int, shape: Sequence[int | str]) -> Any:
    """Declares a graph input or output; a text dimension is free."""
    return helper.make_tensor_value_info(name, kind, list(shape))
