"""Chooses plans and judges them: our own queue model on other seeds, and feasibility. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model_service.verticals.traffic.plan_search import CYCLES_S, Plans, coordinated_plans
from schemas.verticals.traffic.queue_network import constant, run_queues
from schemas.verticals.traffic.road_site import RoadSite
from schemas.verticals.traffic.signal_plan import infeasible

Array = NDArray[np.float64]
PULLS = (0.5, 2.0, 5.0)
CHOOSING_SEEDS, JUDGING_SEEDS = range(100, 103), range(200, 206)
SECONDS = 1200
QUARTERS = (0.8, 1.0, 1.1)
"""Demand of the parts of a run, as a share of the mean: plans have to hold while it swings."""
BEST = 2
"""Plans of so many cycles are tried with the queue model."""
DRAWS = 2000


@dataclass(frozen=True)
class PlanFinding:
    """What the gate found.

    Attributes:
        plans: What was judged.
        passed: Feasible, and less delay than without a plan, its 95 % interval below 0.
        change: Delay against the free choice, as a share; below 0 is better.
        low: End of the interval.
        high: End of the interval.
        text: One sentence.
    """

    plans: Plans
    passed: bool
    change: float
    low: float
    high: float
    text: str


def chosen_plans(
    site: RoadSite, flows: Mapping[str, float], cycles_s: Sequence[int] = CYCLES_S, seconds: int = SECONDS
) -> PlanFinding:
    """The plans of least delay in the queue model among a few cycles and pulls, judged on other seeds."""
    tried = [
        {name: replace(plan, pull=pull) for name, plan in plans.items()}
        for plans in coordinated_plans(site, flows, cycles_s)[:BEST]
        for pull in PULLS
    ]
    costs = [delays(site, flows, plans, CHOOSING_SEEDS, seconds).mean() for plans in tried]
    return judge_plans(site, flows, tried[int(np.argmin(costs))], seconds)


def judge_plans(
    site: RoadSite, flows: Mapping[str, float], plans: Plans, seconds: int = SECONDS
) -> PlanFinding:
    """Feasibility first; then delay with and without the plans on the same arrivals, seed by seed."""
    why = [f"{n}: {w}" for n, plan in sorted(plans.items()) for w in infeasible(plan, site.junctions[n])]
    why += [f"{name}: no plan" for name in sorted(site.junctions.keys() - plans.keys())]
    if why:
        return PlanFinding(plans, False, np.nan, np.nan, np.nan, f"not feasible: {'; '.join(why[:3])}")
    ours = delays(site, flows, plans, JUDGING_SEEDS, seconds)
    free = delays(site, flows, None, JUDGING_SEEDS, seconds)
    rng = np.random.default_rng(len(free))
    rows = rng.integers(0, len(free), (DRAWS, len(free)))
    low, high = np.quantile(ours[rows].mean(axis=1) / free[rows].mean(axis=1) - 1, (0.025, 0.975))
    change = float(ours.mean() / free.mean() - 1)
    passed = bool(high < 0)
    text = f"delay {change:+.1%} ({low:+.1%} to {high:+.1%}) in {len(free)} runs of the queue model"
    return PlanFinding(plans, passed, change, float(low), float(high), text)


def delays(
    site: RoadSite, flows: Mapping[str, float], plans: Plans | None, seeds: Sequence[int], seconds: int
) -> Array:
    """Mean delay of each seed, seconds a vehicle."""
    demand = constant(site.entering(flows), QUARTERS, seconds // len(QUARTERS))
    return np.array([run_queues(site, demand, seed, seconds, plans).delay_s for seed in seeds])
