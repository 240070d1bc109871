"""Plans that our gate refuses, put in force in SUMO all the same: was it right, and what does a cut cost?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.figure_page import FigurePage
from benchmarks.judge.traffic.arms import CUT_S, SCENARIOS, SECONDS, STEP_S, Judged, TrafficJudge, journalled
from benchmarks.judge.traffic.judged_page import LEAST_SEEDS, change
from benchmarks.judge.traffic.sumo_run import Driver, run

JOURNAL = "refused-plans.jsonl"
FORCED = {"in force": False, "in force, cut after 15 min": True}
"""Whether the plan runs out in ``CUT_S``."""


def forced_run(judge: TrafficJudge, name: str, arm: str, seed: int) -> Judged:
    """One run with the best plan in force, whatever the gate says of it."""
    net, city, plans = judge.net(name), judge.city(name), judge.planned(name).plans
    begin, end = CUT_S if FORCED[arm] else (SECONDS, SECONDS)
    driver = Driver(net.signals, city.fixed, lambda at: None if begin <= at < end else plans, STEP_S)
    lost = run(judge.request(name, judge.trips(name, seed), seed, SECONDS, driver))
    return Judged(name, arm, seed, lost.delay_s, lost.stops, lost.vehicles, lost.unfinished)


def refused_plans(
    judge: TrafficJudge,
    journal: Path,
    seeds: Sequence[int],
    names: Sequence[str],
    version: str,
    most: int | None,
) -> list[Judged]:
    """Runs of the journal, and those that were missing: ``most`` of them, or all."""

    def wanted() -> Iterator[tuple[str, str, int]]:
        for seed in seeds:
            for name in names:
                if not judge.planned(name).released:
                    for arm in FORCED:
                        yield name, arm, seed

    return journalled(journal, wanted(), version, lambda *key: forced_run(judge, *key), most)


def write_refused(page: FigurePage, forced: Sequence[Judged], results: Sequence[Judged]) -> None:
    """Change of the delay against the local control on the same seeds."""
    if not forced:
        return
    page.say(
        "The plans that were not released, put in force in SUMO all the same: change of the delay against "
        "local only on the same seeds (95 %, paired)."
    )
    nets = [name for name in SCENARIOS if any(r.net == name for r in forced)]
    rows = []
    for arm in FORCED:
        cells = []
        for net in nets:
            ours = {r.seed: r.delay_s for r in forced if (r.net, r.arm) == (net, arm)}
            theirs = {r.seed: r.delay_s for r in results if (r.net, r.arm) == (net, "local")}
            both = sorted(ours.keys() & theirs.keys())
            if not both:
                cells.append("not run")
                continue
            value, low, high = change(np.array([ours[s] for s in both]), np.array([theirs[s] for s in both]))
            interval = f" ({low:+.1%} to {high:+.1%})" if len(both) >= LEAST_SEEDS else ""
            cells.append(f"{value:+.1%}{interval}, seeds: {len(both)}")
        rows.append([f"the plan {arm}", *cells])
    page.table(["", *nets], rows)
