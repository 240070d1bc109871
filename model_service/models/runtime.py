"""The door to onnxruntime in the cloud: a graph's bytes on one thread, as a device runs them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from schemas.errors import BundleError

_FAILURES = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OrtGraph:
    """A loaded graph.

    Args:
        model: ONNX bytes; loaded from memory, so weights in other files are not found.
        name: Of the model, for messages.

    Raises:
        BundleError: onnxruntime cannot load the graph.
    """

    def __init__(self, model: bytes, name: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        self._name = name
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except _FAILURES as exc:
            raise BundleError(f"model {name}: {exc}") from exc

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs."""
        return tuple(given.name for given in self._session.get_inputs())

    def width_of(self, name: str) -> int:
        """Length of a one-dimensional input; 0: the graph has no such input."""
        shapes = {given.name: given.shape for given in self._session.get_inputs()}
        return int(shapes[name][0]) if name in shapes else 0

    def run(
        self, outputs: tuple[str, ...], inputs: Mapping[str, NDArray[np.generic]]
    ) -> list[NDArray[np.float32]]:
        """Outputs by name.

        Raises:
            BundleError: The graph does not take these inputs or has no such outputs.
        """
        try:
            found: list[NDArray[np.float32]] = self._session.run(list(outputs), dict(inputs))
        except (*_FAILURES, ValueError) as exc:
            raise BundleError(f"model {self._name}: {exc}") from exc
        return found
