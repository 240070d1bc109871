"""Judges a plan table on days that its trainer has not seen: entry point of ``edgeloop.config_gates``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_service.training.config_interface import ConfigGateResult, ConfigInputs
from model_service.verticals.traffic.measured_flows import MeasuredFlows
from model_service.verticals.traffic.plan_search import Plans
from model_service.verticals.traffic.plan_trainer import flows_of
from model_service.verticals.traffic.plan_trial import PlanFinding, judge_plans
from model_service.verticals.traffic.site_surveys import survey_of
from schemas.verticals.traffic.plan_table import DAY_TYPES, Week, faults, week_of
from schemas.verticals.traffic.road_site import RoadSite


def judge_table(inputs: ConfigInputs, parameters: Mapping[str, Any]) -> ConfigGateResult:
    """Feasible everywhere; and where it pulls, less delay in the queue model at the demand of held-out days.

    The same plans at several hours of a day type are judged once, at those hours' mean demand. An hour that
    leaves the choice free changes nothing while detectors work, and needs no more than feasibility.
    """
    week = week_of(parameters, sorted(inputs.devices))
    worst: PlanFinding | None = None
    judged = 0
    for name, devices in inputs.sites.items():
        site = survey_of(name, devices)
        own = [[{d: plans[d] for d in devices} for plans in day] for day in week]
        if found := faults(own, site.junctions):
            return ConfigGateResult(
                passed=False, text=f"{name}: {'; '.join(found[:3])}", value=float(len(found))
            )
        try:
            findings = _findings(site, own, flows_of(inputs, devices, held_out=True))
        except ValueError as exc:
            return ConfigGateResult(passed=False, text=f"{name}: {exc}")
        judged += len(findings)
        for finding in findings:
            if worst is None or finding.high > worst.high:
                worst = finding
    if worst is None:
        return ConfigGateResult(
            passed=True, text="feasible; no hour is pulled, so that signals choose as without"
        )
    text = f"the worst of {judged} pulled plans: {worst.text}, at the demand of held-out days"
    return ConfigGateResult(
        passed=worst.passed, text=text, value=worst.change, bound=0.0, low=worst.low, high=worst.high
    )


def _findings(site: RoadSite, week: Week, held_out: MeasuredFlows) -> list[PlanFinding]:
    """Of each of the site's pulled plans."""
    found = []
    for day, hours in enumerate(week):
        for plans in _distinct(hours):
            same = [hour for hour, own in enumerate(hours) if own == plans]
            flows = [site.flows(held_out.hours[day][hour]) for hour in same if held_out.hours[day][hour]]
            if not flows:
                raise ValueError(
                    f"no held-out {DAY_TYPES[day]} (every third day) measured the hours {same} of a "
                    "pulled plan: wait for one"
                )
            mean = {arm: sum(of[arm] for of in flows) / len(flows) for arm in flows[0]}
            found.append(judge_plans(site, mean, dict(plans)))
    return found


def _distinct(hours: Any) -> list[Plans]:
    found: list[Plans] = []
    for plans in hours:
        if any(plan.pull > 0 for plan in plans.values()) and plans not in found:
            found.append(plans)
    return found
