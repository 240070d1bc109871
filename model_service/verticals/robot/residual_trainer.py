"""The trainer ``robot_residual``: expected currents of a motion, and four outputs made of what differs.

The distance is how far a window lies from what is expected, all residuals together. Each further output is
one residual against the farthest that healthy rows show: ``collision`` of the arm's currents and of how fast
they change, ``slip`` of the vehicle's acceleration against its wheel, ``degradation`` of the ripple of the
currents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.trainer_interface import TrainerInput
from model_service.models.graph import FLOAT, GraphWriter, tensor
from model_service.models.rounding import rounded, rounded_number
from model_service.verticals.robot.arm_regression import EXPLAINED, NEEDED, ROUGH, MotionFit, fit_motion

Array = NDArray[np.float64]

RIPPLES = ROUGH[:2]
RATES = tuple(f"current_{j}_rate" for j in (1, 2))
FARTHEST = 0.999
"""Quantile of healthy rows that stands for the farthest."""
MARGINS = {"collision": 3.0, "slip": 2.5, "degradation": 2.5}
"""An output is a half at so many times the farthest of its residuals."""
LOAD_SHARE = 1.0
"""Residual currents alone make a collision's output a half at this share of the largest current of healthy
work at least. Another load is no collision, and until the model has learnt it, its weight is a residual."""
BOTH, LONE = 1.75, 8.0
"""A collision's output is a half where both currents *surge* together so many times as far as in healthy
rows, or one alone so many times as far as it does there. A surge is how far a current rises or falls within
a window: what is struck makes it within milliseconds, another load in the time that the arm takes to move.
What hits the tip loads both joints, a worn gear one of them. A surge counts no further than a current that
the motion does not explain, in farthest ones and by the margin of ``MARGINS``: what moves faster than any
healthy row has surges that are explained."""
LEAST_SURGE, LEAST_BOTH = 0.05, 0.2
"""A, and a share of these: smallest farthest surges."""
STEEPNESS = 3.0
LEAST = {"collision": (0.1, 0.1), "slip": (0.05,), "degradation": (0.01, 0.01)}
"""Smallest farthest residuals, in A, m/s² and A: rows in which nothing moves do not make reflexes nervous."""
LEAST_UNEVEN = 0.05
SMALLEST = 1e-6
NORM = 4
"""Of the distance: one residual that stands out counts for more than many that lie a little off."""


@dataclass(frozen=True, slots=True)
class ReflexScale:
    """What is usual, fitted to healthy rows.

    Attributes:
        spread: Of the residuals, shape (4,).
        rough: Spread of the logarithms of ripple and shaking, shape (4,).
        collision, slip, degradation: Residuals at which the output is a half.
        surge: Farthest surges of each current, shape (2,).
        both: Farthest surge of both at once, as a share of these.
        odd: Residual currents from which a surge counts, shape (2,).
    """

    spread: Array
    rough: Array
    collision: Array
    slip: Array
    degradation: Array
    surge: Array
    both: float
    odd: Array


class ResidualTrainer:
    """See ``FeatureTrainer``."""

    def fit(self, given: TrainerInput) -> bytes:
        """The graph: features (n, F) to ``distance`` and the three outputs.

        Raises:
            ValueError: A feature that it needs is not among those of the profile.
        """
        names = list(given.names)
        if lacking := sorted({*NEEDED, *EXPLAINED, *ROUGH, *RATES} - set(names)):
            raise ValueError(f"the features {', '.join(lacking)} are not among those of the profile")
        features = np.asarray(given.features, dtype=np.float64)
        motion = fit_motion(features, names)
        return _graph(motion, scale_of(motion, features, names), names)


def scale_of(motion: MotionFit, features: Array, names: Sequence[str]) -> ReflexScale:
    """What is usual among these rows, shape (n, F)."""
    residuals = motion.residuals(features, names)
    ripples = features[:, [names.index(n) for n in RIPPLES]]
    uneven = motion.roughness(features, names)
    spread = rounded(np.maximum(np.sqrt((residuals**2).mean(axis=0)), SMALLEST), 5)
    usual = rounded(np.maximum(np.sqrt((uneven**2).mean(axis=0)), LEAST_UNEVEN), 5)
    far = np.quantile(np.abs(residuals), FARTHEST, axis=0)
    ripple = np.quantile(ripples, FARTHEST, axis=0)
    parts = {"collision": far[:2], "slip": far[3:], "degradation": ripple}
    limits = {n: MARGINS[n] * np.maximum(v, LEAST[n]) for n, v in parts.items()}
    odd = rounded(limits["collision"], 5)
    currents = np.abs(features[:, [names.index(n) for n in EXPLAINED[:2]]])
    carried = LOAD_SHARE * np.quantile(currents, FARTHEST, axis=0)
    limits["collision"] = np.maximum(limits["collision"], carried)
    rates = np.abs(features[:, [names.index(n) for n in RATES]])
    surge = rounded(np.maximum(np.quantile(rates, FARTHEST, axis=0), LEAST_SURGE), 5)
    both = max(float(np.quantile((rates / surge).min(axis=1), FARTHEST)), LEAST_BOTH)
    rounded_limits = {name: rounded(limit, 5) for name, limit in limits.items()}
    return ReflexScale(spread, usual, **rounded_limits, surge=surge, both=rounded_number(both), odd=odd)


def _graph(motion: MotionFit, scale: ReflexScale, names: Sequence[str]) -> bytes:
    writer = GraphWriter()
    residuals = motion.write(writer, "features", names)
    ripples = _gathered(writer, "features", [names.index(n) for n in RIPPLES])
    _write_distance(writer, residuals, motion.write_roughness(writer, "features", names), scale)
    sizes = writer.op("Abs", residuals)
    for name, of, columns, limit in (
        ("collision", sizes, (0, 1), scale.collision),
        ("slip", sizes, (3,), scale.slip),
        ("degradation", ripples, (0, 1), scale.degradation),
    ):
        ratio = writer.op("Div", _gathered(writer, of, columns), _row(writer, limit))
        if name == "collision":
            ratio = writer.op("Concat", ratio, _write_surges(writer, sizes, scale, names), axis=1)
        worst = writer.op("ReduceMax", ratio, axes=[1], keepdims=0)
        logarithm = writer.op("Log", writer.op("Max", worst, writer.floats(SMALLEST)))
        steep = writer.op("Mul", logarithm, writer.floats(STEEPNESS))
        writer.op("Sigmoid", steep, output=f"score_{name}")
    outputs = ("distance", *(f"score_{name}" for name in MARGINS))
    source = tensor("features", FLOAT, ["n", len(names)])
    return writer.build("robot_residual", [source], [tensor(name, FLOAT, ["n"]) for name in outputs])


def _write_surges(writer: GraphWriter, sizes: str, scale: ReflexScale, names: Sequence[str]) -> str:
    """Surges of both joints at once and of one alone, each 1 where it makes the output a half; (B, 2).

    Args:
        writer: Of the graph.
        sizes: Sizes of the residuals, shape (B, 4).
        scale: What is usual.
        names: Of the features.
    """
    rates = writer.op("Abs", _gathered(writer, "features", [names.index(n) for n in RATES]))
    surges = writer.op("Div", rates, _row(writer, scale.surge))
    first, second = (_gathered(writer, surges, (joint,)) for joint in (0, 1))
    both = writer.op("Mul", writer.op("Min", first, second), writer.floats(1 / (BOTH * scale.both)))
    lone = writer.op("Mul", writer.op("Max", first, second), writer.floats(1 / LONE))
    odd = writer.op("Div", _gathered(writer, sizes, (0, 1)), _row(writer, scale.odd))
    unexplained = writer.op("ReduceMax", odd, axes=[1], keepdims=1)
    return writer.op("Min", writer.op("Concat", both, lone, axis=1), unexplained)


def _write_distance(writer: GraphWriter, residuals: str, uneven: str, scale: ReflexScale) -> None:
    """Norm of all residuals in their spreads; of ripple and shaking only what is more counts."""
    every = writer.op(
        "Concat",
        writer.op("Div", residuals, _row(writer, scale.spread)),
        writer.op("Div", writer.op("Relu", uneven), _row(writer, scale.rough)),
        axis=1,
    )
    high = writer.op("Pow", every, writer.floats(float(NORM)))
    mean = writer.op("ReduceMean", high, axes=[1], keepdims=0)
    writer.op("Pow", mean, writer.floats(1 / NORM), output="distance")


def _gathered(writer: GraphWriter, tensor_name: str, columns: Sequence[int]) -> str:
    return writer.op("Gather", tensor_name, writer.ints(*columns), axis=1)


def _row(writer: GraphWriter, values: Array) -> str:
    return writer.constant(values.astype(np.float32).reshape(1, -1))
