"""A device's own recent healthy windows, for trials of new models. They stay in memory, and on the device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_producer.window import Samples, Window
from schemas.instants import to_us

MAX_WINDOWS = 24
MAX_BYTES = 256 * 1024
"""Most memory for the windows of one device; fewer windows are kept where they are large."""
EVERY = 8
"""Once as many windows are kept as may be, only every eighth healthy one replaces the oldest."""


class KeptWindow(NamedTuple):
    """Samples of a window, shape (W, C), and its event time, microseconds since 1970."""

    samples: Samples
    end_us: int


class HealthyWindows:
    """The newest complete windows that the model in force took for healthy.

    The sensing thread adds; any thread may read.
    """

    def __init__(self) -> None:
        self._kept: tuple[KeptWindow, ...] = ()
        self._since = 0

    @property
    def newest(self) -> tuple[KeptWindow, ...]:
        """The windows kept, oldest first."""
        return self._kept

    def add(self, window: Window, *, healthy: bool) -> None:
        """Keep a window if it is healthy, complete and due.

        Args:
            window: Its samples are copied, because a source may have cut them from something larger.
            healthy: The model in force gave it a score, and no output of it an alarm.
        """
        if not healthy:
            return
        samples = window.samples
        room = min(MAX_WINDOWS, MAX_BYTES // max(samples.nbytes, 1))
        if len(self._kept) >= room:
            self._since += 1
            if not room or self._since < EVERY:
                return
        if not np.isfinite(samples).all():
            return
        self._since = 0
        self._kept = (*self._kept, KeptWindow(samples.copy(), to_us(window.end)))[-room:]
