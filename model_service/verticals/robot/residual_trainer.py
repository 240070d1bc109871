"""The trainer ``robot_residual``: expected currents of a motion, and four outputs made of what differs.

The distance is how far a window lies from what is expected, all residuals together. Each further output is
one residual against the farthest that healthy rows show: ``collision`` of the arm's currents, ``slip`` of the
vehicle's acceleration against its wheel, ``degradation`` of the ripple of the currents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.trainer_interface import TrainerInput
from model_service.models.graph import FLOAT, GraphWriter, tensor
from model_service.models.rounding import rounded
from model_service.verticals.robot.arm_regression import EXPLAINED, NEEDED, MotionFit, fit_motion

Array = NDArray[np.float64]

RIPPLES = ("current_1_ripple", "current_2_ripple")
SHAKES = ("acceleration_x_std", "acceleration_z_std")
FARTHEST = 0.999
"""Quantile of healthy rows that stands for the farthest."""
MARGINS = {"collision": 4.0, "slip": 2.5, "degradation": 2.5}
"""An output is a half at so many times the farthest of its residuals."""
LOAD_SHARE = 0.65
"""A collision's output is a half at this share of the largest current of healthy work at least. Another load
is no collision, and until the model has learnt it, its weight is a residual."""
STEEPNESS = 3.0
LEAST = {"collision": (0.1, 0.1), "slip": (0.05,), "degradation": (0.01, 0.01)}
"""Smallest farthest residuals, in A, m/s² and A: rows in which nothing moves do not make reflexes nervous."""
SMALLEST = 1e-6


@dataclass(frozen=True, slots=True)
class ReflexScale:
    """What is usual, fitted to healthy rows.

    Attributes:
        spread: Of the residuals, shape (4,).
        rough: Mean and spread of the logarithms of ripple and shaking, shape (2, 4).
        collision, slip, degradation: Residuals at which the output is a half.
    """

    spread: Array
    rough: Array
    collision: Array
    slip: Array
    degradation: Array


class ResidualTrainer:
    """See ``FeatureTrainer``."""

    def fit(self, given: TrainerInput) -> bytes:
        """The graph: features (n, F) to ``distance`` and the three outputs.

        Raises:
            ValueError: A feature that it needs is not among those of the profile.
        """
        names = list(given.names)
        if lacking := sorted({*NEEDED, *EXPLAINED, *RIPPLES, *SHAKES} - set(names)):
            raise ValueError(f"the features {', '.join(lacking)} are not among those of the profile")
        features = np.asarray(given.features, dtype=np.float64)
        motion = fit_motion(features, names)
        return _graph(motion, scale_of(motion, features, names), names)


def scale_of(motion: MotionFit, features: Array, names: Sequence[str]) -> ReflexScale:
    """What is usual among these rows, shape (n, F)."""
    residuals = motion.residuals(features, names)
    rough = features[:, [names.index(n) for n in (*RIPPLES, *SHAKES)]]
    logs = np.log(np.maximum(rough, SMALLEST))
    spread = rounded(np.maximum(np.sqrt((residuals**2).mean(axis=0)), SMALLEST), 5)
    usual = rounded(np.stack([logs.mean(axis=0), np.maximum(logs.std(axis=0), 0.05)]), 5)
    far = np.quantile(np.abs(residuals), FARTHEST, axis=0)
    ripple = np.quantile(rough[:, :2], FARTHEST, axis=0)
    parts = {"collision": far[:2], "slip": far[3:], "degradation": ripple}
    limits = {n: MARGINS[n] * np.maximum(v, LEAST[n]) for n, v in parts.items()}
    currents = np.abs(features[:, [names.index(n) for n in EXPLAINED[:2]]])
    carried = LOAD_SHARE * np.quantile(currents, FARTHEST, axis=0)
    limits["collision"] = np.maximum(limits["collision"], carried)
    return ReflexScale(spread, usual, **{name: rounded(limit, 5) for name, limit in limits.items()})


def _graph(motion: MotionFit, scale: ReflexScale, names: Sequence[str]) -> bytes:
    writer = GraphWriter()
    residuals = motion.write(writer, "features", names)
    rough = _gathered(writer, "features", [names.index(n) for n in (*RIPPLES, *SHAKES)])
    _write_distance(writer, residuals, rough, scale)
    sizes = writer.op("Abs", residuals)
    for name, of, columns, limit in (
        ("collision", sizes, (0, 1), scale.collision),
        ("slip", sizes, (3,), scale.slip),
        ("degradation", rough, (0, 1), scale.degradation),
    ):
        ratio = writer.op("Div", _gathered(writer, of, columns), _row(writer, limit))
        worst = writer.op("ReduceMax", ratio, axes=[1], keepdims=0)
        logarithm = writer.op("Log", writer.op("Max", worst, writer.floats(SMALLEST)))
        steep = writer.op("Mul", logarithm, writer.floats(STEEPNESS))
        writer.op("Sigmoid", steep, output=f"score_{name}")
    outputs = ("distance", *(f"score_{name}" for name in MARGINS))
    source = tensor("features", FLOAT, ["n", len(names)])
    return writer.build("robot_residual", [source], [tensor(name, FLOAT, ["n"]) for name in outputs])


def _write_distance(writer: GraphWriter, residuals: str, rough: str, scale: ReflexScale) -> None:
    """Root mean square of all residuals in their spreads; of ripple and shaking only what is more counts."""
    logs = writer.op("Log", writer.op("Max", rough, writer.floats(SMALLEST)))
    more = writer.op("Relu", writer.op("Sub", logs, _row(writer, scale.rough[0])))
    every = writer.op(
        "Concat",
        writer.op("Div", residuals, _row(writer, scale.spread)),
        writer.op("Div", more, _row(writer, scale.rough[1])),
        axis=1,
    )
    square = writer.op("ReduceMean", writer.op("Mul", every, every), axes=[1], keepdims=0)
    writer.op("Sqrt", square, output="distance")


def _gathered(writer: GraphWriter, tensor_name: str, columns: Sequence[int]) -> str:
    return writer.op("Gather", tensor_name, writer.ints(*columns), axis=1)


def _row(writer: GraphWriter, values: Array) -> str:
    return writer.constant(values.astype(np.float32).reshape(1, -1))
