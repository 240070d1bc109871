"""The figures of docs/verticals/machine.md, from stored results. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.figure_page import FigurePage
from benchmarks.judge.machine.action_benefit import WAYS, damage
from benchmarks.judge.machine.machine_outcome import JudgedOutcome
from benchmarks.judge.machine.rig_fleets import (
    FAULT_KINDS,
    HARMLESS,
    HIDDEN,
    KNOWN_HARMLESS,
    LOAD,
    SEVERITIES,
    STEADY,
    UNKNOWN,
)
from benchmarks.judge.machine.rig_models import ANNOUNCED, ARMS, REPEATED
from benchmarks.judge.machine.share_interval import share_interval

BEGIN = "<!-- figures: make judge -->"
DAY_S = 86_400.0
FLOOR = 0.8
SENSORS = tuple(cell for cell in KNOWN_HARMLESS if cell != LOAD)
WEEKEND_D, WEEK_D = 2.5, 7.0


def figures(stored: dict[str, Any], outcomes: Sequence[JudgedOutcome]) -> str:
    """All tables and sentences, as Markdown."""
    page = FigurePage()
    _physics(page, stored["ross"])
    _features(page, stored["compared"])
    _detection(page, outcomes)
    _false_alarms(page, outcomes, stored["chosen"], stored["high"])
    _benefit(page, outcomes)
    _loop(page, outcomes, {(arm, cell, seed) for arm, cell, seed in stored.get("earlier", ())})
    _held(page, outcomes, stored["drift_window_s"], stored["works_window_s"])
    return "\n".join(page.lines).strip() + "\n"


def _physics(page: FigurePage, ross: dict[str, Any]) -> None:
    page.say(
        f"ROSS {ross['version']}, {ross['rotors']} rotors. On the first one, the first harmonic of "
        f"the steady state differs by {ross['apart']:.1%} from ROSS's own integration in time, which "
        "keeps 24 modes."
    )


def _features(page: FigurePage, found: dict[str, Any]) -> None:
    page.lines += ["", "### Our generator beside ROSS"]
    page.say(
        "Healthy machines: median and middle 90 % of windows. Then how far a whole fault moves the median, "
        "in standard deviations of healthy windows of the same source (of logarithms, where the model takes "
        "them)."
    )
    ours, theirs = found["generator"], found["judge"]
    kinds = [k for k in FAULT_KINDS if k in theirs["shifts"]]
    rows = []
    for i, name in enumerate(found["features"]):
        rows.append(
            [
                name, _span(ours, i), _span(theirs, i), _shift(ours["shifts"]["imbalance"][i]),
                *(_shift(theirs["shifts"][k][i]) for k in kinds),
            ]
        )  # fmt: skip
    heads = [
        "feature",
        "generator, healthy",
        "ROSS, healthy",
        "generator: imbalance",
        *(f"ROSS: {k}" for k in kinds),
    ]
    page.table(heads, rows)
    ratios = [a / b for a, b in zip(ours["median"][:7], theirs["median"][:7], strict=True)]
    alike = _cosine(ours["shifts"]["imbalance"], theirs["shifts"]["unbalance"])
    cross = {k: _cosine(ours["shifts"]["imbalance"], theirs["shifts"][k]) for k in kinds if k != "unbalance"}
    page.say(
        f"Healthy vibration of the generator is {min(ratios):.2g} to {max(ratios):.2g} times that of ROSS, "
        f"by feature. The direction in which an unbalance of ROSS moves the features has a cosine of "
        f"{alike:.2f} with our generator's imbalance"
        + "".join(f"; {k} has {v:.2f}" for k, v in cross.items())
        + "."
    )


def _span(source: dict[str, Any], i: int) -> str:
    return f"{source['median'][i]:.3g} ({source['low'][i]:.3g} to {source['high'][i]:.3g})"


def _shift(value: float) -> str:
    return f"{value:+.1f}"


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    x, y = np.array(a), np.array(b)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))


def _detection(page: FigurePage, outcomes: Sequence[JudgedOutcome]) -> None:
    page.lines += ["", "### Faults"]
    page.say(
        "Of machines that a fault hits: the share that had an action in force at some time after its onset, "
        "with the 95 % interval of Clopper and Pearson, and the median of seconds until then. A machine that "
        "was in alarm as the fault began shows nothing and is left out; the page counts it."
    )
    rows = []
    for arm in ARMS:
        for kind in FAULT_KINDS:
            for severity in SEVERITIES:
                found = [o for o in outcomes if o.arm == arm and o.cell == kind and o.severity == severity]
                if found and arm not in REPEATED:
                    rows.append([arm, kind, f"{severity:g}", *_recall(found)])
    page.table(["model", "fault", "severity", "machines", "in alarm before", "recall", "delay, s"], rows)


def _recall(found: Sequence[JudgedOutcome]) -> list[str]:
    hit, already = sum(o.hit for o in found), sum(o.already for o in found)
    delays = [d for o in found for d in o.delays]
    shown = hit - already
    recall = share_interval(len(delays), shown).text if shown else "-"
    return [str(hit), str(already), recall, f"{np.median(delays):.0f}" if delays else "-"]


def _false_alarms(
    page: FigurePage, outcomes: Sequence[JudgedOutcome], chosen: dict[str, str], high: dict[str, float]
) -> None:
    page.say(
        "On healthy machines. An alarm begins once and lasts: a model by which all is in alarm has few, and "
        "shows it in the share of windows that score high."
    )
    rows = []
    for arm in ARMS:
        found = [o for o in outcomes if o.arm == arm]
        if found and arm not in REPEATED:
            days = sum(o.healthy_windows for o in found) / DAY_S
            alarms = sum(o.false_alarms for o in found)
            rows.append(
                [arm, chosen[arm], f"{days:.2f}", str(alarms), f"{alarms / days:.1f}", f"{high[arm]:.1%}"]
            )
    page.table(
        ["model", "what it is", "healthy machine-days", "false alarms", "a machine-day", "score high"], rows
    )


def _benefit(page: FigurePage, outcomes: Sequence[JudgedOutcome]) -> None:
    page.lines += ["", "### What the action on the device saves"]
    page.say(
        "Fault-seconds (severity times seconds from the onset to the stop) of a machine in the hour after "
        "its onset, with *fitted*: the delays are those measured above, a fault stays until somebody "
        "stops the machine, and what was not detected in the seven minutes counts as not stopped. The cloud "
        "has the same model and the same windows, and answers so much later."
    )
    rows = []
    for kind in FAULT_KINDS:
        found = [o for o in outcomes if o.arm == "fitted" and o.cell == kind]
        if found:
            rows.append([kind, *(f"{damage(found, way):.1f}" for way in WAYS)])
    page.table(["fault", *(way.name for way in WAYS)], rows)


def _loop(page: FigurePage, outcomes: Sequence[JudgedOutcome], earlier: set[tuple[str, str, int]]) -> None:
    page.lines += ["", "### What is learnt without a person"]
    page.say(
        "Fleets of 12 machines. *Learnt*: a model was signed after the change, by the trainer's rules and "
        "the gates alone. *Tried*: a candidate was made, whatever the gates said of it."
        + (
            " *Earlier*: measured before the rules were changed last, and not made again since."
            if earlier
            else ""
        )
    )
    rows = []
    for arm, text in ARMS.items():
        for cell in (*FAULT_KINDS, *HARMLESS, *HIDDEN, STEADY):
            found = [o for o in outcomes if o.arm == arm and o.cell == cell]
            if found:
                states = Counter(f"{state}: {kind}" for o in found for state, kind, _ in o.runs)
                rows.append(
                    [
                        arm, cell, _count(found, earlier), str(sum(o.learnt for o in found)),
                        str(sum(o.tried for o in found)),
                        ", ".join(f"{n} {s}" for s, n in states.most_common()) or "none",
                    ]
                )  # fmt: skip
        if any(o.arm == arm for o in outcomes):
            page.say(f"*{arm}*: {text}.")
    page.table(["model", "what happened", "fleets", "learnt", "tried", "runs: state and cause"], rows)
    for arm in ARMS:
        found = [o for o in outcomes if o.arm == arm]
        if arm in ANNOUNCED:
            # Of sensors nobody knows beforehand: what became of those is the same, with and without.
            found += [o for o in outcomes if o.arm == ANNOUNCED[arm] and o.cell in SENSORS]
        _floors(page, arm, found)


def _count(found: Sequence[JudgedOutcome], earlier: set[tuple[str, str, int]]) -> str:
    before = sum((o.arm, o.cell, o.seed) in earlier for o in found)
    return f"{len(found)} ({before} earlier)" if before else str(len(found))


def _floors(page: FigurePage, arm: str, found: Sequence[JudgedOutcome]) -> None:
    unknown = [o for o in found if o.cell in UNKNOWN]
    known = [o for o in found if o.cell in KNOWN_HARMLESS]
    if not unknown or not known:
        return
    bad, good = sum(o.learnt for o in unknown), sum(o.learnt for o in known)
    share = share_interval(good, len(known))
    page.say(
        f"With *{arm}*, unknown faults were learnt in {bad} of {len(unknown)} fleets "
        f"({share_interval(bad, len(unknown)).text}): {'kept' if bad == 0 else '**missed**'}. Known harmless "
        f"drifts were learnt in {good} of {len(known)} ({share.text}); the floor of {FLOOR:g} is "
        f"{'kept' if good >= FLOOR * len(known) else '**missed**'}. {_by_who_knows(arm, known)}"
    )


def _by_who_knows(arm: str, known: Sequence[JudgedOutcome]) -> str:
    """The same apart for what the data alone can tell, and what only a person knows."""
    sensors, loads = ([o for o in known if (o.cell in SENSORS) is of] for of in (True, False))
    told = "which the operator announced" if arm in ANNOUNCED else "of which nobody told the loop"
    parts = (
        (sensors, "a sensor's offset or gain, which the data tell"),
        (loads, f"a new load and speed, {told}"),
    )
    shares = [
        f"{sum(o.learnt for o in found)} of {len(found)} "
        f"({share_interval(sum(o.learnt for o in found), len(found)).text}) are {text}"
        for found, text in parts
    ]
    return f"Of these, {'; '.join(shares)}."


def _held(
    page: FigurePage, outcomes: Sequence[JudgedOutcome], window_s: float, works_window_s: float
) -> None:
    page.lines += ["", "### What a held drift costs"]
    page.say(
        "A drift that is held waits for a person, however long that takes. Until then the old model stays in "
        "force: each day of waiting costs its alarms a machine-day after the change less those before. A "
        "change that is learnt costs them from its onset to the rollout; the last columns have the first "
        f"part, until a model is signed, in drift windows, and in days where a window is {works_window_s:g} "
        "seconds long, as in `machine`."
    )
    rows, worst = [], ("", "", 0.0)
    for arm in ARMS:
        # An announcement changes no model; and where a fault comes with a load, healthy machines alarm of it.
        before = [o for o in outcomes if o.arm == ANNOUNCED.get(arm, arm)]
        base = _rate(sum(o.false_alarms for o in before), sum(o.healthy_windows for o in before))
        for cell in HARMLESS:
            found = [o for o in outcomes if o.arm == arm and o.cell == cell]
            if not found:
                continue
            after = _rate(sum(o.changed_alarms for o in found), sum(o.changed_windows for o in found))
            waits = [min(s for s in o.signed if s > o.at) - o.at for o in found if o.learnt]
            held, windows = len(found) - len(waits), np.median(waits) / window_s if waits else np.nan
            if held and arm != "factory":
                worst = max(worst, (arm, cell, after - base), key=lambda known: known[2])
            days = windows * works_window_s / DAY_S
            learnt = [f"{windows:.0f}", f"{days:.2g}", f"{days * (after - base):.0f}"] if waits else ["-"] * 3
            costs = [f"{d * (after - base):.0f}" if held else "-" for d in (1.0, WEEKEND_D, WEEK_D)]
            rows.append(
                [arm, cell, f"{base:.1f}", f"{after:.1f}", f"{held} of {len(found)}", *costs, *learnt]
            )
    page.table(
        [
            "model", "what happened", "alarms a machine-day before", "after, old model", "held",
            "alarms more on a machine if it waits a day", f"{WEEKEND_D:g} days", f"{WEEK_D:g} days",
            "learnt: windows to a model", "days to a model", "alarms more on a machine until then",
        ],
        rows,
    )  # fmt: skip
    arm, cell, more = worst
    if more:
        page.say(
            "In words: a wrongly held drift costs its alarms times the days until somebody looks. The worst, "
            f"{cell} with *{arm}*, raises {more:.0f} alarms more on each machine each day. Seen on the next "
            f"morning that is {more:.0f} a machine, after a weekend {WEEKEND_D * more:.0f}, after a week "
            f"{WEEK_D * more:.0f}; what else a wrong alarm costs, a stop of the machine first of all, comes "
            "to that. These are rates of the minutes after a change. With *factory* nothing is added, as all "
            "is in alarm already."
        )


def _rate(alarms: int, windows: int) -> float:
    """Alarms a machine-day; NaN without a window."""
    return alarms / windows * DAY_S if windows else float("nan")
