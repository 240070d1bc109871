"""The generic model: how far the farthest feature lies from what is usual for the device.

Nothing is trained. One graph fits any channels, any window and any choice of features: the choice, and the
median and spread of the device's own features, are inputs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model_service.models.feature_graph import write_chosen_features
from model_service.models.graph import FLOAT, INT64, GraphWriter, tensor
from model_service.models.mahalanobis import calibrated, write_calibration
from schemas.manifest import Calibration

Array = NDArray[np.float64]

CALIBRATION = Calibration(middle=8.0, slope=3.0)
"""Score 0.5 at 8 robust standard deviations, 0.9 at 16.6: real sensors have heavy tails."""


def build_robust() -> bytes:
    """The graph's bytes, from ``window, columns, center, spread`` to ``features, score``."""
    writer = GraphWriter()
    features = write_chosen_features(writer)
    off = writer.op("Div", writer.op("Sub", features, "center"), "spread")
    missing = writer.op("IsNaN", off)
    distance = writer.op("Where", missing, writer.floats(-1.0), writer.op("Abs", off))
    farthest = writer.op("ReduceMax", distance, axes=[1], keepdims=0)
    nothing = writer.op("Less", farthest, writer.floats(0.0))
    score = write_calibration(writer, writer.op("Relu", farthest), CALIBRATION)
    writer.op("Identity", features, output="features")
    writer.op("Where", nothing, writer.floats(math.nan), score, output="score")
    inputs = [
        tensor("window", FLOAT, ["batch", "samples", "channels"]),
        tensor("columns", INT64, ["features_chosen"]),
        tensor("center", FLOAT, ["features_chosen"]),
        tensor("spread", FLOAT, ["features_chosen"]),
    ]
    outputs = [
        tensor("features", FLOAT, ["batch", "features_chosen"]),
        tensor("score", FLOAT, ["batch"]),
    ]
    return writer.build("robust", inputs, outputs)


def robust_score(features: Array, center: Array, spread: Array) -> Array:
    """The same score in numpy, of each row of (n, F); NaN where no feature can be compared."""
    distance = np.abs(features - center) / spread
    farthest = np.where(np.isnan(distance), -1.0, distance).max(axis=1)
    return np.asarray(np.where(farthest < 0, np.nan, calibrated(np.maximum(farthest, 0.0), CALIBRATION)))
