"""One watched statistic of one feature: its baseline, and its values since.

A shift is measured in the spread of the *window statistic*: how much the statistic moved from window to
window before the shift (``statistic_spread``), whether one device is behind it or many. Values are stored as
distances from the baseline's level in ``SeriesBaseline.unit``, a scale that is fixed when the baseline is
made and means nothing by itself; the spread is taken from these values anew at each window, so it gets surer
with their number.

Devices differ. The mean over other devices is another mean even when none of them moved: its
variance is s^2 * |1/d - 1/d0| for a simple random sample. Where that exceeds the spread of the statistic, or
where a tenth of the devices is missing or new, the window is not compared.

Devices begin within a window. A baseline's first window that lacks a tenth of the next one's rows, and more
than a row of each device, was reached in part: its statistic may lie as far off as a change does, and would
widen what counts as usual. It is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from schemas.learning_policy import DriftPolicy
from stream_processors.drift.change import SeriesChange, find_change
from stream_processors.drift.change_evidence import ChangeTest, log_evidence, log_evidence_of_one
from stream_processors.drift.detectors import in_alarm
from stream_processors.drift.statistic_spread import (
    StatisticSpread,
    memory_of,
    robust_sd,
    small_sample,
    spread_of,
)
from stream_processors.windowing.moments import FloatArray

KEPT = 512
"""Most values kept; beyond it the older half is dropped."""
_LARGEST = 1e3
_DIGITS = 5
"""Significant digits of a stored value."""
_FLAT = 1e-4
"""Least unit, as a share of the level: a constant channel has no spread to divide by."""
_ALARM_LASTS = 4
"""Independent windows after an alarm in which a shift may still become large enough for a verdict."""
_LONGEST_ALARM = 64
"""The same in windows, however much they resemble each other."""
_RECENT = 8
"""Newest windows that the detector's scale does not rest on: they may belong to a new regime already."""
BY_CHANCE = 4.5
"""Standard deviations of chance that a shift must reach: of thousands of windows, some are 3 away."""
_MOST_CAUTION = 1.5
_LEAST_DEVICES = 0.9
"""Share of the devices that a window of the baseline must have."""
_MOST_LACKING = 0.1
"""Share of its rows that a window may lack without counting as reached in part."""


class Reading(NamedTuple):
    """The statistic over one window.

    Attributes:
        spread: Standard deviation of one device's contribution to it.
        devices: Devices that contributed.
        rows: Values in the window; None: not known, in a state from before it was kept.
    """

    value: float
    spread: float
    devices: int
    rows: int | None = None

    def lacks_rows(self, following: Reading) -> bool:
        """Whether devices had reached this window in part only, by what came in the next one."""
        if self.rows is None or following.rows is None:
            return False
        return lacks_rows(self.rows, following.rows, following.devices)


def lacks_rows(rows: int, whole: float, devices: int) -> bool:
    """Whether devices reached a window in part only.

    Args:
        rows: What there is of it.
        whole: What there would be.
        devices: Each may lack one row, as its windows end between those of the others.
    """
    return whole - rows > max(_MOST_LACKING * whole, devices)


class SeriesBaseline(NamedTuple):
    """What is normal for a series.

    Attributes:
        level: Median over the baseline's windows.
        unit: Scale of all later values; not smaller than the spread between devices allows for.
        spread: As in ``Reading``, median.
        devices: Median count of devices.
    """

    level: float
    unit: float
    spread: float
    devices: float

    def standardise(self, reading: Reading) -> float:
        """The distance from the level in ``unit``, rounded to what is stored."""
        z = (reading.value - self.level) / self.unit
        return float(f"{min(max(z, -_LARGEST), _LARGEST):.{_DIGITS}g}")

    def other_devices(self, reading: Reading) -> float:
        """Standard deviation, in ``unit``, of the mean over this many devices against the baseline's."""
        variance = abs(1 / reading.devices - 1 / self.devices) * max(self.spread, reading.spread) ** 2
        return math.sqrt(variance) / self.unit

    @property
    def least(self) -> float:
        """Least spread of the statistic, in ``unit``."""
        return max(_FLAT * abs(self.level), 1e-12) / self.unit


def baseline_of(readings: list[Reading]) -> SeriesBaseline:
    """Baseline from the first windows: robust where they are many, cautious where they are few."""
    columns = zip(*(r[:3] for r in readings), strict=True)
    values, spreads, devices = (np.array(column, dtype=np.float64) for column in columns)
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
        z: Values in the baseline's unit, one a window up to the newest; None where a window had none.
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

    def compares(self, reading: Reading, policy: DriftPolicy) -> bool:
        """Whether the reading is of the baseline's devices, or of nearly so many that it may count."""
        if self.baseline is None:
            return True
        ratio = reading.devices / self.baseline.devices
        if not _LEAST_DEVICES <= ratio <= 1 / _LEAST_DEVICES:
            return False
        differ = self.baseline.other_devices(reading)
        return not differ or differ <= self.usual(policy).sd

    def usual(self, policy: DriftPolicy) -> StatisticSpread:
        """The spread of the statistic over all windows but the newest, never 0; in the baseline's unit."""
        values, least = self.values(), self.baseline.least if self.baseline else 1.0
        if not len(values):
            return StatisticSpread(1.0, 0.0, 0)
        spread = spread_of(values[: max(len(values) - _RECENT, policy.warmup_windows)])
        return spread._replace(sd=max(spread.sd, least))

    def without_newest(self) -> Series:
        """The series with its newest window as one without a value."""
        return replace(self, z=(*self.z[:-1], None)) if self.z else self

    def change(self, policy: DriftPolicy, test: ChangeTest, *, few: bool = False) -> SeriesChange | None:
        """A change after an alarm, large, lasting and sure enough for a verdict; None: there is none.

        Its ``size`` is in units of ``noise``, and ``noise`` in the baseline's unit: the spread of the
        statistic before the change, or what the spread between devices allows for.

        Args:
            policy: Says how large it must be.
            test: Says how sure it must be.
            few: Few devices of a cohort account for the change. The others did not move, so what all devices
                have in common cannot be its cause, and it is judged by the spread between devices as well.
        """
        if self.since_alarm is None or self.baseline is None:
            return None
        scale = self.usual(policy).sd
        found = find_change(self.values() / scale, _least_before(policy))
        if found is None:
            return None
        unit = max(found.noise, self.baseline.least / scale)
        if abs(found.size) >= policy.min_effect * unit and not found.unclear:
            evidence = self._evidence(found.at, test)
            if evidence >= test.needed:
                size, chance = found.size / unit, found.chance / unit
                return found._replace(size=size, noise=unit * scale, chance=chance, evidence=evidence)
        before = self.values()[: found.at]
        between = max(1.0, robust_sd(before) * small_sample(len(before)))
        size = found.size * scale / between
        recent = found.after <= policy.warmup_windows + _ALARM_LASTS  # an older one raised no alarm now
        if few and recent and abs(size) >= policy.min_effect:
            evidence = log_evidence_of_one(size, self.baseline.devices)
            if evidence >= test.needed:
                return found._replace(size=size, noise=between, chance=0.0, evidence=evidence)
        return None

    def values(self) -> FloatArray:
        """The values there are, in order."""
        return np.array([v for v in self.z if v is not None], dtype=np.float64)

    def windows_back(self, index: int) -> int:
        """How many windows before the newest one the value with this index (of ``values``) lies."""
        indices = [i for i, v in enumerate(self.z) if v is not None]
        return len(self.z) - 1 - indices[index]

    def moved_since(self, windows_back: int, policy: DriftPolicy) -> bool | None:
        """Whether the newest windows lie apart from those before, by the effect that makes a verdict.

        None: not known, where the baseline is no older or nothing came since.
        """
        cut = len(self.z) - 1 - windows_back
        old = np.array([v for v in self.z[: max(cut, 0)] if v is not None], dtype=np.float64)
        new = [v for v in self.z[max(cut, 0) :] if v is not None]
        if len(old) < policy.warmup_windows or not new or self.baseline is None:
            return None
        usual = spread_of(old)
        shift = abs(float(np.median(new) - np.median(old[-policy.warmup_windows :])))
        least = policy.min_effect * max(usual.sd, self.baseline.least)
        return shift >= max(least, BY_CHANCE * usual.chance(len(new)))

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
        """The series with one more reading for its baseline; windows that lack devices are left out.

        So is a first one that lacks rows. Later ones stay: where rows come irregularly, few have the most.
        """
        most = max([reading.devices, *(r.devices for r in self.warm)])
        kept = tuple(r for r in (*self.warm, reading) if r.devices >= _LEAST_DEVICES * most)
        while len(kept) > 1 and kept[0].lacks_rows(kept[1]):
            kept = kept[1:]
        if len(kept) < policy.warmup_windows:
            return replace(self, warm=kept)
        baseline = baseline_of(list(kept))
        return Series((), baseline, tuple(baseline.standardise(r) for r in kept))

    def _evidence(self, at: int, test: ChangeTest) -> float:
        """Natural logarithm of the e-value of a change, of which the first value has this index."""
        values, least = self.values(), self.baseline.least if self.baseline else 1.0
        return log_evidence(values, least, max(test.memory, memory_of(values[:at])))

    def _extend(self, value: float | None, policy: DriftPolicy) -> Series:
        extended = replace(self, z=_bounded((*self.z, value)))
        usual = extended.usual(policy)
        since = self.since_alarm
        if since is not None:
            lasts = min(_ALARM_LASTS * math.ceil(usual.lasting), _LONGEST_ALARM)
            since = since + 1 if since < lasts else None
        if value is not None and _alarms(extended.values(), usual.sd, policy):
            since = 0
        return replace(extended, since_alarm=since)


def _alarms(values: FloatArray, scale: float, policy: DriftPolicy) -> bool:
    """Whether the newest value raises the alarm, by the statistic's own spread or by that between devices."""
    if in_alarm((values / scale).tolist(), policy):
        return True
    # Where the statistic's own spread is the smaller one, it has raised the alarm before.
    return scale > 1 and in_alarm(values.tolist(), policy)


def _least_before(policy: DriftPolicy) -> int:
    """Values before a change: the baseline's windows, but for one that the change may have hit."""
    return max(2, policy.warmup_windows - 1)


def _bounded(z: tuple[float | None, ...]) -> tuple[float | None, ...]:
    return z if len(z) <= KEPT else z[-(KEPT // 2) :]
