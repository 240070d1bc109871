"""Computes the plan table of a group: entry point ``traffic_plans`` of ``edgeloop.configs``."""

from __future__ import annotations

from model_service.training.config_interface import ComputedConfig, ConfigInputs
from model_service.verticals.traffic.measured_flows import MeasuredFlows, measured_flows
from model_service.verticals.traffic.plan_search import Plans
from model_service.verticals.traffic.plan_week import planned_hours
from model_service.verticals.traffic.site_surveys import survey_of
from schemas.verticals.traffic.phase_control import equal_plan
from schemas.verticals.traffic.plan_table import DAY_TYPES, HOURS, as_parameters
from schemas.verticals.traffic.road_site import RoadSite


def train_plans(inputs: ConfigInputs) -> ComputedConfig:
    """A plan of each intersection, hour and day type, from the flows of two days in three.

    A site is planned by itself. An hour that was not measured for long enough gets the plan that signals
    follow without knowledge of demand, and leaves the choice free.

    Raises:
        ValueError: No hour was measured, or a survey does not fit.
    """
    week: list[list[Plans]] = [[{} for _ in range(HOURS)] for _ in DAY_TYPES]
    measured = 0
    for name, devices in inputs.sites.items():
        site = survey_of(name, devices)
        found = flows_of(inputs, devices, held_out=False)
        measured += found.measured
        for plans, hours in zip(week, planned_site(site, found), strict=True):
            for plan, hour in zip(plans, hours, strict=True):
                plan.update(hour)
    if not measured:
        raise ValueError(
            "no hour of any site has half an hour of windows yet; every third day is the gate's: wait"
        )
    return ComputedConfig(as_parameters(week))


def flows_of(inputs: ConfigInputs, devices: tuple[str, ...], *, held_out: bool) -> MeasuredFlows:
    """Flows of a site's intersections, on the days of the gate or on all others."""
    zone, hop_s = inputs.profile.features.time_zone, inputs.profile.sampling.hop_s
    return measured_flows(inputs.summaries(), devices, zone, hop_s, held_out=held_out)


def planned_site(site: RoadSite, found: MeasuredFlows) -> tuple[tuple[Plans, ...], ...]:
    """Plans by day type and hour."""
    unknown = {name: equal_plan(junction) for name, junction in site.junctions.items()}
    made = []
    for day, hours in enumerate(found.hours):
        known = {hour: flows for hour, flows in enumerate(hours) if flows}
        planned, _ = planned_hours(site, day, known)
        made.append(tuple(planned.get(hour, unknown) for hour in range(len(hours))))
    return tuple(made)
