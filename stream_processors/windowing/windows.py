"""Windows that are being filled: moments per model version and feature, and which devices they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from stream_processors.windowing.moments import BoolArray, IntArray, MomentColumns, Moments, merge_groups


class CohortScope(NamedTuple):
    """Devices of one cohort under one profile: what windows are kept by."""

    profile: str
    cohort: str


class TumblingWindow(NamedTuple):
    """A tumbling window, microseconds since 1970."""

    start_us: int
    length_us: int

    @property
    def end_us(self) -> int:
        """End, exclusive."""
        return self.start_us + self.length_us


class WindowPart(NamedTuple):
    """One partial: moments and how many devices they come from."""

    window: TumblingWindow
    model: str
    feature: str
    moments: Moments
    devices: int
    number: int
    late: bool


@dataclass
class WindowContent:
    """Content of a window, for one model version.

    Attributes:
        features: Moments by feature.
        devices: Device to the set of features it contributed to, as bits in order of ``order``.
        order: Features in the order of the bits.
    """

    features: dict[str, Moments] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def add(self, feature: str, moments: Moments, devices: list[str]) -> None:
        """Take moments of a feature that these devices contributed to."""
        known = self.features.get(feature)
        self.features[feature] = moments if known is None else known | moments
        if known is None:
            self.order.append(feature)
        bit = 1 << self.order.index(feature)
        for device in devices:
            self.devices[device] = self.devices.get(device, 0) | bit

    def parts(self, window: TumblingWindow, model: str, number: int, *, late: bool) -> Iterator[WindowPart]:
        """Partials by name of feature."""
        for feature in sorted(self.features):
            bit = 1 << self.order.index(feature)
            devices = sum(bool(bits & bit) for bits in self.devices.values())
            yield WindowPart(window, model, feature, self.features[feature], devices, number, late)

    def to_state(self) -> dict[str, Any]:
        """As JSON. Bits are hexadecimal text: JSON numbers end at 64 bits."""
        moments = [self.features[f].to_state() for f in self.order]
        return {
            "order": self.order,
            "moments": moments,
            "devices": {d: f"{b:x}" for d, b in self.devices.items()},
        }

    @classmethod
    def from_state(cls, raw: Mapping[str, Any]) -> WindowContent:
        """From JSON."""
        moments = [Moments.from_state(m) for m in raw["moments"]]
        features = dict(zip(raw["order"], moments, strict=True))
        return cls(features, {d: int(b, 16) for d, b in raw["devices"].items()}, list(raw["order"]))


Contents = dict[TumblingWindow, dict[str, WindowContent]]
"""Window to model version to content."""


class SummaryRows(NamedTuple):
    """Summary rows of one cohort, as columns of equal length; times in microseconds since 1970."""

    device: list[str]
    model: list[str]
    feature: list[str]
    start: IntArray
    end: IntArray
    known: IntArray
    moments: MomentColumns


def fold(into: Contents, rows: SummaryRows, starts: IntArray, length_us: int, chosen: BoolArray) -> None:
    """Add the chosen rows, in place, to the windows that begin at ``starts``."""
    indices = np.flatnonzero(chosen)
    keys = [(int(starts[i]), rows.model[i], rows.feature[i]) for i in indices.tolist()]
    numbers = {key: number for number, key in enumerate(sorted(set(keys)))}
    groups = np.fromiter((numbers[k] for k in keys), dtype="int64", count=len(keys))
    merged = merge_groups(groups, rows.moments.take(indices))
    devices: list[list[str]] = [[] for _ in numbers]
    for group, index in zip(groups.tolist(), indices.tolist(), strict=True):
        devices[group].append(rows.device[index])
    for (start, model, feature), number in numbers.items():
        models = into.setdefault(TumblingWindow(start, length_us), {})
        models.setdefault(model, WindowContent()).add(feature, merged[number], devices[number])


def all_parts(
    contents: Contents, windows: list[TumblingWindow], number: int, *, late: bool
) -> list[WindowPart]:
    """Partials of these windows by window, model version and feature."""
    return [
        part
        for window in windows
        for model, content in sorted(contents[window].items())
        for part in content.parts(window, model, number, late=late)
    ]
