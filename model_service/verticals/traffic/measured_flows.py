"""Mean flows by day type and hour, from the summaries of a cut: they cover every window. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from schemas.verticals.traffic.plan_table import DAY_TYPES, HOURS, day_type
from schemas.verticals.traffic.standard_junction import NAMES

LEAST_WINDOWS_S = 1800.0
"""Half an hour of windows: what an hour of an intersection needs in all, to count as measured."""
HELD_OUT = 3
"""Every third day is the gate's, and no trainer's."""

HourFlows = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class MeasuredFlows:
    """What detectors counted.

    Attributes:
        hours: By day type and hour, vehicles a second of each phase, by intersection; empty where one of the
            intersections was not measured for long enough.
        days: Days that it rests on, by day type.
    """

    hours: tuple[tuple[HourFlows, ...], ...]
    days: tuple[int, ...]

    @property
    def measured(self) -> int:
        """Hours, of both day types, that have flows."""
        return sum(bool(hour) for hours in self.hours for hour in hours)


def is_held_out(day: date) -> bool:
    """Whether a day is the gate's."""
    return day.toordinal() % HELD_OUT == 0


def measured_flows(
    summaries: pa.Table, devices: Sequence[str], time_zone: str, hop_s: float, *, held_out: bool
) -> MeasuredFlows:
    """Flows of intersections.

    Args:
        summaries: Rows as the lake has them; means of ``flow_<phase>_mean`` are read.
        devices: Ids of all of them.
        time_zone: Of days and hours.
        hop_s: Seconds of the street between windows.
        held_out: The days of the gate, or all others.
    """
    zone = ZoneInfo(time_zone)
    phases = {f"flow_{name}_mean": place for place, name in enumerate(NAMES)}
    windows: dict[tuple[int, int, str, int], float] = defaultdict(float)
    vehicles: dict[tuple[int, int, str, int], float] = defaultdict(float)
    days: list[set[date]] = [set() for _ in DAY_TYPES]
    for row in _flow_rows(summaries, set(phases), set(devices)):
        at: datetime = row["period_start"]
        local = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(zone)
        if is_held_out(local.date()) != held_out:
            continue
        key = day_type(local), local.hour, row["device_id"], phases[row["feature"]]
        windows[key] += row["n"]
        vehicles[key] += row["n"] * row["mean"]
        days[key[0]].add(local.date())

    def flows(day: int, hour: int) -> HourFlows:
        keys = {name: [(day, hour, name, place) for place in range(len(NAMES))] for name in devices}
        if any(windows[key] * hop_s < LEAST_WINDOWS_S for each in keys.values() for key in each):
            return {}
        return {name: tuple(vehicles[key] / windows[key] for key in each) for name, each in keys.items()}

    hours = tuple(tuple(flows(day, hour) for hour in range(HOURS)) for day in range(len(DAY_TYPES)))
    return MeasuredFlows(hours, tuple(len(found) for found in days))


def _flow_rows(summaries: pa.Table, features: set[str], devices: set[str]) -> list[dict[str, Any]]:
    """Rows of the model in force: negative parts are a shadow's, the same windows once more."""
    columns = summaries.select(["device_id", "feature", "period_start", "part", "n", "mean"])
    return [
        row
        for row in columns.to_pylist()
        if row["feature"] in features and row["device_id"] in devices and row["part"] >= 0 and row["n"] > 0
    ]
