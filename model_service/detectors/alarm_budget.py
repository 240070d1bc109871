"""Alarm budget: from distances of healthy windows to the threshold that keeps to it. Pure.

An alarm is the start of an incident, counted as devices count: some windows in a row at or above the
threshold, and quiet windows between two incidents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

DAY_S = 86400.0
COUNTABLE = 1.0
"""Alarms that a history must allow before its own count of alarms is taken. One that is too short to allow
any shows nothing about the budget: there the tail of its distances is extended instead."""
TAIL_SHARE = 0.1
"""Share of the farthest healthy windows that the tail is fitted to."""
ABOVE_LARGEST = 1.05
"""A threshold lies at least so far above the largest healthy distance where the tail decides."""
FARTHEST = 1.15
"""It lies at most at this multiple of the largest: a tail of few windows must not blind the detector."""


@dataclass(frozen=True, slots=True)
class AlarmRule:
    """How windows become alarms on a device, and how many false ones are allowed.

    Attributes:
        per_device_day: The budget.
        hop_s: Seconds between windows.
        after_windows: Windows in a row before an alarm.
        refractory_windows: Quiet windows after which another alarm counts.
    """

    per_device_day: float
    hop_s: float
    after_windows: int = 1
    refractory_windows: int = 12

    @property
    def windows_per_day(self) -> float:
        """Windows of one device in a day."""
        return DAY_S / self.hop_s

    def starts(self, high: Flags) -> Flags:
        """The windows at which an alarm starts, of one device's windows in order, shape (n,)."""
        starts = np.zeros(len(high), dtype=bool)
        run, quiet, running = 0, self.refractory_windows + 1, False
        for at, is_high in enumerate(high.tolist()):
            run = run + 1 if is_high else 0
            running = run >= self.after_windows
            if running:
                starts[at] = quiet > self.refractory_windows
                quiet = 0
            else:
                quiet += 1
        return starts

    def lasting(self, distance: Array) -> Array:
        """Distance that the last ``after_windows`` windows all have: what an alarm begins at, shape (n,).

        NaN where one of them has none, or there are not so many.
        """
        found = np.array(distance, dtype=np.float64)
        for back in range(1, self.after_windows):
            found[back:] = np.minimum(found[back:], distance[:-back])
            found[: min(back, len(found))] = np.nan
        return found

    def cost(self, high: Flags) -> int:
        """Alarms that one device's windows cost its people; an alarm that lasts counts again and again.

        Each counted one covers itself and ``refractory_windows`` more. That is the least number of such
        covers, so it never falls when more windows are high: else the lowest threshold of all, which alarms
        once and for ever, would cost one alarm.
        """
        cost, covered, run = 0, -1, 0
        for at, is_high in enumerate(high.tolist()):
            run = run + 1 if is_high else 0
            if run >= self.after_windows and at > covered:
                cost, covered = cost + 1, at + self.refractory_windows
        return cost

    def count(self, devices: Sequence[Array], threshold: float) -> int:
        """Cost of distances of several devices, each in order."""
        return sum(self.cost(np.nan_to_num(d) >= threshold) for d in devices)


@dataclass(frozen=True, slots=True)
class AlarmThreshold:
    """A threshold, and what it rests on.

    Attributes:
        distance: From it on a window counts as high.
        counted: Whether the history was long enough to count alarms; else its tail was extended.
        device_days: Length of that history.
        alarms: Alarms in it at this threshold.
    """

    distance: float
    counted: bool
    device_days: float
    alarms: int


def threshold_for(devices: Sequence[Array], rule: AlarmRule) -> AlarmThreshold:
    """The lowest threshold that keeps to the budget on healthy distances.

    Args:
        devices: Distances of healthy windows of each device in the order of time; NaN: no distance.
        rule: Gives the budget.

    Raises:
        ValueError: No finite distance.
    """
    every = np.concatenate([d[np.isfinite(d)] for d in devices])
    if not len(every):
        raise ValueError("no healthy window has a distance")
    days = len(every) / rule.windows_per_day
    allowed = rule.per_device_day * days
    if allowed >= COUNTABLE:
        distance, counted = _counted(devices, every, rule, allowed), True
    else:
        distance, counted = _extended(every, rule), False
        lasting = np.concatenate([rule.lasting(d) for d in devices])
        if rule.after_windows > 1 and np.isfinite(lasting).any():
            # Single windows raise no alarm, but the few that lasted show less of the tail: halfway.
            distance = math.sqrt(distance * _extended(lasting[np.isfinite(lasting)], rule))
    return AlarmThreshold(distance, counted, days, rule.count(devices, distance))


def _counted(devices: Sequence[Array], every: Array, rule: AlarmRule, allowed: float) -> float:
    """By bisection over the distances themselves: fewer windows are high at a higher threshold."""
    ordered = np.unique(every)
    low, high = 0, len(ordered)  # at index len(ordered) nothing alarms
    while low < high:
        middle = (low + high) // 2
        if rule.count(devices, float(ordered[middle])) <= allowed:
            high = middle
        else:
            low = middle + 1
    # Between two distances: the windows that decide must not lie on the threshold itself.
    above = float(ordered[low]) if low < len(ordered) else ABOVE_LARGEST * float(ordered[-1])
    below = float(ordered[low - 1]) if low else above
    return (above + below) / 2


def _extended(every: Array, rule: AlarmRule) -> float:
    """Beyond the largest distance by an exponential tail (the peaks over a threshold of Pickands)."""
    base = float(np.quantile(every, 1 - TAIL_SHARE))
    beyond = every[every > base] - base
    mean = float(beyond.mean()) if len(beyond) else 0.0
    per_day = TAIL_SHARE * rule.windows_per_day
    largest = float(every.max())
    extended = base + mean * max(0.0, math.log(per_day / rule.per_device_day))
    return min(max(extended, ABOVE_LARGEST * largest), FARTHEST * largest)
