"""A thin writer of ONNX graphs: names its tensors, keeps constants once, builds reproducible bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
"""Lowest operator set with DFT: any onnxruntime since 1.12 runs it."""
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

    def build(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> bytes:
        """Serialized, checked model.

        Args:
            name: Graph name.
            inputs: Value infos, as ``tensor`` makes them.
            outputs: Likewise.
        """
        graph = helper.make_graph(self._nodes, name, list(inputs), list(outputs), self._initializers)
        model = helper.make_model(
            graph,
            producer_name="edgeloop",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def tensor(name: str, kind: int, shape: Sequence[int | str]) -> Any:
    """Declares a graph input or output; a text dimension is free."""
    return helper.make_tensor_value_info(name, kind, list(shape))
