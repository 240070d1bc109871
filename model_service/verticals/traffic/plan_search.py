"""Computes plans: Webster's splits, offsets by hill climbing, for each of a few cycles. Pure.

F. V. Webster, Traffic signal settings, Road Research Technical Paper 39, 1958; the hill climbing is
TRANSYT's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from model_service.verticals.traffic.cyclic_profiles import CyclicProfiles, arm_times
from schemas.verticals.traffic.junction import START_LOSS_S, Junction
from schemas.verticals.traffic.road_site import RoadSite
from schemas.verticals.traffic.signal_plan import SignalPlan

CYCLES_S = (48, 60, 75, 90, 105, 120)
OFFSETS = 12
"""Offsets that are tried of each intersection in turn, around the cycle."""
SWEEPS = 4
BUSIEST = 0.9
"""Highest load of a phase that a cycle may leave, if any of the cycles can."""

Plans = dict[str, SignalPlan]


def loads(site: RoadSite, flows: Mapping[str, float]) -> dict[str, tuple[float, ...]]:
    """Webster's y of each phase: the largest ratio of flow to saturation of its arms."""
    found = {name: [0.0] * len(j.phases) for name, j in site.junctions.items()}
    for arm in site.arms:
        ratio = flows[arm.name] / arm.saturation
        found[arm.junction][arm.phase] = max(found[arm.junction][arm.phase], ratio)
    return {name: tuple(values) for name, values in found.items()}


def webster_splits(junction: Junction, ratios: Sequence[float], cycle_s: float) -> tuple[float, ...]:
    """Splits with the same load in each phase, none below its shortest green or above its longest.

    Raises:
        ValueError: No splits of this cycle keep the bounds.
    """
    low = np.array([p.min_green_s + junction.intergreen_s for p in junction.phases])
    high = np.array([p.max_green_s + junction.intergreen_s for p in junction.phases])
    if low.sum() > cycle_s or high.sum() < cycle_s:
        raise ValueError(f"a cycle of {cycle_s:g} s does not keep shortest and longest greens")
    weights = np.maximum(np.array(ratios), 1e-3)
    lost_s = junction.intergreen_s + START_LOSS_S
    scale_low, scale_high = 0.0, cycle_s / weights.min()
    for _ in range(100):
        scale = (scale_low + scale_high) / 2
        parts = np.clip(weights * scale + lost_s, low, high)
        scale_low, scale_high = (scale, scale_high) if parts.sum() < cycle_s else (scale_low, scale)
    parts = np.clip(weights * scale_high + lost_s, low, high)
    return tuple(float(part) for part in parts / parts.sum())


def webster_cycle_s(junction: Junction, ratios: Sequence[float]) -> float:
    """Webster's cycle of one isolated intersection, within 40 and 120 s."""
    total = min(sum(ratios), BUSIEST)
    return float(
        np.clip((1.5 * junction.lost_s + 5) / (1 - total), max(40.0, junction.shortest_cycle_s), 120.0)
    )


def fixed_plans(site: RoadSite, flows: Mapping[str, float]) -> Plans:
    """Each intersection for itself: Webster's cycle and splits, no offset."""
    ratios = loads(site, flows)
    made = {}
    for name, junction in site.junctions.items():
        cycle_s = float(round(webster_cycle_s(junction, ratios[name])))
        made[name] = SignalPlan(cycle_s, 0.0, webster_splits(junction, ratios[name], cycle_s))
    return made


def coordinated_plans(
    site: RoadSite, flows: Mapping[str, float], cycles_s: Sequence[int] = CYCLES_S
) -> list[Plans]:
    """Plans of one cycle for the whole site, one for each cycle that keeps the bounds, the least delay first.

    Args:
        site: Its arms and links.
        flows: Vehicles a second of each arm.
        cycles_s: Those that are tried.
    """
    found = [_of_cycle(site, flows, cycle_s) for cycle_s in cycles_s if _fits(site, cycle_s)]
    if not found:
        raise ValueError("no cycle keeps the shortest and longest greens of every intersection")
    return [plans for _, plans in sorted(found, key=lambda item: item[0])]


def _fits(site: RoadSite, cycle_s: float) -> bool:
    return all(
        j.shortest_cycle_s <= cycle_s <= sum(p.max_green_s + j.intergreen_s for p in j.phases)
        for j in site.junctions.values()
    )


def _of_cycle(site: RoadSite, flows: Mapping[str, float], cycle_s: int) -> tuple[float, Plans]:
    ratios, model = loads(site, flows), CyclicProfiles(site, flows, cycle_s)
    splits = {n: webster_splits(j, ratios[n], cycle_s) for n, j in site.junctions.items()}
    plans = {n: SignalPlan(float(cycle_s), 0.0, splits[n]) for n in site.junctions}
    starts = {n: plan.starts_s() for n, plan in plans.items()}
    greens = {n: plans[n].greens_s(site.junctions[n]) for n in plans}
    offsets = dict.fromkeys(site.junctions, 0.0)
    tried = np.floor(np.arange(OFFSETS) * cycle_s / OFFSETS)
    best = np.inf
    for _ in range(SWEEPS):
        before = best
        for name in _by_flow(site, flows):
            each = {n: tried if n == name else np.full(len(tried), o) for n, o in offsets.items()}
            delays = model.delay(*arm_times(site, each, starts, greens))
            place = int(np.argmin(delays))
            best, offsets[name] = float(delays[place]), float(tried[place])
        if best > before * 0.999:
            break
    return best, {n: SignalPlan(float(cycle_s), offsets[n], splits[n]) for n in site.junctions}


def _by_flow(site: RoadSite, flows: Mapping[str, float]) -> list[str]:
    """Intersections, the busiest first."""
    totals = {name: sum(flows[a.name] for a in site.arms if a.junction == name) for name in site.junctions}
    return sorted(totals, key=lambda name: (-totals[name], name))
