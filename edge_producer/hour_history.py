"""What a device has measured in the hours before, for graphs that take the input ``history``.

Sums of features are averaged over quarters of an hour of event time, a week of them is kept. It belongs to
the device and not to a model: another model goes on with it. Over a restart quarters are kept in half
precision, some 3.6 kB of text for two sums, and the memory holds the same numbers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_producer.window import Floats
from schemas.calendar_features import zone_named
from schemas.history_spec import HOURS, STEPS, HistorySpec
from schemas.instants import from_us
from schemas.profile import Profile

KEPT = HOURS * STEPS
LEAST_SHARE = 0.5
"""Share of a quarter's windows without which its mean is not known."""
LEAST_STEPS = 3
"""Quarters of an hour without which the hour's mean is not known."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class HistoryLayout:
    """What is summed up, and how time is cut: the same for all devices of a profile.

    Attributes:
        names: Of the sums, in the order of the graph's input.
        columns: For each sum, the features' columns.
        step_us: Length of a quarter, microseconds.
        least: Windows without which a quarter's mean is not known.
        zone: Of the wall clock.
    """

    names: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]
    step_us: int
    least: float
    zone: tzinfo

    @classmethod
    def of(cls, profile: Profile, spec: HistorySpec) -> HistoryLayout:
        """The layout of a profile."""
        names, step_s = profile.feature_names, spec.hour_s / STEPS
        return cls(
            spec.names,
            tuple(tuple(names.index(f) for f in spec.sums[name]) for name in spec.names),
            round(step_s * 1e6),
            LEAST_SHARE * step_s / profile.sampling.hop_s,
            zone_named(profile.calendar_zone or "UTC"),
        )


class HourHistory:
    """One device's last week.

    Args:
        layout: Of its profile.
    """

    def __init__(self, layout: HistoryLayout) -> None:
        self._layout = layout
        self._columns = [np.array(columns) for columns in layout.columns]
        self._begin(0)

    def _begin(self, number: int) -> None:
        count = len(self._layout.names)
        self._open = number
        self._sum, self._count = np.zeros(count), np.zeros(count)
        self._quarters = np.full((count, KEPT), np.nan, dtype=np.float16)  # oldest first
        self._closed()

    def inputs(self, at_us: int) -> NDArray[np.float32]:
        """The graph's input for a window that ended at a time in microseconds since 1970.

        A time before the newest quarter changes nothing; after a clock was set back by more than an hour the
        history begins anew.
        """
        number = at_us // self._layout.step_us
        if number > self._open:
            self._close(number)
        elif number < self._open - STEPS:
            self._begin(number)
        return self._vector

    def add(self, features: Floats) -> None:
        """Count a window's features, shape (F,) at least; a sum without one of them does not count."""
        for k, columns in enumerate(self._columns):
            total = float(features[columns].sum())
            if total - total == 0.0:  # finite
                self._sum[k] += total
                self._count[k] += 1

    def go_on_from(self, other: HourHistory) -> None:
        """Take over what another model's history of the same device has, if that is newer."""
        if other._open >= self._open and other._layout == self._layout:
            self._open, self._quarters = other._open, other._quarters.copy()
            self._sum, self._count = other._sum.copy(), other._count.copy()
            self._closed()

    def export(self) -> dict[str, Any]:
        """State as a JSON value."""
        return {
            "names": list(self._layout.names),
            "step_us": self._layout.step_us,
            "open": self._open,
            "sum": self._sum.tolist(),
            "count": self._count.tolist(),
            "quarters": self._text,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what was exported.

        Raises:
            ValueError, KeyError, TypeError: It cannot be read, or is of other sums or hours.
        """
        stated = state["names"], state["step_us"]
        if stated != (list(self._layout.names), self._layout.step_us):
            raise ValueError("the history is of other sums, or of other hours")
        kept = np.frombuffer(base64.b64decode(state["quarters"], validate=True), dtype="<f2")
        quarters = kept.reshape(self._quarters.shape).astype(np.float16)
        sums, counts = (np.array(state[name], dtype=np.float64) for name in ("sum", "count"))
        if not sums.shape == counts.shape == self._sum.shape:
            raise ValueError("the history's open quarter is damaged")
        self._open, self._quarters, self._sum, self._count = int(state["open"]), quarters, sums, counts
        self._closed()

    def _close(self, number: int) -> None:
        """Begin a later quarter: the open one becomes the newest, those between are not known."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mean = np.where(self._count >= self._layout.least, self._sum / self._count, np.nan)
            gone = min(number - self._open, KEPT)
            kept = np.full_like(self._quarters, np.nan)
            kept[:, : KEPT - gone] = self._quarters[:, gone:]
            if number - self._open <= KEPT:
                kept[:, KEPT - gone] = mean
        self._quarters = np.where(np.isfinite(kept), kept, np.float16(np.nan))
        self._open, self._sum, self._count = number, np.zeros_like(self._sum), np.zeros_like(self._count)
        self._closed()

    def _closed(self) -> None:
        """Compute what holds until the next quarter begins."""
        self._text = base64.b64encode(self._quarters.astype("<f2").tobytes()).decode()
        parts = self._quarters[:, ::-1].astype(np.float64).reshape(len(self._layout.names), HOURS, STEPS)
        known = np.isfinite(parts)
        count = known.sum(axis=2)
        means = np.where(known, parts, 0.0).sum(axis=2) / np.maximum(count, 1)
        hours: Doubles = np.where(count >= LEAST_STEPS, means, np.nan)
        local = from_us(self._open * self._layout.step_us).astimezone(self._layout.zone)
        since_monday = local.weekday() * 24 + local.hour + local.minute / 60 + local.second / 3600
        self._vector = np.concatenate([[since_monday], hours.ravel()]).astype(np.float32)
