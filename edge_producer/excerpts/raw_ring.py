"""The newest raw samples of the channels that a profile lets be asked for, in memory, bounded.

They are written nowhere: an end of the process, a power cut or a withdrawn consent leaves none.
"""

from __future__ import annotations

from datetime import datetime
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_producer.window import Window
from schemas.excerpt_policy import ExcerptPolicy, held_samples
from schemas.instants import to_us
from schemas.profile import Profile

_GRID_SHARE = 0.5
"""Share of a step by which a window may be off the grid of those before it."""
_ROUNDED_US = 2.0
"""By how much two instants of one grid may differ, each rounded to µs."""


class HeldSamples(NamedTuple):
    """Consecutive samples of one boot.

    Attributes:
        start_us: Instant of the first, µs since 1970.
        values: Shape (samples, channels), float64, in the order that was asked for.
    """

    boot_id: int
    start_us: int
    values: NDArray[np.float64]


class RawRing:
    """One device's. The sensing loop adds, another thread takes.

    What does not follow on what is held (a gap, a clock that was set, another boot) empties it first, so all
    that it holds is one unbroken stretch.

    Args:
        profile: The device's; it has excerpts.
        policy: Of that profile.
    """

    def __init__(self, profile: Profile, policy: ExcerptPolicy) -> None:
        self._rate_hz = profile.sampling.rate_hz
        self._names = policy.channels
        self._columns = [profile.channel_names.index(name) for name in policy.channels]
        self._size = held_samples(policy, self._rate_hz)
        self._values: NDArray[np.float64] | None = None
        self._at = self._held = 0
        self._end_us = 0
        self._boot_id = 0
        self._lock = Lock()

    @property
    def seconds(self) -> float:
        """Length of what is held."""
        return self._held / self._rate_hz

    def add(self, window: Window, boot_id: int) -> None:
        """Hold what is new in a window."""
        end_us, step_us = to_us(window.end), 1e6 / self._rate_hz
        n = len(window.samples)
        fresh = (end_us - self._end_us) / step_us
        with self._lock:
            whole = round(fresh)
            follows = self._held and boot_id == self._boot_id and abs(fresh - whole) < _GRID_SHARE
            if not (follows and 0 < whole <= n):
                self._forget()
                whole = n
            self._append(window.samples[n - whole :, self._columns].astype(np.float64))
            self._end_us, self._boot_id = end_us, boot_id

    def clear(self) -> None:
        """Forget all; the memory is overwritten."""
        with self._lock:
            self._forget()

    def reach(self) -> tuple[int, int] | None:
        """Instants of the oldest and the newest sample, µs since 1970; None: nothing is held."""
        with self._lock:
            return (self._start_us(), self._end_us) if self._held else None

    def take(self, start: datetime, end: datetime, channels: tuple[str, ...]) -> HeldSamples | None:
        """Samples of a span, both ends included; None where not all of it is held."""
        with self._lock:
            if not self._held or self._values is None:
                return None
            oldest, step_us = self._start_us(), 1e6 / self._rate_hz
            slack = min(_ROUNDED_US / step_us, 0.4)
            first = int(np.ceil((to_us(start) - oldest) / step_us - slack))
            last = int(np.floor((to_us(end) - oldest) / step_us + slack))
            if to_us(start) < oldest - step_us or to_us(end) > self._end_us or first > last:
                return None
            first = max(first, 0)
            columns = [self._names.index(name) for name in channels]
            places = (self._at - self._held + np.arange(first, last + 1)) % self._size
            values = self._values[places][:, columns]
            return HeldSamples(self._boot_id, oldest + round(first * step_us), values)

    def _start_us(self) -> int:
        return self._end_us - round((self._held - 1) * 1e6 / self._rate_hz)

    def _append(self, rows: NDArray[np.float64]) -> None:
        if self._values is None:
            self._values = np.empty((self._size, len(self._columns)))
        rows = rows[-self._size :]
        places = (self._at + np.arange(len(rows))) % self._size
        self._values[places] = rows
        self._at = (self._at + len(rows)) % self._size
        self._held = min(self._held + len(rows), self._size)

    def _forget(self) -> None:
        if self._values is not None:
            self._values.fill(0.0)
        self._values, self._at, self._held, self._end_us = None, 0, 0, 0
