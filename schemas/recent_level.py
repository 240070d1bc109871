"""What a graph is told of the windows just before: the recent level of each feature, which the device keeps.

The recent level is a running mean of the device's own features, of the windows that ended before this one
began: those that share samples with it would foretell it by themselves. The newest of them counts with a
stated weight, those before with what is left; with weight 1 it is that window alone. The device keeps it for
the model in force, and the cloud computes the same of rows in order. What is not known is NaN: nothing was
measured before, or nothing for longer than the running mean reaches back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.profile import Sampling

RECENT = "recent"
"""Name of the graph's input, shape (batch, F): the recent level of each feature before the window, NaN where
it is not known."""
REACH = 1.5
"""Running means' lengths after which a level is not known any more: with weight 1, one and a half windows."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WindowTiming:
    """How long windows are, and how far apart.

    Attributes:
        hop_us: Time between two windows, microseconds.
        window_us: Length of a window, microseconds.
    """

    hop_us: int
    window_us: int

    @classmethod
    def of(cls, sampling: Sampling) -> WindowTiming:
        """Of a profile's windows."""
        length_s = sampling.window_samples / sampling.rate_hz
        return cls(round(sampling.hop_s * 1e6), round(length_s * 1e6))


class RecentLevel:
    """Recent level of the features of one device.

    Args:
        width: Number of features.
        weight: Of the newest window, in (0, 1]; among the first windows all count alike.
        timing: Of the windows.

    Raises:
        ValueError: The weight lies outside (0, 1].

    >>> level = RecentLevel(1, 0.25, WindowTiming(hop_us=1000, window_us=2000))
    >>> for at_us, value in ((1000, 4.0), (2000, 8.0), (3000, 16.0)):
    ...     level.add(np.array([value]), at_us)
    >>> level.before(4000).tolist()  # the window from 2000 on
    [6.0]
    """

    def __init__(self, width: int, weight: float, timing: WindowTiming) -> None:
        if not 0.0 < weight <= 1.0:
            raise ValueError(f"the newest window counts with a weight in (0, 1], not {weight:g}")
        self._weight = weight
        hop_us, window_us = timing.hop_us, timing.window_us
        self._apart_us = window_us - hop_us // 2  # clocks are not exact
        self._reach_us = max(window_us - hop_us, 0) + round(REACH * hop_us / weight)
        self._held: list[tuple[int, Doubles]] = []
        self._level: Doubles = np.full(width, np.nan)
        self._count = np.zeros(width, dtype=np.int64)
        self._at_us = np.zeros(width, dtype=np.int64)

    @property
    def weight(self) -> float:
        """Of the newest window."""
        return self._weight

    @property
    def newest_us(self) -> int:
        """End of the newest window that was added, microseconds since 1970; 0: there is none."""
        return self._held[-1][0] if self._held else int(self._at_us.max(initial=0))

    def before(self, at_us: int) -> Doubles:
        """The level before a window that ends at this time, microseconds since 1970, shape (F,)."""
        while self._held and not 0 <= at_us - self._held[0][0] < self._apart_us:
            self._count_in(*self._held.pop(0))
        return np.where(self._known(at_us), self._level, np.nan)

    def add(self, features: NDArray[np.floating], at_us: int) -> None:
        """Have a window's features, shape (F,), count from the first window on that does not overlap it.

        What is not finite does not count. A level that is not known any more, or lies in the future because
        the clock was set back, begins anew.
        """
        self._held.append((at_us, np.array(features, dtype=np.float64)))

    def _count_in(self, at_us: int, features: Doubles) -> None:
        given = np.isfinite(features)
        count = np.where(self._known(at_us), self._count, 0) + 1
        off = np.where(given & (count > 1), features - self._level, 0.0)
        level = np.where(count > 1, self._level, features) + np.maximum(self._weight, 1 / count) * off
        self._level = np.where(given, level, self._level)
        self._count = np.where(given, count, self._count)
        self._at_us = np.where(given, at_us, self._at_us)

    def go_on_from(self, other: RecentLevel) -> None:
        """Take over another one's level of the same device, if that is newer and of the same weight."""
        same = other._weight == self._weight and other._level.shape == self._level.shape
        if same and other.newest_us > self.newest_us:
            self._level, self._count, self._at_us = other._level, other._count, other._at_us
            self._held = list(other._held)

    def export(self) -> dict[str, Any]:
        """State as a JSON value; a level that is not known is null."""
        return {
            "weight": self._weight,
            "level": _listed(self._level),
            "count": self._count.tolist(),
            "at_us": self._at_us.tolist(),
            "held": [[at_us, _listed(features)] for at_us, features in self._held],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what was exported; the level of another weight is none of this one.

        Raises:
            ValueError, KeyError, TypeError: It cannot be read, or is of another number of features.
        """
        if state["weight"] != self._weight:
            return
        level, held = _array(state["level"]), [(int(at), _array(row)) for at, row in state["held"]]
        count, at_us = (np.array(state[name], dtype=np.int64) for name in ("count", "at_us"))
        shapes = {level.shape, count.shape, at_us.shape, *(row.shape for _, row in held)}
        if shapes != {self._level.shape}:
            raise ValueError("the recent level is of another number of features")
        if (count < 0).any() or (np.isfinite(level) != (count > 0)).any():
            raise ValueError("the recent level is damaged")
        self._level, self._count, self._at_us, self._held = level, count, at_us, held

    def _known(self, at_us: int) -> NDArray[np.bool_]:
        since = at_us - self._at_us
        return (self._count > 0) & (since >= 0) & (since <= self._reach_us)


def _listed(values: Doubles) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _array(values: Sequence[float | None]) -> Doubles:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def recent_levels(
    features: Doubles,
    at_us: NDArray[np.int64],
    weight: float,
    timing: WindowTiming,
    counted: NDArray[np.bool_],
) -> Doubles:
    """The recent level before each of a device's windows, shape (n, F).

    Args:
        features: Of its windows in the order of time, shape (n, F); NaN: missing.
        at_us: End of each window, microseconds since 1970, shape (n,).
        weight: As for ``RecentLevel``.
        timing: As for ``RecentLevel``.
        counted: Windows that later levels are made of, shape (n,).
    """
    found, level = np.full(features.shape, np.nan), RecentLevel(features.shape[1], weight, timing)
    for row, at in enumerate(at_us.tolist()):
        found[row] = level.before(at)
        if counted[row]:
            level.add(features[row], at)
    return found
