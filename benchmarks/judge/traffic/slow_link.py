"""What it costs to choose elsewhere: commands that reach the signal late, in our own queue model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure_page import FigurePage
from benchmarks.judge.traffic.judged_page import change
from model_service.verticals.traffic.plan_search import fixed_plans
from schemas.verticals.traffic.queue_network import QueueNetwork, constant
from schemas.verticals.traffic.signal_plan import SignalPlan
from schemas.verticals.traffic.standard_junction import approach_site

Array = NDArray[np.float64]

PEAK = {"n": 0.16, "s": 0.13, "ns_left": 0.06, "e": 0.13, "w": 0.10, "ew_left": 0.05}
"""Vehicles a second of each approach of the shipped intersection."""
SHARES = {"afternoon": 0.6, "peak": 1.0}
LATE_S = (0, 2, 5, 15, 60)
SECONDS, SEEDS, ZONE = 1800, range(400, 412), 13.0


def waits(share: float, plans: Mapping[str, SignalPlan] | None, late_s: int | None) -> Array:
    """Mean delay of each seed, seconds a vehicle; ``late_s`` None: nobody chooses."""
    site = approach_site("x", (0.55, 0.55))
    demand = constant({f"x/{part}": rate * share for part, rate in PEAK.items()})
    found = []
    for seed in SEEDS:
        network = QueueNetwork(site, demand, seed, zone=ZONE, late_s=late_s or 0)
        for _ in range(SECONDS):
            network.step(plans, choosing=late_s is not None)
        found.append(network.waited / network.entered)
    return np.array(found)


def write_slow_link(page: FigurePage) -> None:
    """Delay of nobody's choice, a fixed plan, and choices that arrive late."""
    page.lines += ["", "### Local action against none, and against a cloud over a slow link"]
    page.say(
        f"One shipped intersection in our own queue model, {len(SEEDS)} seeds of {SECONDS // 60} minutes, "
        "detectors of 100 m. A choice that is late was made from the queues of so many seconds before. Mean "
        "delay a vehicle, and its change against the local choice (95 %, paired by seed)."
    )
    columns = [_column(share) for share in SHARES.values()]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    page.table(["who chooses", *SHARES], rows)


def _column(share: float) -> dict[str, str]:
    site = approach_site("x", (0.55, 0.55))
    webster = fixed_plans(site, {f"x/{part}": rate * share for part, rate in PEAK.items()})
    local = waits(share, None, 0)
    found = {"the device, at once": f"{local.mean():.1f} s"}
    others = {f"the cloud, {late} s late": waits(share, None, late) for late in LATE_S[1:]}
    others["nobody: a fixed plan for this demand"] = waits(share, webster, None)
    others["nobody: equal greens"] = waits(share, None, None)
    for name, each in others.items():
        value, low, high = change(each, local)
        found[name] = f"{each.mean():.1f} s, {value:+.0%} ({low:+.0%} to {high:+.0%})"
    return found
