"""Tables and the picture of the traffic page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure_page import FigurePage
from benchmarks.judge.traffic.arms import ARMS, SCENARIOS, Judged
from benchmarks.judge.traffic.incidents import IncidentRun
from benchmarks.judge.traffic.volumes import ForecastErrors
from schemas.verticals.traffic.discharge_watch import WINDOW_S

Array = NDArray[np.float64]
NAMES = {
    "fixed": "fixed time (Webster)",
    "actuated": "SUMO's actuated",
    "local": "local only",
    "late": "the same choice, 5 s late",
    "city": "local + city",
    "cut": "local + city, cloud cut after 15 min",
}
COLOURS = dict(zip(ARMS, ("#999", "#c77", "#58a", "#a85", "#385", "#7b9"), strict=True))
COMPARED = (("local", "actuated"), ("local", "fixed"), ("late", "local"), ("city", "local"), ("cut", "local"))
DRAWS, SEED = 5000, 20260101
LEAST_SEEDS = 5
"""With fewer no interval is shown: a bootstrap of two seeds says nothing."""


def change(ours: Array, theirs: Array) -> tuple[float, float, float]:
    """Our mean against another's, as a share, with the middle 95 % of a bootstrap over seeds, the same
    for both."""
    rows = np.random.default_rng(SEED).integers(0, len(ours), (DRAWS, len(ours)))
    low, high = np.quantile(ours[rows].mean(axis=1) / theirs[rows].mean(axis=1) - 1, (0.025, 0.975))
    return float(ours.mean() / theirs.mean() - 1), float(low), float(high)


def write_arms(
    page: FigurePage, results: Sequence[Judged], findings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Delay and stops of each arm, and the comparisons that the goals name, on the seeds that both have."""
    page.lines += ["", "### Signals in SUMO"]
    nets = [name for name in SCENARIOS if any(r.net == name for r in results)]
    page.say(
        "Runs of an hour each, as many seeds as the column says. Delay is lost time and the wait to enter, "
        "stops are halts, per vehicle; those that had not arrived at the end count with what they had lost."
    )
    for net in nets:
        rows = []
        for arm in ARMS:
            mine = [r for r in results if (r.net, r.arm) == (net, arm)]
            if mine:
                delay, stops = (np.array([getattr(r, what) for r in mine]) for what in ("delay_s", "stops"))
                late = f"{delay.mean():.1f} ({delay.min():.1f} to {delay.max():.1f})"
                rows.append([NAMES[arm], str(len(mine)), late, f"{stops.mean():.2f}"])
        page.table([net, "seeds", "delay, s", "stops"], rows)
    page.say(
        "Change of the delay, with the middle 95 % of a paired bootstrap over the seeds that both have; "
        "below 0 is better:"
    )
    rows = [
        [f"{NAMES[ours]} against {NAMES[theirs]}", *(_compared(results, net, ours, theirs) for net in nets)]
        for ours, theirs in COMPARED
    ]
    page.table(["", *nets], rows)
    for net in nets:
        if net in findings:
            said = (
                "released"
                if findings[net]["passed"]
                else "not released, so that `local + city` is `local only`"
            )
            page.say(f"Plan of the {net}: {findings[net]['text']}: {said}.")
        else:
            page.say(f"Plan of the {net}: not searched for.")


def _compared(results: Sequence[Judged], net: str, ours: str, theirs: str) -> str:
    """One cell: the change, its interval and the number of seeds."""
    a, b = ({r.seed: r.delay_s for r in results if (r.net, r.arm) == (net, arm)} for arm in (ours, theirs))
    both = sorted(a.keys() & b.keys())
    if not both:
        return "not run"
    value, low, high = change(np.array([a[s] for s in both]), np.array([b[s] for s in both]))
    interval = f"({low:+.1%} to {high:+.1%})" if len(both) >= LEAST_SEEDS else "(too few seeds)"
    return f"{value:+.1%} {interval}, {len(both)} seeds"


def write_disagreement(
    page: FigurePage, results: Sequence[Judged], model: Mapping[str, Mapping[str, Any]]
) -> None:
    """How far our queue model and SUMO are apart."""
    rows = []
    for net, value in model.items():
        local = [r.delay_s for r in results if (r.net, r.arm) == (net, "local")]
        if local:
            ours, sumo = value["delay_s"], np.mean(local)
            rows.append([net, f"{ours:.1f}", f"{sumo:.1f}", f"{ours / sumo - 1:+.0%}"])
    if rows:
        page.say(
            "Where our queue model and SUMO disagree: mean delay of the local control, seconds a vehicle."
        )
        page.table(["network", "queue model", "SUMO", "difference"], rows)


def write_incidents(page: FigurePage, runs: Sequence[IncidentRun]) -> None:
    """Delay of the alarms, and false ones."""
    page.lines += ["", "### Incidents, the parts and the watch alone"]
    limit_s = 3 * WINDOW_S
    rows = []
    for net in sorted({r.net for r in runs}):
        mine = [r for r in runs if r.net == net]
        found = [r.delay_s for r in mine if r.delay_s is not None and r.delay_s <= limit_s]
        weeks = sum(r.hours for r in mine) / 168
        false = sum(r.false for r in mine)
        median = f"{np.median(found):.0f}" if found else "none"
        rows.append(
            [net, f"{len(found)} of {len(mine)}", median, str(false), f"{weeks:.2f}", f"{false / weeks:.1f}"]
        )
    heads = [
        "network",
        f"alarmed within {limit_s} s",
        "median, s",
        "false alarms",
        "intersection-weeks",
        "a week",
    ]
    page.table(heads, rows)


def write_forecast(page: FigurePage, errors: ForecastErrors) -> None:
    """Errors of the next hour's volume on I-94."""
    page.lines += ["", "### Next hour's volume on I-94"]
    page.say(f"Fitted to 2016, judged on {len(errors.ours):,} hours from 2017 to September 2018.")
    rows = []
    for name, other in (("persistence", errors.persistence), ("same hour last week", errors.last_week)):
        value, low, high = errors.ratio(other)
        rows.append(
            [
                name,
                f"{other.mean():.0f}",
                f"{errors.ours.mean():.0f}",
                f"{value:.3f} ({low:.3f} to {high:.3f})",
            ]
        )
    page.table(["beside", "its MAE, vehicles/h", "our MAE", "ours as a share (weeks drawn anew)"], rows)


def delay_picture(results: Sequence[Judged]) -> str:
    """Mean delay of each arm and network, as bars: SVG."""
    nets = sorted({r.net for r in results})
    bars = [
        (net, arm, float(np.mean([r.delay_s for r in results if (r.net, r.arm) == (net, arm)])))
        for net in nets
        for arm in ARMS
        if any((r.net, r.arm) == (net, arm) for r in results)
    ]
    top = max(value for _, _, value in bars)
    height, lines = 24 * len(bars) + 40, []
    for k, (net, arm, value) in enumerate(bars):
        y = 20 + 24 * k
        colour = COLOURS[arm]
        lines.append(f'<text x="250" y="{y + 12}" text-anchor="end">{net}: {NAMES[arm]}</text>')
        lines.append(f'<rect x="258" y="{y}" width="{380 * value / top:.1f}" height="16" fill="{colour}"/>')
        lines.append(f'<text x="{264 + 380 * value / top:.1f}" y="{y + 12}">{value:.1f} s</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="720" height="{height}" font-family="sans-serif"'
    return f'{head} font-size="12">{"".join(lines)}</svg>\n'
