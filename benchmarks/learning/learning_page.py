"""The figures of docs/learning.md: tables, sentences and a picture, from the outcomes of fleets. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.figure_page import FigurePage
from benchmarks.learning.fleet_outcome import FOLLOWING, FleetOutcome
from benchmarks.learning.paired_bootstrap import Array, least_share, ratio_interval, ratio_of
from benchmarks.learning.plain_policies import PHASES

WORSE_ALLOWED = 1.02
"""Cost at equal retrains, as a share of the best calendar's, that the floor allows in any cell."""
SHARE_ASKED = 0.95
TOLERANCE = 1e-4
"""Share of a cost below which two are the same: devices score in float32, plain policies here in float64."""
OTHERS = ("never", "always", "adwin")


class CellComparison(NamedTuple):
    """The loop's cost as a share of another policy's, with its interval."""

    ratio: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """Ratio and interval."""
        return f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"


def costs(outcomes: Sequence[FleetOutcome], policy: str) -> list[Array]:
    """A policy's block costs, one array a fleet."""
    return [np.array(o.costs[policy]) for o in outcomes]


def best_calendar(outcomes: Sequence[FleetOutcome]) -> list[Array]:
    """Block costs of the one phase that cost the fleets of a cell least; without a retrain that of never."""
    phases = [np.array(o.costs["calendar"]) if o.costs["calendar"] else None for o in outcomes]
    means = [sum(float(p[phase].mean()) for p in phases if p is not None) for phase in range(PHASES)]
    best = int(np.argmin(means))
    never = costs(outcomes, "never")
    return [n if p is None else p[best] for p, n in zip(phases, never, strict=True)]


def luckiest_calendar(outcomes: Sequence[FleetOutcome]) -> list[Array]:
    """Block costs of each fleet's own best phase, chosen afterwards: nobody could have known it."""
    never = costs(outcomes, "never")
    return [
        n if not o.costs["calendar"] else min(map(np.array, o.costs["calendar"]), key=lambda c: c.mean())
        for o, n in zip(outcomes, never, strict=True)
    ]


def compared(ours: Sequence[Array], theirs: Sequence[Array]) -> CellComparison:
    """The comparison of two policies on the same fleets."""
    return CellComparison(ratio_of(ours, theirs), *ratio_interval(ours, theirs))


def cells_of(outcomes: Sequence[FleetOutcome]) -> dict[str, list[FleetOutcome]]:
    """Outcomes by cell, in the order in which cells first occur."""
    found: dict[str, list[FleetOutcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.cell, []).append(outcome)
    return found


def write_costs(page: FigurePage, outcomes: Sequence[FleetOutcome]) -> None:
    """The tables of costs, and whether their floors hold."""
    cells = cells_of(outcomes)
    calendars = {name: best_calendar(found) for name, found in cells.items()}
    pooled = [c for name in cells for c in calendars[name]]
    ordered = [o for found in cells.values() for o in found]
    rows = [_row(name, found, calendars[name], luckiest_calendar(found)) for name, found in cells.items()]
    rows.append(_row("**all**", ordered, pooled, luckiest_calendar(ordered)))
    page.say(
        f"{len(outcomes)} fleets, of the seeds {min(o.seed for o in outcomes)} to "
        f"{max(o.seed for o in outcomes)}. Each number is the loop's cost as a share of the other policy's, "
        "with the middle 95 % of a paired bootstrap (fleets, and blocks of a minute within them): below 1 "
        "the loop is better."
    )
    heads = ["what happened", "fleets", "retrains", *OTHERS, "best calendar", "calendar in hindsight"]
    page.table(heads, rows)
    _floors(page, cells, calendars, ordered, pooled)


def _row(
    name: str, found: Sequence[FleetOutcome], calendar: Sequence[Array], luckiest: Sequence[Array]
) -> list[str]:
    ours = costs(found, "ours")
    others = [compared(ours, costs(found, policy)).text for policy in OTHERS]
    retrains = f"{np.mean([o.retrains['ours'] for o in found]):.1f}"
    return [
        name, str(len(found)), retrains, *others, compared(ours, calendar).text,
        f"{ratio_of(ours, luckiest):.3f}",
    ]  # fmt: skip


def _floors(
    page: FigurePage,
    cells: dict[str, list[FleetOutcome]],
    calendars: dict[str, list[Array]],
    ordered: Sequence[FleetOutcome],
    pooled: Sequence[Array],
) -> None:
    beside = {name: compared(costs(o, "ours"), costs(o, "never")) for name, o in cells.items()}
    worst = max(beside, key=lambda n: beside[n].ratio)
    all_beside = compared(costs(ordered, "ours"), costs(ordered, "never"))
    page.say(
        f"*Never worse than never*: {_kept(beside[worst].ratio <= 1 + TOLERANCE)} in the means; the worst is "
        f"{worst!r} at {beside[worst].text}, the pooled one {all_beside.text}."
    )
    equal = {name: compared(costs(o, "ours"), calendars[name]) for name, o in cells.items()}
    worst = max(equal, key=lambda n: equal[n].ratio)
    whole = compared(costs(ordered, "ours"), pooled)
    missed = [f"{n!r} ({c.text})" for n, c in equal.items() if c.ratio > WORSE_ALLOWED]
    shown = [f"{n!r}" for n, c in equal.items() if c.high <= WORSE_ALLOWED]
    page.say(
        f"*At equal retrains at most 2 % worse than the best calendar*: {_kept(not missed)} in the means; "
        f"the worst is {worst!r} at {equal[worst].text}. The whole interval keeps it on {len(shown)} of "
        f"{len(equal)}. *Better pooled*: {_kept(whole.ratio < 1)} in the mean, at {whole.text}."
        + (f" Missed by: {', '.join(missed)}." if missed else "")
    )


def write_releases(page: FigurePage, outcomes: Sequence[FleetOutcome]) -> None:
    """How models that were shipped did in the following period, beside those that they replaced."""
    found = [r for o in outcomes for r in o.releases]
    good = sum(new <= old * (1 + TOLERANCE) for new, old in found)
    least = least_share(good, len(found))
    late = sum(o.late for o in outcomes)
    page.say(
        f"Of {len(found)} models that reached their fleet, {good} cost no more in the following period (up "
        f"to the next model, at most {FOLLOWING} windows) than the model that they replaced; the lower 95 % "
        f"bound of this share is {least:.3f}. The floor of {SHARE_ASKED:g} is {_kept(least >= SHARE_ASKED)}. "
        f"{late} more were signed too late to reach their fleet within its life."
    )
    worse = [(new / old, o.cell) for o in outcomes for new, old in o.releases if new > old * (1 + TOLERANCE)]
    if worse:
        by_cell = Counter(cell for _, cell in worse)
        page.say(
            "The worse ones: "
            + ", ".join(f"{n} of {cell!r}" for cell, n in by_cell.most_common())
            + f"; at most {max(worse)[0]:.2f} times the cost."
        )


def write_runs(page: FigurePage, outcomes: Sequence[FleetOutcome]) -> None:
    """What became of runs, by cell."""
    rows = []
    for name, found in cells_of(outcomes).items():
        states = Counter(s for o in found for s in o.states)
        waits = [w for o in found for w in o.waits[:1] if w >= 0]
        rows.append(
            [
                name,
                f"{np.mean([o.verdicts for o in found]):.1f}",
                ", ".join(f"{n} {s}" for s, n in states.most_common()) or "none",
                str(sum(len(o.refused) for o in found)),
                f"{np.median(waits):.0f}" if waits else "-",
            ]
        )
    page.table(
        [
            "what happened",
            "verdicts",
            "runs: state and cause",
            "refused by gates",
            "windows to the first model",
        ],
        rows,
    )


def _kept(holds: bool) -> str:
    return "kept" if holds else "**missed**"


_LEFT, _ROW, _BAR, _SCALE = 290, 26, 6, 300
_COLOURS = {"never": "#999", "best calendar": "#3a7", "ours": "#246"}


def cost_picture(outcomes: Sequence[FleetOutcome]) -> str:
    """Mean cost of never, the best calendar and the loop, by cell, as SVG."""
    cells = cells_of(outcomes)
    means = {
        name: {
            "never": _mean(costs(found, "never")),
            "best calendar": _mean(best_calendar(found)),
            "ours": _mean(costs(found, "ours")),
        }
        for name, found in cells.items()
    }
    highest = max(v for by in means.values() for v in by.values())
    height = _ROW * len(means) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _SCALE + 70} {height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for n, (policy, colour) in enumerate(_COLOURS.items()):
        at = _LEFT + 110 * n
        parts.append(f'<rect x="{at}" y="8" width="10" height="8" fill="{colour}"/>')
        parts.append(f'<text x="{at + 14}" y="16">{policy}</text>')
    for row, (name, by) in enumerate(means.items()):
        top = 28 + _ROW * row
        parts.append(f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{name}</text>')
        for n, (policy, colour) in enumerate(_COLOURS.items()):
            width = _SCALE * by[policy] / highest
            y = top + n * (_BAR + 1)
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>')
            if policy == "ours":
                parts.append(f'<text x="{_LEFT + width + 4:.1f}" y="{y + 6}">{by[policy]:.3f}</text>')
    return "".join([*parts, "</svg>"]) + "\n"


def _mean(found: Sequence[Array]) -> float:
    return float(np.mean([c.mean() for c in found]))
