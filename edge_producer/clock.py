"""A clock for waiting and ageing: seconds since 1970 that never step back while the process runs."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]


class SteadyClock:
    """Wall time at the start, advanced by the monotonic clock, which NTP does not step.

    Not for event times: the source gives those.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Seconds since 1970."""
        return time.monotonic() + self._offset
