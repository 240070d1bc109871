"""Sums the refused reports of twins, so that a twin cannot fill the registry with events. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

PERIOD_S: Final = 600.0
"""Least time between two events about one device."""


class TwinReports:
    """Counts refused reports by device, and says when their number is to be recorded.

    >>> twins = TwinReports()
    >>> twins.refused("m-1", now=0.0)
    >>> twins.due(now=0.0)  # the first at once
    {'m-1': 1}
    >>> twins.refused("m-1", now=1.0)
    >>> twins.due(now=2.0), twins.unrecorded()
    ({}, {'m-1': 1})
    >>> twins.due(now=600.0)
    {'m-1': 1}
    """

    def __init__(self) -> None:
        self._unrecorded: Counter[str] = Counter()
        self._recorded_at: dict[str, float] = {}

    def refused(self, device_id: str, now: float) -> None:
        """A report was refused because its number belongs to another one."""
        self._unrecorded[device_id] += 1
        self._recorded_at = {d: at for d, at in self._recorded_at.items() if now - at < PERIOD_S}

    def due(self, now: float, *, all_now: bool = False) -> dict[str, int]:
        """Numbers to record now, by device; they count as recorded.

        Args:
            now: Seconds, of a clock that does not go back.
            all_now: Also those whose period is not over: the process ends.
        """
        over = {
            device_id: number
            for device_id, number in self._unrecorded.items()
            if all_now or now - self._recorded_at.get(device_id, -PERIOD_S) >= PERIOD_S
        }
        for device_id in over:
            del self._unrecorded[device_id]
            self._recorded_at[device_id] = now
        return over

    def restore(self, numbers: dict[str, int]) -> None:
        """Numbers could not be recorded: they are due again."""
        for device_id, number in numbers.items():
            self._unrecorded[device_id] += number
            self._recorded_at.pop(device_id, None)

    def unrecorded(self) -> dict[str, int]:
        """Numbers that are not recorded yet, by device."""
        return dict(self._unrecorded)
