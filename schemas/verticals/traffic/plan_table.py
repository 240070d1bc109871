"""The plan table of a group as numbers, as a configuration carries it: by device, day type, hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from schemas.verticals.traffic.junction import Junction
from schemas.verticals.traffic.signal_plan import SignalPlan, infeasible

DAY_TYPES = ("weekday", "weekend")
HOURS = 24
PARAMETERS = ("cycle_s", "offset_s", "pull", "splits")

Plans = Mapping[str, SignalPlan]
Week = Sequence[Sequence[Plans]]
"""By day type and hour: a plan of each intersection."""


def day_type(local: datetime) -> int:
    """Place in ``DAY_TYPES``."""
    return int(local.weekday() >= 5)


def as_parameters(week: Week) -> dict[str, dict[str, Any]]:
    """Parameters of each device: tables by day type and hour.

    Returns:
        By parameter and device; shapes (2, 24), of ``splits`` (2, 24, phases).
    """
    devices = sorted({name for day in week for plans in day for name in plans})
    found: dict[str, dict[str, Any]] = {name: {} for name in PARAMETERS}
    for device in devices:
        plans = [[hour[device] for hour in day] for day in week]
        found["cycle_s"][device] = [[plan.cycle_s for plan in day] for day in plans]
        found["offset_s"][device] = [[plan.offset_s for plan in day] for day in plans]
        found["pull"][device] = [[plan.pull for plan in day] for day in plans]
        found["splits"][device] = [[list(plan.splits) for plan in day] for day in plans]
    return found


def plan_in_force(own: Mapping[str, Any], at: datetime, time_zone: str) -> SignalPlan | None:
    """One device's plan at an instant; None where it has no parameters, or they are no plan table.

    Args:
        own: The device's own tables, by parameter.
        at: Aware instant.
        time_zone: IANA name, of hours and days.
    """
    if not all(name in own for name in PARAMETERS):
        return None
    local = at.astimezone(ZoneInfo(time_zone))
    day, hour = day_type(local), local.hour
    try:
        return SignalPlan(
            cycle_s=float(own["cycle_s"][day][hour]),
            offset_s=float(own["offset_s"][day][hour]),
            splits=tuple(float(split) for split in own["splits"][day][hour]),
            pull=float(own["pull"][day][hour]),
        )
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def week_of(parameters: Mapping[str, Mapping[str, Any]], devices: Sequence[str]) -> Week:
    """The plans of parameters, by day type and hour.

    Raises:
        ValueError: They are no plan table; the text says of which device.
    """
    week: list[list[dict[str, SignalPlan]]] = [[{} for _ in range(HOURS)] for _ in DAY_TYPES]
    for device in devices:
        try:
            own = {name: parameters[name][device] for name in PARAMETERS}
            for day, hours in enumerate(week):
                for hour, plans in enumerate(hours):
                    plans[device] = SignalPlan(
                        float(own["cycle_s"][day][hour]),
                        float(own["offset_s"][day][hour]),
                        tuple(float(split) for split in own["splits"][day][hour]),
                        float(own["pull"][day][hour]),
                    )
        except (KeyError, TypeError, IndexError) as exc:
            raise ValueError(f"{device}: no plan table: {exc!r}") from exc
    return week


def own_faults(own: Mapping[str, Any], junction: Junction) -> list[str]:
    """Why one intersection cannot run its own tables, by parameter; empty where it can."""
    try:
        week = week_of({name: {"": own[name]} for name in PARAMETERS}, [""])
    except (KeyError, ValueError) as exc:
        return [f"no plan table: {exc}"]
    return [
        f"{day}, hour {hour}: {why}"
        for day, hours in zip(DAY_TYPES, week, strict=True)
        for hour, plans in enumerate(hours)
        for why in infeasible(plans[""], junction)
    ]


def faults(week: Week, junctions: Mapping[str, Junction]) -> list[str]:
    """Why intersections cannot run these plans: infeasible ones, unknown intersections, unlike cycles."""
    found = []
    for day, hours in zip(DAY_TYPES, week, strict=True):
        for hour, plans in enumerate(hours):
            where = f"{day}, hour {hour}"
            found += [
                f"{where}: unknown intersection {name}" for name in sorted(plans.keys() - junctions.keys())
            ]
            for name in sorted(plans.keys() & junctions.keys()):
                found += [f"{where}, {name}: {why}" for why in infeasible(plans[name], junctions[name])]
            cycles = {plan.cycle_s for plan in plans.values() if plan.pull > 0}
            if len(cycles) > 1:
                found.append(f"{where}: intersections that are pulled need one cycle, not {sorted(cycles)}")
    return found
