"""Tables and the picture of the traffic page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure_page import FigurePage
from benchmarks.judge.traffic.arms import ARMS, City, Judged
from benchmarks.judge.traffic.incidents import IncidentRun
from benchmarks.judge.traffic.volumes import ForecastErrors
from model_service.verticals.traffic.plan_trial import delays
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


def write_arms(page: FigurePage, results: Sequence[Judged], findings: Mapping[str, tuple[bool, str]]) -> None:
    """Delay and stops of each arm, and the comparisons that the goals name."""
    page.lines += ["", "### Signals in SUMO"]
    nets = [name for name in findings if any(r.net == name for r in results)]
    seeds = {net: len({r.seed for r in results if r.net == net}) for net in nets}
    counted = ", ".join(f"{net}: {count}" for net, count in seeds.items())
    page.say(
        f"Seeds of an hour each, {counted}. Delay is lost time and the wait to enter, stops are halts, per "
        "vehicle; those that had not arrived at the end count with what they had lost."
    )
    rows = []
    for arm in ARMS:
        cells = [NAMES[arm]]
        for net in nets:
            mine = [r for r in results if (r.net, r.arm) == (net, arm)]
            delay, stops = (np.array([getattr(r, what) for r in mine]) for what in ("delay_s", "stops"))
            cells += [f"{delay.mean():.1f} ({delay.min():.1f} to {delay.max():.1f})", f"{stops.mean():.2f}"]
        rows.append(cells)
    page.table(["arm", *(f"{net}: {what}" for net in nets for what in ("delay, s", "stops"))], rows)
    page.say("Change of the delay, with the middle 95 % of a paired bootstrap over seeds; below 0 is better:")
    compared = []
    for ours, theirs in COMPARED:
        cells = [f"{NAMES[ours]} against {NAMES[theirs]}"]
        for net in nets:
            a, b = (
                np.array([r.delay_s for r in results if (r.net, r.arm) == (net, arm)])
                for arm in (ours, theirs)
            )
            value, low, high = change(a, b)
            interval = f"({low:+.1%} to {high:+.1%})" if len(a) >= LEAST_SEEDS else "(too few seeds)"
            cells.append(f"{value:+.1%} {interval}")
        compared.append(cells)
    page.table(["", *nets], compared)
    for net in nets:
        released, finding = findings[net]
        said = "released" if released else "not released, so that `local + city` is `local only`"
        page.say(f"Plan of the {net}: {finding}: {said}.")


def write_disagreement(page: FigurePage, results: Sequence[Judged], cities: Mapping[str, City]) -> None:
    """How far our queue model and SUMO are apart."""
    rows = []
    for net, city in cities.items():
        model = delays(city.site, city.flows, None, range(300, 304), 1500).mean()
        sumo = np.mean([r.delay_s for r in results if (r.net, r.arm) == (net, "local")])
        rows.append([net, f"{model:.1f}", f"{sumo:.1f}", f"{model / sumo - 1:+.0%}"])
    page.say("Where our queue model and SUMO disagree: mean delay of the local control, seconds a vehicle.")
    page.table(["network", "queue model", "SUMO", "difference"], rows)


def write_incidents(page: FigurePage, runs: Sequence[IncidentRun]) -> None:
    """Delay of the alarms, and false ones."""
    page.lines += ["", "### Incidents in SUMO"]
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
