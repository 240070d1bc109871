"""Tables of the runs whose signals are edgeloop's devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import chi2

from benchmarks.figure_page import FigurePage
from benchmarks.judge.machine.share_interval import share_interval
from benchmarks.judge.traffic.arms import SCENARIOS, Judged
from benchmarks.judge.traffic.incidents import AT_S
from benchmarks.judge.traffic.judged_page import LEAST_SEEDS, change
from benchmarks.judge.traffic.street_judge import GONE_S, INCIDENTS, RUNS, StreetRun
from benchmarks.judge.traffic.street_learnt import Key
from schemas.profile_file import find_profile
from schemas.verticals.traffic.discharge_watch import WINDOW_S

ACTION = "report_incident"
WEEK_H = 168.0
FIRST_S = 60
"""Seconds until a device has its first window."""
LIMITS_S = (180, 900)
"""Three windows of the profile, and three of the watch without a model."""


Alarms = Mapping[Key, Sequence[tuple[str, int]]]
MODEL, MOVED, WATCH = "model", "moved model", "watch"


def write_streets(
    page: FigurePage, runs: Sequence[StreetRun], direct: Sequence[Judged], learnt: Alarms
) -> None:
    """Devices in SUMO: delay beside the parts driven directly and SUMO's control; incidents; plans."""
    if not runs:
        page.say("SUMO's signals as devices: not measured.")
        return
    _write_delays(page, [r for r in runs if r.what == "local"], direct)
    _write_incidents(page, runs, learnt)
    _write_withdrawn(page, runs)


def _write_delays(page: FigurePage, local: Sequence[StreetRun], direct: Sequence[Judged]) -> None:
    page.lines += ["", "### SUMO's signals as devices"]
    windows = sum(r.counts["windows"] for r in local)
    lost = {n: sum(r.counts.get(n, 0) for r in local) for n in ("fail_safe", "function_late", "stuck")}
    page.say(
        f"Each signal is a device of profile `traffic` in lock step with SUMO: {windows:,} windows decided, "
        f"by the fail-safe {lost['fail_safe']}, decisions that came too late {lost['function_late']}, "
        f"samples of stuck channels {lost['stuck']}. Mean delay a vehicle, beside the parts driven directly "
        "and SUMO's actuated control on the same seeds. *Same choice*: of all windows, and in brackets of "
        "those in which the parts would leave the green phase, the share in which the device chose what they "
        "would choose from the same second."
    )
    rows = []
    for net in SCENARIOS:
        mine = {r.seed: r for r in local if r.net == net}
        arms = {
            arm: {j.seed: j.delay_s for j in direct if (j.net, j.arm) == (net, arm) and j.seed in mine}
            for arm in ("local", "actuated")
        }
        seeds = sorted(mine.keys() & arms["local"].keys() & arms["actuated"].keys())
        if not seeds:
            continue
        ours = np.array([mine[s].delay_s for s in seeds])
        spread = f" ({ours.min():.1f} to {ours.max():.1f})" if len(seeds) > 1 else ""
        cells = [f"{ours.mean():.1f}{spread}"]
        for arm in ("local", "actuated"):
            theirs = np.array([arms[arm][s] for s in seeds])
            value, low, high = change(ours, theirs)
            each = ", ".join(f"{v:+.0%}" for v in ours / theirs - 1)
            shown = f"{low:+.1%} to {high:+.1%}" if len(seeds) >= LEAST_SEEDS else each
            cells += [f"{theirs.mean():.1f}", f"{value:+.1%}" + (f" ({shown})" if len(seeds) > 1 else "")]
        counts = {
            n: sum(mine[s].counts[n] for s in seeds)
            for n in ("windows", "same_choice", "changes", "same_change")
        }
        same, changed = counts["same_choice"] / counts["windows"], counts["same_change"] / counts["changes"]
        rows.append([net, str(len(seeds)), *cells, f"{same:.1%} ({changed:.1%})"])
    heads = [
        "",
        "seeds",
        "devices, s",
        "parts, s",
        "devices against parts",
        "actuated, s",
        "against actuated",
    ]
    page.table([*heads, "same choice"], rows)


def _write_incidents(page: FigurePage, runs: Sequence[StreetRun], learnt: Alarms) -> None:
    struck = [what for what in INCIDENTS if any(r.what == what for r in runs)]
    if not struck:
        return
    rule = next(rule for rule in find_profile("traffic").decision.rules if rule.action == ACTION)
    page.lines += ["", "### Incidents, by the device's own rule"]
    page.say(
        f"From second {AT_S} on a vehicle stands on a lane of a through phase, 40 m before the stop line "
        "(*lane*; others drive around it over the bay for left turns or the second lane), or on each lane of "
        f"the approach (*closed*). *Model*: the rule `{ACTION}` on the score "
        f"of the shipped graph (from {rule.enter:g}, for {rule.after_windows} windows). *Moved model*: the "
        "same after the loop's own arithmetic has moved the score to the healthy hours of the first seed of "
        "that network, no gate asked; all other runs are judged. *Watch*: "
        f"`discharge_watch`, without a model, over {WINDOW_S} s. False "
        "alarms: of all intersections while nothing is blocked anywhere, in these runs and in those above; "
        "weekly rates with exact 95 % intervals of a Poisson count. *Elsewhere*: alarms of other "
        "intersections while one is blocked, whose queues may reach them."
    )
    rows = []
    for net in (*SCENARIOS, "all"):
        mine = [r for r in runs if net in (r.net, "all") and r.what in (*INCIDENTS, "local")]
        if any(r.hit for r in mine):
            rows += [_cells(net, who, mine, learnt) for who in (MODEL, MOVED, WATCH)]
    kinds = {"incident": "lane", "closed": "closed"}
    heads = ["", "by", *(f"{kinds[what]}: within {limit} s" for what in INCIDENTS for limit in LIMITS_S)]
    page.table([*heads, "false, in intersection-hours", "a week", "elsewhere, in hours"], rows)


def _cells(net: str, who: str, runs: Sequence[StreetRun], learnt: Alarms) -> list[str]:
    """One row: incidents alarmed in time, when, and false alarms."""
    judged = {_key(r): _alarms(r, who, learnt) for r in runs if who != MOVED or _key(r) in learnt}
    mine = [r for r in runs if _key(r) in judged]
    cells = []
    for what in INCIDENTS:
        found = [_found(r, judged[_key(r)]) for r in mine if r.what == what]
        for limit in LIMITS_S:
            known = sum(d is not None and d <= limit for d in found)
            share = f" {share_interval(known, len(found)).text}" if net == "all" and found else ""
            cells.append(f"{known} of {len(found)}{share}")
    free = _free(mine)
    false = sum(second < _free_s(r) for r in free for _, second in judged[_key(r)])
    hours = sum(r.signals * (_free_s(r) - FIRST_S) for r in free) / 3600
    hit = [r for r in mine if r.hit]
    near = sum(_elsewhere(r, judged[_key(r)]) for r in hit)
    during = sum((r.signals - 1) * (RUNS[r.what] - AT_S) for r in hit) / 3600
    cells += [f"{false} in {hours:.0f}", _weekly(false, hours) if hours else "-"]
    return [net, who, *cells, f"{near} in {during:.0f}"]


def _free(runs: Sequence[StreetRun]) -> list[StreetRun]:
    """Runs whose hours without an incident count: of two that begin alike, until the incident, one."""
    found = {(r.net, r.seed, bool(r.hit)): r for r in reversed(runs)}
    return list(found.values())


def _free_s(run: StreetRun) -> int:
    """Seconds of a run without an incident anywhere."""
    return AT_S if run.hit else RUNS[run.what]


def _alarms(run: StreetRun, who: str, learnt: Alarms) -> Sequence[tuple[str, int]]:
    if who == MOVED:
        return learnt[_key(run)]
    if who == WATCH:
        return [(name, second) for name, second in run.watched]
    return [(name, second) for name, second, action in run.alarms if action == ACTION]


def _key(run: StreetRun) -> Key:
    return run.net, run.what, run.seed


def _found(run: StreetRun, alarms: Sequence[tuple[str, int]]) -> float | None:
    """Seconds from the incident to its intersection's alarm."""
    right = [second - AT_S for name, second in alarms if name == run.hit and second >= AT_S]
    return min(right) if right else None


def _elsewhere(run: StreetRun, alarms: Sequence[tuple[str, int]]) -> int:
    """Alarms of other intersections from the incident on."""
    return sum(name != run.hit and second >= AT_S for name, second in alarms)


def _weekly(count: int, hours: float) -> str:
    """A rate a week and its interval."""
    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    high = chi2.ppf(0.975, 2 * count + 2) / 2
    rate, least, most = (value * WEEK_H / hours for value in (count, low, high))
    return f"{rate:.1f} ({least:.1f} to {most:.1f})"


def _write_withdrawn(page: FigurePage, runs: Sequence[StreetRun]) -> None:
    base = {(r.net, r.seed): r for r in runs if r.what == "local, 90 min"}
    kinds = [what for what in RUNS if what.startswith("plan")]
    tried = [r for r in runs if r.what in kinds and (r.net, r.seed) in base]
    if not tried:
        return
    page.lines += ["", "### A plan that is gone for an hour"]
    begin, end = GONE_S
    page.say(
        "The refused plans in force on the devices, as parameters of a configuration, for 90 minutes; and "
        f"withdrawn from second {begin} to {end}. Change of the mean delay against the devices without a "
        "plan on the same seeds, seed by seed."
    )
    nets = [net for net in SCENARIOS if any(r.net == net for r in tried)]
    rows = []
    for what in kinds:
        cells = []
        for net in nets:
            mine = sorted((r.seed, r.delay_s) for r in tried if (r.net, r.what) == (net, what))
            each = [f"{delay / base[net, seed].delay_s - 1:+.1%}" for seed, delay in mine]
            cells.append(", ".join(each) or "not run")
        rows.append([what, *cells])
    page.table(["", *nets], rows)
