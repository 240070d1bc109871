"""One watched statistic of one feature: its baseline, and its values since in baseline standard deviations.

The unit comes from the spread between *devices*, not from the number of rows: rows of one device resemble
each other, and a cohort's mean wanders as its devices do. With d devices of spread s it is s / sqrt(d), taken
larger where s rests on few devices, or the observed spread of the baseline's windows where that is larger.
Where a window has fewer or more devices than the baseline (a part of the fleet is offline), the mean over
other devices is another mean even when none of them moved: its variance, s^2 * |1/d - 1/d0| for a simple
random sample, is added to the unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from schemas.profile import DriftPolicy
from stream_processors.drift.change import SeriesChange, find_change, robust_sd, small_sample
from stream_processors.drift.detectors import in_alarm
from stream_processors.windowing.moments import FloatArray

KEPT = 512
"""Most values kept; beyond it the older half is dropped."""
_LARGEST = 1e3
_FLAT = 1e-4
"""Least unit, as a share of the level: a constant channel has no spread to divide by."""
_ALARM_LASTS = 4
"""Windows after an alarm in which a shift may still become large enough for a verdict."""
_MOST_CAUTION = 1.5
_LEAST_DEVICES = 0.9
"""Share of the devices that a window of the baseline must have."""


class Reading(NamedTuple):
    """The statistic over one window.

    Attributes:
        spread: Standard deviation of one device's contribution to it.
        devices: Devices that contributed.
    """

    value: float
    spread: float
    devices: int


class SeriesBaseline(NamedTuple):
    """What is normal for a series.

    Attributes:
        level: Median over the baseline's windows.
        unit: Standard deviation of the statistic over windows, the unit of all later values.
        spread: As in ``Reading``, median.
        devices: Median count of devices.
    """

    level: float
    unit: float
    spread: float
    devices: float

    def standardise(self, reading: Reading) -> float:
        """The reading in baseline standard deviations, rounded to what is stored."""
        other_devices = abs(1 / reading.devices - 1 / self.devices) * max(self.spread, reading.spread) ** 2
        z = (reading.value - self.level) / math.sqrt(self.unit**2 + other_devices)
        return round(min(max(z, -_LARGEST), _LARGEST), 3)


def baseline_of(readings: list[Reading]) -> SeriesBaseline:
    """Baseline from the first windows: robust where they are many, cautious where they are few."""
    values, spreads, devices = (np.array(column, dtype=np.float64) for column in zip(*readings, strict=True))
    level, spread, count = float(np.median(values)), float(np.median(spreads)), float(np.median(devices))
    over_time = robust_sd(values) * small_sample(len(values))
    caution = min(small_sample(round(count)), _MOST_CAUTION) if count > 1 else 1.0
    unit = max(over_time, caution * spread / math.sqrt(count), _FLAT * abs(level), 1e-12)
    return SeriesBaseline(level, unit, spread, count)


@dataclass(frozen=True)
class Series:
    """A statistic since its last baseline.

    Attributes:
        warm: Readings, until there are enough for a baseline.
        z: Standardised values, one a window up to the newest; None where a window had none.
        since_alarm: Windows since the detector's last alarm; None: no alarm to examine.
    """

    warm: tuple[Reading, ...] = ()
    baseline: SeriesBaseline | None = None
    z: tuple[float | None, ...] = ()
    since_alarm: int | None = None

    def observe(self, reading: Reading | None, policy: DriftPolicy) -> Series:
        """The series one window later; a reading of None is a window without a value."""
        if self.baseline is not None:
            value = None if reading is None else self.baseline.standardise(reading)
            return self._extend(value, policy)
        if reading is None:
            return self
        return self._warm_up(reading, policy)

    def skip(self, windows: int) -> Series:
        """The series after windows without any data of the cohort."""
        if self.baseline is None:
            return self
        return replace(self, z=_bounded((*self.z, *[None] * min(windows, KEPT))))

    def change(self, policy: DriftPolicy) -> SeriesChange | None:
        """A change after an alarm, large and lasting enough for a verdict; None: there is none."""
        if self.since_alarm is None:
            return None
        found = find_change(self.values(), _least_before(policy))
        if found is None or abs(found.size) < policy.min_effect * max(1.0, found.noise):
            return None
        return found

    def values(self) -> FloatArray:
        """The values there are, in order."""
        return np.array([v for v in self.z if v is not None], dtype=np.float64)

    def windows_back(self, index: int) -> int:
        """How many windows before the newest one the value with this index (of ``values``) lies."""
        indices = [i for i, v in enumerate(self.z) if v is not None]
        return len(self.z) - 1 - indices[index]

    def shift_since(self, windows_back: int, policy: DriftPolicy) -> float | None:
        """How far the newest windows lie from those just before; None where the baseline is no older."""
        cut = len(self.z) - 1 - windows_back
        old = [v for v in self.z[: max(cut, 0)] if v is not None]
        new = [v for v in self.z[max(cut, 0) :] if v is not None]
        if len(old) < policy.warmup_windows or not new:
            return None
        return float(np.median(new) - np.median(old[-policy.warmup_windows :]))

    def to_state(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "warm": [list(r) for r in self.warm],
            "base": list(self.baseline) if self.baseline else None,
            "z": list(self.z),
            "alarm": self.since_alarm,
        }

    @classmethod
    def from_state(cls, raw: Mapping[str, Any]) -> Series:
        """From JSON."""
        base = SeriesBaseline(*raw["base"]) if raw["base"] else None
        return cls(tuple(Reading(*r) for r in raw["warm"]), base, tuple(raw["z"]), raw["alarm"])

    def _warm_up(self, reading: Reading, policy: DriftPolicy) -> Series:
        """The series with one more reading for its baseline; windows that lack devices are left out."""
        most = max([reading.devices, *(r.devices for r in self.warm)])
        kept = tuple(r for r in (*self.warm, reading) if r.devices >= _LEAST_DEVICES * most)
        if len(kept) < policy.warmup_windows:
            return replace(self, warm=kept)
        baseline = baseline_of(list(kept))
        return Series((), baseline, tuple(baseline.standardise(r) for r in kept))

    def _extend(self, value: float | None, policy: DriftPolicy) -> Series:
        z = _bounded((*self.z, value))
        since = self.since_alarm
        if since is not None:
            since = since + 1 if since < _ALARM_LASTS else None
        extended = replace(self, z=z, since_alarm=since)
        if value is not None and in_alarm(extended.values().tolist(), policy):
            return replace(extended, since_alarm=0)
        return extended


def _least_before(policy: DriftPolicy) -> int:
    """Values before a change: the baseline's windows, but for one that the change may have hit."""
    return max(2, policy.warmup_windows - 1)


def _bounded(z: tuple[float | None, ...]) -> tuple[float | None, ...]:
    return z if len(z) <= KEPT else z[-(KEPT // 2) :]
