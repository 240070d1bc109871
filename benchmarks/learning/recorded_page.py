"""The recordings' part of docs/learning.md: costs beside the loop's, with intervals, and the floors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.figure_page import FigurePage
from benchmarks.learning.learning_page import TOLERANCE, WORSE_ALLOWED, CellComparison
from benchmarks.learning.paired_bootstrap import DRAWS, LEVEL, SEED, Array
from benchmarks.learning.prequential_cost import BLOCK, cost_of
from benchmarks.learning.recorded_policies import (
    DELAYS,
    PolicyRun,
    adwin_run,
    always_run,
    calendar_runs,
    loop_run,
    never_run,
)
from benchmarks.learning.recorded_story import RecordedStory, recorded_story, recorded_tables

BLOCKS = 60
"""A recording is cut into so many blocks, each of at least ``BLOCK`` windows."""


class RecordedOutcome(NamedTuple):
    """One recording at one delay of labels.

    Attributes:
        beside: The loop's cost as a share of another policy's, by policy, with its retrains.
        calendar: The same of the best phase; None: the loop retrained as often as never.
        states: What became of the loop's runs.
    """

    recorded: RecordedStory
    delay_days: float
    retrains: int
    beside: dict[str, tuple[CellComparison, int]]
    calendar: CellComparison | None
    states: dict[str, int]
    verdicts: int
    cost: float


def recorded_outcomes(folder: Path, told: Callable[[str], None]) -> list[RecordedOutcome]:
    """Every recording that the folder holds, at each delay; one without labels once."""
    found = []
    for table in recorded_tables(folder):
        told(table.name)
        recorded = recorded_story(table)
        never = never_run(recorded)
        found += [_outcome(recorded, never, d) for d in (DELAYS if table.labelled else DELAYS[:1])]
    return found


def _outcome(recorded: RecordedStory, never: PolicyRun, delay: float) -> RecordedOutcome:
    ours, history = loop_run(recorded, delay)
    plain = {"never": never, "always": always_run(recorded, delay), "adwin": adwin_run(recorded, delay)}
    phases = calendar_runs(recorded, ours.retrains, delay)
    best = min(phases, key=lambda run: total_cost(run.sums), default=None)
    states = Counter(f"{r.state}: {r.finding.kind if r.finding else '-'}" for r in history.runs)
    return RecordedOutcome(
        recorded,
        delay,
        ours.retrains,
        {name: (compared_sums(ours.sums, run.sums), run.retrains) for name, run in plain.items()},
        compared_sums(ours.sums, best.sums) if best is not None else None,
        dict(states),
        history.verdicts,
        total_cost(ours.sums),
    )


def total_cost(sums: Array) -> float:
    """Class-balanced cost of all windows together, of sums (windows, 6)."""
    return float(cost_of(sums.sum(axis=0)[None])[0])


def compared_sums(ours: Array, theirs: Array) -> CellComparison:
    """Ratio of two policies' costs, and the middle 95 % over blocks of windows drawn anew, alike for both."""
    size = max(BLOCK, len(ours) // BLOCKS)
    starts = np.arange(0, len(ours), size)
    mine, other = (np.add.reduceat(s, starts, axis=0) for s in (ours, theirs))
    rng = np.random.default_rng(SEED)
    shares = np.full(len(starts), 1 / len(starts))
    weights = rng.multinomial(len(starts), shares, size=DRAWS).astype(np.float64)
    drawn = cost_of(weights @ mine) / cost_of(weights @ other)
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return CellComparison(total_cost(ours) / total_cost(theirs), float(low), float(high))


def write_recordings(page: FigurePage, outcomes: Sequence[RecordedOutcome]) -> None:
    """Add the section."""
    page.lines += ["", "### Recordings"]
    if not outcomes:
        page.say("The recordings are not here: not measured.")
        return
    page.say(
        "Each number is the loop's cost as a share of the other policy's, with the middle 95 % of a paired "
        "bootstrap of blocks; after it, the other policy's retrains."
    )
    heads = [
        "recording", "labels known after", "windows", "cost", "retrains", "never", "always", "adwin",
        "best calendar", "verdicts; runs",
    ]  # fmt: skip
    page.table(heads, [_row(o) for o in outcomes])
    _floors(page, outcomes)


def _row(outcome: RecordedOutcome) -> list[str]:
    recorded = outcome.recorded
    story = recorded.story
    runs = ", ".join(f"{n} {s}" for s, n in outcome.states.items())
    return [
        story.cell,
        f"{outcome.delay_days:g} d" if recorded.labelled else "no labels",
        f"{len(story.features)} x {story.windows}",
        f"{outcome.cost:.4f}",
        str(outcome.retrains),
        *(f"{c.text}; {n}" for c, n in outcome.beside.values()),
        outcome.calendar.text if outcome.calendar is not None else "as never",
        f"{outcome.verdicts}; {runs or 'none'}",
    ]


def _floors(page: FigurePage, outcomes: Sequence[RecordedOutcome]) -> None:
    worse = [o for o in outcomes if o.beside["never"][0].ratio > 1 + TOLERANCE]
    beside = [(o.calendar or o.beside["never"][0]).ratio for o in outcomes]
    missed = [o for o, ratio in zip(outcomes, beside, strict=True) if ratio > WORSE_ALLOWED]
    page.say(
        f"*Never worse than never*: {_verdict(worse)}. *At equal retrains at most 2 % worse than the best "
        f"calendar*: {_verdict(missed)}."
    )
    trivial = sorted({o.recorded.story.cell for o in outcomes if not o.retrains})
    if trivial:
        page.say(
            "The loop retrained nothing, and so both floors are kept by doing nothing, on: "
            + ", ".join(trivial)
            + "."
        )
    for name in ("always", "adwin"):
        lost = [
            f"{_where(o)} ({o.beside[name][0].text})"
            for o in outcomes
            if o.beside[name][0].low > 1 + TOLERANCE
        ]
        won = [
            f"{_where(o)} ({o.beside[name][0].text})"
            for o in outcomes
            if o.beside[name][0].high < 1 - TOLERANCE
        ]
        page.say(
            f"Beside *{name}* the loop is clearly worse on {', '.join(lost) or 'none'}; clearly better on "
            f"{', '.join(won) or 'none'}."
        )


def _where(outcome: RecordedOutcome) -> str:
    cell = outcome.recorded.story.cell
    return f"{cell}, {outcome.delay_days:g} d" if outcome.recorded.labelled else cell


def _verdict(broken: Sequence[RecordedOutcome]) -> str:
    return f"**missed** on {', '.join(map(_where, broken))}" if broken else "kept"
