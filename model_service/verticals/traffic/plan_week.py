"""A group's plan table from its measured flows: a plan by day type and hour, pulled where that pays. Pure.

Hours of like demand share one plan, so that a day has a few plans and not 24.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from model_service.verticals.traffic.plan_search import CYCLES_S, Plans, fixed_plans, loads
from model_service.verticals.traffic.plan_trial import SECONDS, PlanFinding, chosen_plans
from schemas.verticals.traffic.plan_table import HOURS
from schemas.verticals.traffic.road_site import RoadSite

QUIET = 0.45
"""Load of the busiest intersection below which signals choose freely: no plan is searched for."""
LEVEL = 0.1
"""Hours whose load lies within one such step share a plan."""

HourFlows = Mapping[str, tuple[float, ...]]
"""Vehicles a second of each phase, by intersection."""


@dataclass(frozen=True)
class PlannedWeek:
    """A plan table, and what was found on the way.

    Attributes:
        week: By day type and hour, the plan of each intersection.
        findings: By day type and level of load, what the queue model said of the best plan there.
    """

    week: tuple[tuple[Plans, ...], ...]
    findings: Mapping[tuple[int, int], PlanFinding]


def planned_week(
    site: RoadSite,
    measured: Sequence[Sequence[HourFlows]],
    cycles_s: Sequence[int] = CYCLES_S,
    seconds: int = SECONDS,
) -> PlannedWeek:
    """The table.

    Args:
        site: The group's survey.
        measured: By day type and hour, mean flows of the phases over the days of the cut.
        cycles_s: Cycles that are tried.
        seconds: Length of a run of the queue model.

    Raises:
        ValueError: There are not 24 hours of each day type.
    """
    findings: dict[tuple[int, int], PlanFinding] = {}
    days = []
    for number, hours in enumerate(measured):
        if len(hours) != HOURS:
            raise ValueError(f"day type {number} has {len(hours)} hours; give the flows of {HOURS}")
        plans, found = planned_hours(site, number, dict(enumerate(hours)), cycles_s, seconds)
        findings |= found
        days.append(tuple(plans[hour] for hour in range(HOURS)))
    return PlannedWeek(tuple(days), findings)


def planned_hours(
    site: RoadSite,
    day: int,
    measured: Mapping[int, HourFlows],
    cycles_s: Sequence[int] = CYCLES_S,
    seconds: int = SECONDS,
) -> tuple[dict[int, Plans], dict[tuple[int, int], PlanFinding]]:
    """Plans of the measured hours of one day type, and findings as in ``PlannedWeek``.

    Where no street joins two intersections there is nothing to coordinate, and nothing is searched for.
    """
    findings: dict[tuple[int, int], PlanFinding] = {}
    flows = {hour: site.flows(of) for hour, of in measured.items()}
    levels = {hour: _level(site, of) for hour, of in flows.items()}
    joined = any(arm.feeders for arm in site.arms)
    for level in sorted(set(levels.values())):
        alike = [flows[hour] for hour in sorted(flows) if levels[hour] == level]
        mean = {arm: sum(hour[arm] for hour in alike) / len(alike) for arm in alike[0]}
        if joined and level * LEVEL >= QUIET:
            findings[day, level] = chosen_plans(site, mean, cycles_s, seconds)
    made = {hour: _plans(site, flows[hour], findings.get((day, levels[hour]))) for hour in sorted(flows)}
    return made, findings


def _level(site: RoadSite, flows: Mapping[str, float]) -> int:
    return round(max(sum(ratios) for ratios in loads(site, flows).values()) / LEVEL)


def _plans(site: RoadSite, flows: Mapping[str, float], found: PlanFinding | None) -> Plans:
    """The level's plan where it is a gain; else a free choice, and the hour's fixed plan to fall back to."""
    if found is not None and found.passed:
        return found.plans
    return {name: replace(plan, pull=0.0) for name, plan in fixed_plans(site, flows).items()}
