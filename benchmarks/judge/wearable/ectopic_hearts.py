"""Beats of hearts that are not our generator's: sinus rhythm with premature beats, races, and fibrillation.

Premature beats come early by varied shares of the interval, and half of them reset the sinus instead of
being followed by a compensatory pause. Intervals of fibrillation are independent draws (Zeng and Glass 1996:
they hardly depend on one another), with a coefficient of variation of 0.15 to 0.25.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

EARLY = (0.5, 0.85)
"""Interval that a premature beat ends, in usual ones."""


def sinus(
    rng: np.random.Generator,
    seconds: float,
    premature: float = 0.0,
    couplets: float = 0.0,
    breath: float = 0.04,
) -> Array:
    """Times of beats.

    Args:
        rng: Draws.
        seconds: Length of the stretch.
        premature: Share of beats that are followed by a premature one.
        couplets: Share of these that are followed by another one.
        breath: Amplitude by which breathing moves intervals, a share of them.
    """
    interval, hz, t = rng.uniform(0.6, 1.05), rng.uniform(0.18, 0.3), 0.0
    at: list[float] = []
    while t < seconds:
        moved = breath * np.sin(2 * np.pi * hz * t) + 0.03 * np.sin(2 * np.pi * 0.1 * t)
        usual = interval * (1 + moved + rng.normal(0.0, 0.015))
        if rng.random() < premature:
            for _ in range(2 if rng.random() < couplets else 1):
                early = usual * rng.uniform(*EARLY)
                t += early
                at.append(t)
            t += 2 * usual - early if rng.random() < 0.5 else usual * rng.uniform(1.0, 1.2)
        else:
            t += usual
        at.append(t)
    return np.array(at)


def racing(rng: np.random.Generator, seconds: float) -> Array:
    """Intervals of a heart that races from one beat to the next, at 120 to 180 a minute."""
    interval = 60.0 / rng.uniform(120.0, 180.0)
    return np.asarray(interval * (1 + rng.normal(0.0, 0.01, int(seconds / interval))))


def fibrillating(rng: np.random.Generator, seconds: float) -> Array:
    """Intervals of atrial fibrillation at 70 to 120 a minute."""
    mean, varied = 60.0 / rng.uniform(70.0, 120.0), rng.uniform(0.15, 0.25)
    return np.asarray(np.maximum(rng.gamma(1 / varied**2, mean * varied**2, int(seconds / mean)), 0.3))
