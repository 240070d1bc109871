"""Faults that any sensor can have, injected into raw windows at graded sizes. Pure and seeded.

They stand in for faults that a history does not show: a detector that sees none of them at the allowed rate
of false alarms will hardly see a real one. Sizes are in units of what is usual for the channel, so that the
same size means the same for a pressure and a temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Windows = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ChannelScale:
    """What is usual for one channel.

    Attributes:
        level: Spread of its samples over the whole history.
        noise: Typical spread of its samples within one window.
    """

    level: float
    noise: float


@dataclass(frozen=True, slots=True, eq=False)
class FaultSubject:
    """Windows of one channel that a fault is injected into.

    Attributes:
        samples: Shape (n, W).
        others: The same channel in windows of other times, shape (n, W).
        noise: Standard normal numbers, shape (n, W).
        scale: What is usual.
    """

    samples: Windows
    others: Windows
    noise: Windows
    scale: ChannelScale


def step(given: FaultSubject, size: float) -> Windows:
    """The level is higher by ``size`` usual spreads, all the window."""
    return given.samples + size * given.scale.level


def ramp(given: FaultSubject, size: float) -> Windows:
    """The level rises to ``size`` usual spreads at the window's end."""
    rise = np.linspace(0.0, 1.0, given.samples.shape[1])
    return np.asarray(given.samples + size * given.scale.level * rise)


def spike(given: FaultSubject, size: float) -> Windows:
    """One sample lies ``size`` usual spreads away."""
    faulty = given.samples.copy()
    faulty[:, faulty.shape[1] // 2] += size * given.scale.level
    return faulty


def noise_growth(given: FaultSubject, size: float) -> Windows:
    """Noise of ``size`` times the spread within a window is added."""
    return np.asarray(given.samples + size * given.scale.noise * given.noise)


def stuck(given: FaultSubject, share: float) -> Windows:
    """The last ``share`` of the window repeats one sample."""
    width = given.samples.shape[1]
    first = width - max(2, round(share * width)) if width > 1 else 0
    faulty = given.samples.copy()
    faulty[:, first:] = faulty[:, first : first + 1]
    return faulty


def dropout(given: FaultSubject, share: float) -> Windows:
    """The first ``share`` of the samples read 0, as from a bus that gives nothing."""
    faulty = given.samples.copy()
    faulty[:, : max(1, round(share * faulty.shape[1]))] = 0.0
    return faulty


def decoupled(given: FaultSubject, share: float) -> Windows:
    """The channel goes over, by ``share``, to what it did at another time, while the others do not."""
    return np.asarray((1 - share) * given.samples + share * given.others)


SPREADS = (1.0, 2.0, 4.0, 8.0)
SHARES = (0.25, 0.5, 0.75, 1.0)
GENERIC_FAULTS: Mapping[str, tuple[Callable[[FaultSubject, float], Windows], tuple[float, ...]]] = {
    "step": (step, SPREADS),
    "ramp": (ramp, SPREADS),
    "spike": (spike, SPREADS),
    "noise_growth": (noise_growth, SPREADS),
    "stuck": (stuck, SHARES),
    "dropout": (dropout, SHARES),
    "decoupled": (decoupled, SHARES),
}
"""By kind: how it is injected, and its sizes. ``decoupled`` needs a second channel."""
