"""What currents and accelerations are expected of a motion: a fit that is linear in its coefficients.

The equations of a rigid arm of two joints are linear in combinations of its masses, lengths and frictions
(Atkeson, An and Hollerbach 1986). So one least-squares fit on rows of windows finds them, whatever the arm
holds. The wheel's current follows its speed and its change, the vehicle's acceleration the wheel's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.models.graph import GraphWriter
from model_service.models.rounding import rounded

Array = NDArray[np.float64]

NEEDED = (
    *(f"position_{j}_mean" for j in (1, 2)),
    *(f"velocity_{j}_{kind}" for j in (1, 2) for kind in ("mean", "rate")),
    "wheel_speed_mean",
    "wheel_speed_rate",
)
"""Features of the motion."""
EXPLAINED = ("current_1_mean", "current_2_mean", "wheel_current_mean", "acceleration_x_mean")
"""Features that are expected of it, in the order of the residuals."""
ROUGH = ("current_1_ripple", "current_2_ripple", "acceleration_x_std", "acceleration_z_std")
"""Features whose logarithms grow with the speed of what causes them."""
SPEEDS = ("velocity_1_mean", "velocity_2_mean", "wheel_speed_mean", "wheel_speed_mean")
"""Of each of ``ROUGH``."""
ARM_TERMS, WHEEL_TERMS, ROUGH_TERMS = 13, 4, 3
CREEP = 0.05
"""rad/s within which friction changes its sign, in the fit: a window's mean is not sharper."""
RIDGE = 1e-6
"""Of the mean square of each term: terms that do not move in the rows get no wild coefficients."""
SLOW = 0.3
"""rad/s from which a speed makes a current ripple or a vehicle shake."""
SMALLEST = 1e-6
DIGITS = 5


@dataclass(frozen=True, slots=True)
class MotionFit:
    """Coefficients of the terms.

    Attributes:
        arm: Shape (``ARM_TERMS``, 2), of the currents of the joints.
        wheel: Shape (``WHEEL_TERMS``, 2), of the wheel's current and the vehicle's acceleration.
        rough: Shape (4, ``ROUGH_TERMS``), of the logarithms of ``ROUGH``.
    """

    arm: Array
    wheel: Array
    rough: Array

    def residuals(self, features: Array, names: Sequence[str]) -> Array:
        """What is not explained, shape (n, 4), in the units of ``EXPLAINED``."""
        given = _columns(features, names, EXPLAINED)
        arm, wheel = arm_terms(features, names), wheel_terms(features, names)
        return np.asarray(given - np.hstack([arm @ self.arm, wheel @ self.wheel]))

    def roughness(self, features: Array, names: Sequence[str]) -> Array:
        """By how much the logarithms of ``ROUGH`` are larger than expected, shape (n, 4)."""
        given = np.log(np.maximum(_columns(features, names, ROUGH), SMALLEST))
        speeds = _columns(features, names, SPEEDS)
        expected = [rough_terms(speeds[:, k]) @ self.rough[k] for k in range(len(ROUGH))]
        return np.asarray(given - np.stack(expected, axis=1))

    def write_roughness(self, writer: GraphWriter, features: str, names: Sequence[str]) -> str:
        """Adds ``roughness`` to a graph: (B, F) to (B, 4)."""
        at, by = (writer.ints(*(names.index(n) for n in which)) for which in (ROUGH, SPEEDS))
        given = writer.op("Max", writer.op("Gather", features, at, axis=1), writer.floats(SMALLEST))
        speed = writer.op("Abs", writer.op("Gather", features, by, axis=1))
        faster = writer.op(
            "Log", writer.op("Add", writer.op("Div", speed, writer.floats(SLOW)), writer.floats(1.0))
        )
        base, slope, line = (_constant(writer, self.rough[:, k].reshape(1, -1)) for k in range(ROUGH_TERMS))
        grown = writer.op("Add", writer.op("Mul", faster, slope), writer.op("Mul", speed, line))
        return writer.op("Sub", writer.op("Log", given), writer.op("Add", grown, base))

    def write(self, writer: GraphWriter, features: str, names: Sequence[str]) -> str:
        """Adds ``residuals`` to a graph: (B, F) to (B, 4)."""
        arm = writer.op("MatMul", _write_arm(writer, features, names), _constant(writer, self.arm))
        wheel = writer.op("MatMul", _write_wheel(writer, features, names), _constant(writer, self.wheel))
        at = writer.ints(*(names.index(name) for name in EXPLAINED))
        given = writer.op("Gather", features, at, axis=1)
        return writer.op("Sub", given, writer.op("Concat", arm, wheel, axis=1))


def fit_motion(features: Array, names: Sequence[str]) -> MotionFit:
    """The fit on rows of healthy windows, shape (n, F)."""
    given = _columns(features, names, EXPLAINED)
    arm = _least_squares(arm_terms(features, names), given[:, :2])
    wheel = _least_squares(wheel_terms(features, names), given[:, 2:])
    logs = np.log(np.maximum(_columns(features, names, ROUGH), SMALLEST))
    speeds = _columns(features, names, SPEEDS)
    rough = [_least_squares(rough_terms(speeds[:, k]), logs[:, k]) for k in range(len(ROUGH))]
    return MotionFit(arm, wheel, np.stack(rough))


def arm_terms(features: Array, names: Sequence[str]) -> Array:
    """Terms of the joints' currents, shape (n, ``ARM_TERMS``)."""
    q1, q2, v1, a1, v2, a2 = _columns(features, names, NEEDED[:6]).T
    c2, s2 = np.cos(q2), np.sin(q2)
    parts = (
        np.cos(q1),
        np.cos(q1 + q2),
        a1,
        a2,
        c2 * a1,
        c2 * a2,
        s2 * v2 * (2 * v1 + v2),
        s2 * v1 * v1,
        np.tanh(v1 / CREEP),
        v1,
        np.tanh(v2 / CREEP),
        v2,
        np.ones_like(q1),
    )
    return np.stack(parts, axis=1)


def wheel_terms(features: Array, names: Sequence[str]) -> Array:
    """Terms of the wheel's current and the vehicle's acceleration, shape (n, ``WHEEL_TERMS``)."""
    speed, rate = _columns(features, names, NEEDED[6:]).T
    return np.stack([rate, speed, np.tanh(speed), np.ones_like(speed)], axis=1)


def rough_terms(speed: Array) -> Array:
    """Terms of the logarithm of a roughness, shape (n, ``ROUGH_TERMS``)."""
    fast = np.abs(speed)
    return np.stack([np.ones_like(fast), np.log1p(fast / SLOW), fast], axis=1)


def _least_squares(terms: Array, given: Array) -> Array:
    squares = terms.T @ terms
    ridge = RIDGE * np.diag(np.maximum(np.diag(squares), RIDGE))
    solved: Array = np.linalg.solve(squares + ridge, terms.T @ given).astype(np.float64)
    return rounded(solved, DIGITS)


def _columns(features: Array, names: Sequence[str], wanted: Sequence[str]) -> Array:
    return np.asarray(features[:, [names.index(name) for name in wanted]], dtype=np.float64)


def _constant(writer: GraphWriter, values: Array) -> str:
    return writer.constant(values.astype(np.float32))


def _gathered(writer: GraphWriter, features: str, names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Each wanted column, shape (B, 1)."""
    return [writer.op("Gather", features, writer.ints(names.index(n)), axis=1) for n in wanted]


def _write_arm(writer: GraphWriter, features: str, names: Sequence[str]) -> str:
    q1, q2, v1, a1, v2, a2 = _gathered(writer, features, names, NEEDED[:6])
    c2, s2 = writer.op("Cos", q2), writer.op("Sin", q2)
    turned = writer.op("Mul", s2, v2)
    both = writer.op("Add", writer.op("Mul", v1, writer.floats(2.0)), v2)
    parts = (
        writer.op("Cos", q1),
        writer.op("Cos", writer.op("Add", q1, q2)),
        a1,
        a2,
        writer.op("Mul", c2, a1),
        writer.op("Mul", c2, a2),
        writer.op("Mul", turned, both),
        writer.op("Mul", s2, writer.op("Mul", v1, v1)),
        writer.op("Tanh", writer.op("Div", v1, writer.floats(CREEP))),
        v1,
        writer.op("Tanh", writer.op("Div", v2, writer.floats(CREEP))),
        v2,
        _ones(writer, q1),
    )
    return writer.op("Concat", *parts, axis=1)


def _write_wheel(writer: GraphWriter, features: str, names: Sequence[str]) -> str:
    speed, rate = _gathered(writer, features, names, NEEDED[6:])
    return writer.op("Concat", rate, speed, writer.op("Tanh", speed), _ones(writer, speed), axis=1)


def _ones(writer: GraphWriter, column: str) -> str:
    return writer.op("Add", writer.op("Mul", column, writer.floats(0.0)), writer.floats(1.0))
