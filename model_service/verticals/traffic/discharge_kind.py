"""The feature kind ``discharge``: how much of its saturation flow an approach lacks while its light is green.

Entry point of ``edgeloop.features``. In ordinary traffic, also at the peak, a standing queue leaves at about
the saturation flow. Where a lane is blocked it does not, however much green it gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model_service.models.feature_kind import FeatureKind
from model_service.models.graph import FLOAT, GraphWriter
from schemas.verticals.traffic.junction import LANE_SATURATION

Array = NDArray[np.float64]

STARTED = 4
"""Samples of a green before departures are looked at."""
LEAST_WAITING = 4.0
"""Vehicles waiting or approaching from which on the green counts as used by a queue."""
LEAST_GREEN = 8.0
"""Samples of such green in a window below which nothing is missing."""
LARGEST = float(np.finfo(np.float32).max)


class Discharge(FeatureKind):
    """Of three channels: 1 while the light is green, vehicles that passed, vehicles that wait."""

    meaning = "share of a lane's saturation flow that is missing while a queue has green; 0: too little green"
    least_channels = most_channels = 3

    def unit(self, units: Sequence[str]) -> str:
        """A share."""
        del units
        return "1"

    def edges(self, ranges: Sequence[tuple[float, float]]) -> Sequence[float]:
        """Tenths."""
        del ranges
        return [round(k / 10, 1) for k in range(1, 10)]

    def compute(self, windows: Array) -> Array:
        """Shares of windows (n, W, 3), shape (n,); NaN where no sample has all three."""
        green, passed, waiting = np.moveaxis(windows, 2, 0)
        valid = np.asarray(np.isfinite(windows).all(axis=2))
        with np.errstate(invalid="ignore"):
            lit, queued = valid & (green > 0.5), valid & (waiting >= LEAST_WAITING)
        width = windows.shape[1] - STARTED
        used = queued[:, STARTED:]
        for first in range(STARTED + 1):
            used = used & lit[:, first : first + width]
        seconds = used.sum(axis=1)
        left = np.where(used, passed[:, STARTED:], 0.0).sum(axis=1)
        share = np.clip(1 - left / (np.maximum(seconds, 1) * LANE_SATURATION), 0.0, 1.0)
        return np.where(np.any(valid, axis=1), np.where(seconds >= LEAST_GREEN, share, 0.0), np.nan)

    def write(self, writer: GraphWriter, window: str) -> str:
        """The same in ONNX operators."""
        valid = writer.op("LessOrEqual", writer.op("Abs", window), writer.floats(LARGEST))
        whole = _all(writer, [writer.op("Gather", valid, writer.integer(c), axis=2) for c in range(3)])
        green, passed, waiting = (writer.op("Gather", window, writer.integer(c), axis=2) for c in range(3))
        lit = writer.op("And", whole, writer.op("Greater", green, writer.floats(0.5)))
        queued = writer.op("And", whole, writer.op("GreaterOrEqual", waiting, writer.floats(LEAST_WAITING)))
        later = [_slice(writer, lit, first) for first in range(STARTED + 1)]
        used = _all(writer, [*later, _slice(writer, queued, STARTED)])
        seconds = _sum(writer, writer.op("Cast", used, to=FLOAT))
        flow = writer.op("Where", used, _slice(writer, passed, STARTED), writer.floats(0.0))
        full = writer.op("Mul", writer.op("Max", seconds, writer.floats(1.0)), writer.floats(LANE_SATURATION))
        share = writer.op("Sub", writer.floats(1.0), writer.op("Div", _sum(writer, flow), full))
        share = writer.op("Clip", share, writer.floats(0.0), writer.floats(1.0))
        enough = writer.op("GreaterOrEqual", seconds, writer.floats(LEAST_GREEN))
        share = writer.op("Where", enough, share, writer.floats(0.0))
        known = writer.op("Greater", _sum(writer, writer.op("Cast", whole, to=FLOAT)), writer.floats(0.0))
        return writer.op("Where", known, share, writer.floats(float("nan")))


def _all(writer: GraphWriter, parts: Sequence[str]) -> str:
    found = parts[0]
    for _, part in pairwise(parts):
        found = writer.op("And", found, part)
    return found


def _sum(writer: GraphWriter, tensor: str) -> str:
    return writer.op("ReduceSum", tensor, writer.ints(1), keepdims=0)


def _slice(writer: GraphWriter, tensor: str, first: int) -> str:
    """Samples from ``first`` on, as many as the window has less ``STARTED``."""
    end = first - STARTED or np.iinfo(np.int64).max
    return writer.op("Slice", tensor, writer.ints(first), writer.ints(end), writer.ints(1))
