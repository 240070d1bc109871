"""What a robot does, again and again: moves of the arm between points, and a drive to and fro."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CYCLE_S = 2.5
HOME = (1.25, -1.5)
MOVES_S = ((0.10, 0.80), (0.95, 1.60), (1.75, 2.40))
"""Beginning and end of each move of the arm; the last one leads home."""
DRIVES_S = ((0.20, 1.10), (1.40, 2.30))
"""Beginning and end of the drive forth, and of that back."""
STEP_RAD = 0.04
"""Spread of a point from cycle to cycle: parts lie a little elsewhere each time."""


@dataclass(frozen=True, slots=True)
class PlannedCycle:
    """One cycle as planned, n samples.

    Attributes:
        q: Joint angles, rad, shape (n, 2); ``dq`` and ``ddq`` are their derivatives.
        speed: Of the vehicle, m/s, shape (n,).
        acceleration: Of the vehicle, m/s², shape (n,).
    """

    q: Array
    dq: Array
    ddq: Array
    speed: Array
    acceleration: Array


def plan_cycle(points: Array, way_m: float, n: int, rate_hz: float) -> PlannedCycle:
    """Smooth moves home, to each point and home again, and a drive forth and back.

    Args:
        points: Of the first two moves, shape (2, 2), rad.
        way_m: Length of the drive.
        n: Samples of the cycle.
        rate_hz: Samples a second.
    """
    t = np.arange(n) / rate_hz
    stops = np.vstack([HOME, points, HOME])
    q, dq, ddq = np.tile(stops[0], (n, 1)), np.zeros((n, 2)), np.zeros((n, 2))
    for (begin, end), way in zip(MOVES_S, np.diff(stops, axis=0), strict=True):
        place, rate, change = _smooth(t, begin, end)
        q += np.outer(place, way)
        dq += np.outer(rate, way)
        ddq += np.outer(change, way)
    speed, acceleration = np.zeros(n), np.zeros(n)
    for (begin, end), sign in zip(DRIVES_S, (1.0, -1.0), strict=True):
        _, rate, change = _smooth(t, begin, end)
        speed += sign * way_m * rate
        acceleration += sign * way_m * change
    return PlannedCycle(q, dq, ddq, speed, acceleration)


def _smooth(t: Array, begin: float, end: float) -> tuple[Array, Array, Array]:
    """Share of a way, its rate and the rate's rate, with the least jerk from rest to rest."""
    length = end - begin
    u = np.clip((t - begin) / length, 0.0, 1.0)
    inside = (t > begin) & (t < end)
    place = u**3 * (10 - 15 * u + 6 * u**2)
    rate = np.where(inside, 30 * u**2 * (1 - u) ** 2, 0.0) / length
    change = np.where(inside, 60 * u * (1 - u) * (1 - 2 * u), 0.0) / length**2
    return place, rate, change
