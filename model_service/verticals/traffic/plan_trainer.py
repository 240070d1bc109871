"""Computes the plan table of a group: entry point ``traffic_plans`` of ``edgeloop.configs``."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from model_service.training.config_interface import ComputedConfig, ConfigInputs
from model_service.verticals.traffic.measured_flows import MeasuredFlows, is_held_out, measured_flows
from model_service.verticals.traffic.plan_search import Plans
from model_service.verticals.traffic.plan_week import planned_hours
from model_service.verticals.traffic.site_surveys import survey_of
from schemas.verticals.traffic.phase_control import equal_plan
from schemas.verticals.traffic.plan_table import DAY_TYPES, HOURS, as_parameters
from schemas.verticals.traffic.road_site import RoadSite


def train_plans(inputs: ConfigInputs) -> ComputedConfig:
    """A plan of each intersection, hour and day type, from the flows of two days in three.

    A site is planned by itself. An hour that was not measured for long enough gets the plan that signals
    follow without knowledge of demand, and leaves the choice free. It waits until an hour was measured.

    Raises:
        ValueError: A survey does not fit.
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
        return ComputedConfig({}, waits=_why(inputs))
    return ComputedConfig(as_parameters(week))


def flows_of(inputs: ConfigInputs, devices: tuple[str, ...], *, held_out: bool) -> MeasuredFlows:
    """Flows of a site's intersections, on the days of the gate or on all others."""
    profile = inputs.profile
    # A sample is a second of the street, however fast a demo plays it.
    hop_s = float(profile.sampling.hop_samples)
    return measured_flows(inputs.summaries(), devices, profile.features.time_zone, hop_s, held_out=held_out)


def _why(inputs: ConfigInputs) -> str:
    """Why there is nothing to plan from."""
    today = inputs.event_to.astimezone(ZoneInfo(inputs.profile.features.time_zone)).date()
    others = "today is the gate's" if is_held_out(today) else "every third day is the gate's"
    return f"no hour of any site has half an hour of windows on the trainer's days yet; {others}"


def planned_site(site: RoadSite, found: MeasuredFlows) -> tuple[tuple[Plans, ...], ...]:
    """Plans by day type and hour."""
    unknown = {name: equal_plan(junction) for name, junction in site.junctions.items()}
    made = []
    for day, hours in enumerate(found.hours):
        known = {hour: flows for hour, flows in enumerate(hours) if flows}
        planned, _ = planned_hours(site, day, known)
        made.append(tuple(planned.get(hour, unknown) for hour in range(len(hours))))
    return tuple(made)
