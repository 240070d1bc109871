"""Feature kinds of motion: ``rate``, how fast a channel changes, and ``ripple``, what a smooth motion leaves.

Both are linear in the window's samples; a missing sample counts as the mean of those that are there, as in
the spectrum of the built-in kinds.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_service.models.feature_kind import FeatureKind
from model_service.models.graph import FLOAT, GraphWriter

Array = NDArray[np.float64]

SAMPLES = 10
"""Of a window. Kinds are not told its length, so it is fixed: windows of others are refused."""
SMOOTH_DEGREE = 2
LARGEST = float(np.finfo(np.float32).max)


class _OfTen(FeatureKind):
    """What both kinds share: the samples, filled."""

    def _filled(self, windows: Array) -> Array:
        """Shape (n, W)."""
        if windows.shape[1] != SAMPLES:
            raise ValueError(f"windows of {windows.shape[1]} samples: this kind takes {SAMPLES}")
        x = windows[:, :, 0]
        there = np.isfinite(x)
        with np.errstate(invalid="ignore"):
            mean = np.where(there, x, 0.0).sum(axis=1) / there.sum(axis=1)
        return np.where(there, x, mean[:, None])

    @staticmethod
    def _write_filled(writer: GraphWriter, window: str) -> str:
        """Name of the (B, W, n) tensor, from one of n channels."""
        there = writer.op("LessOrEqual", writer.op("Abs", window), writer.floats(LARGEST))
        zeroed = writer.op("Where", there, window, writer.floats(0.0))
        count = writer.op("ReduceSum", writer.op("Cast", there, to=FLOAT), writer.ints(1), keepdims=1)
        mean = writer.op("Div", writer.op("ReduceSum", zeroed, writer.ints(1), keepdims=1), count)
        return writer.op("Where", there, window, mean)

    @abstractmethod
    def write_each(self, writer: GraphWriter, windows: str) -> str:
        """See ``FeatureKind``."""

    def write(self, writer: GraphWriter, window: str) -> str:
        """See ``FeatureKind``."""
        return writer.op("Reshape", self.write_each(writer, window), writer.ints(-1))


class RateOfChange(_OfTen):
    """Slope of the straight line through the window, by samples from its first to its last.

    The unit is the channel's own, over the time from the first to the last sample: kinds are not told the
    rate either, and a model that is fitted needs no seconds.
    """

    meaning = "slope of the fitted line, over the time from the window's first sample to its last"

    def unit(self, units: Sequence[str]) -> str:
        """The channel's, over the window's time."""
        return units[0]

    def compute(self, windows: Array) -> Array:
        """See ``FeatureKind``."""
        return np.asarray(self._filled(windows) @ line_weights())

    def write_each(self, writer: GraphWriter, windows: str) -> str:
        """See ``FeatureKind``."""
        weights = writer.constant(line_weights().astype(np.float32).reshape(1, SAMPLES, 1))
        weighted = writer.op("Mul", self._write_filled(writer, windows), weights)
        return writer.op("ReduceSum", weighted, writer.ints(1), keepdims=0)


class Ripple(_OfTen):
    """Root mean square of what the fitted parabola leaves of the window: no smooth motion raises it."""

    meaning = "root mean square of what a parabola through the window leaves"
    logged = True

    def compute(self, windows: Array) -> Array:
        """See ``FeatureKind``."""
        rest = self._filled(windows) @ rest_matrix()
        return np.asarray(np.sqrt((rest**2).mean(axis=1)))

    def write_each(self, writer: GraphWriter, windows: str) -> str:
        """See ``FeatureKind``."""
        matrix = writer.constant(rest_matrix().T.astype(np.float32))
        rest = writer.op("MatMul", matrix, self._write_filled(writer, windows))
        square = writer.op("ReduceMean", writer.op("Mul", rest, rest), axes=[1], keepdims=0)
        return writer.op("Sqrt", square)


def line_weights() -> Array:
    """Weights of the samples in the slope, shape (W,)."""
    at = np.arange(SAMPLES) - (SAMPLES - 1) / 2
    return np.asarray(at / (at**2).sum() * (SAMPLES - 1))


def rest_matrix() -> Array:
    """What is left of a window beside a polynomial of ``SMOOTH_DEGREE``, shape (W, W), rounded."""
    at = (np.arange(SAMPLES) - (SAMPLES - 1) / 2) / SAMPLES
    powers = np.vander(at, SMOOTH_DEGREE + 1)
    basis: list[Array] = []
    for column in powers.T[::-1]:
        left = column - sum((b * float((b * column).sum()) for b in basis), np.zeros(SAMPLES))
        basis.append(left / float(np.sqrt((left**2).sum())))
    return np.round(np.eye(SAMPLES) - sum((np.outer(b, b) for b in basis), np.zeros((SAMPLES, SAMPLES))), 9)
