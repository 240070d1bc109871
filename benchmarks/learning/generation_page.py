"""Fifty generations as a table and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.figure_page import FigurePage
from benchmarks.learning.fleet_story import FleetStory
from benchmarks.learning.generations import GenerationTrace, generations
from model_service.gates.unexplained_shift import MOST_SHIFT

ARMS: dict[str, dict[str, Any]] = {
    "inclusion probabilities, no gate": {"gated": False, "moved": True},
    "rows counted alike, no gate": {"gated": False, "moved": True, "weighted": False},
    "inclusion probabilities, gates": {"moved": True},
    "rows counted alike, gates": {"moved": True, "weighted": False},
    "wear on 80 %, no gate": {"wear": True, "moved": True, "gated": False},
    "wear on 80 %, gates": {"wear": True, "moved": True},
    "scheduled runs, gates": {},
    "wear on 80 %, gates, scheduled runs": {"wear": True},
}
"""What is done in each arm; ``moved``: every run may move every feature, as one that a person asks for."""
_LEFT, _WIDTH, _HEIGHT = 40, 420, 150
_COLOURS = ("#246", "#b22", "#3a7", "#c80", "#888", "#639", "#000", "#057")


def traced(pool: FleetStory, arm: Mapping[str, Any]) -> GenerationTrace:
    """The trace of an arm."""
    return generations(pool, **arm)


class PoolOutcome(NamedTuple):
    """Scheduled runs on one pool of machines, without and with the bound on what nothing explains.

    Attributes:
        accepted: Candidates, by ``(wear, bounded)``.
        along: Farthest that the accepted baseline lay along the wear, in spreads.
        recall: At last.
    """

    seed: int
    accepted: dict[tuple[bool, bool], int]
    along: dict[tuple[bool, bool], float]
    recall: dict[tuple[bool, bool], float]


def scheduled(pool: FleetStory) -> PoolOutcome:
    """Fifty generations of scheduled runs on a pool, with and without wear on most machines."""
    traces = {(w, b): generations(pool, wear=w, bounded=b) for w in (False, True) for b in (False, True)}
    return PoolOutcome(
        pool.seed,
        {k: sum(t.accepted) for k, t in traces.items()},
        {k: max(t.learnt) for k, t in traces.items()},
        {k: t.recall[-1] for k, t in traces.items()},
    )


def write_scheduled(page: FigurePage, outcomes: Sequence[PoolOutcome]) -> None:
    """Add the table of pools, and the law."""
    page.say(
        "Scheduled runs on further fleets: candidates accepted, how far the accepted baseline lay along wear "
        "at most, and recall at last; without the gate `unexplained_shift`, and with it."
    )
    keys = ((False, False), (False, True), (True, False), (True, True))
    rows = [
        [str(o.seed), *(f"{o.accepted[k]}; {o.along[k]:+.2f}; {o.recall[k]:.3f}" for k in keys)]
        for o in outcomes
    ]
    page.table(["fleet", "no wear, without", "with", "wear on 80 %, without", "with"], rows)
    most = max(o.along[True, True] for o in outcomes)
    kept = "kept" if most <= MOST_SHIFT else "**missed**"
    page.say(
        f"*Wear on 80 % of the machines never raises the accepted baseline*, but for the {MOST_SHIFT:g} "
        f"standard deviations that chance alone may explain: {kept}, at most {most:+.2f}."
    )


def write_generations(page: FigurePage, traces: Mapping[str, GenerationTrace]) -> None:
    """Add the section."""
    count = len(next(iter(traces.values())).recall)
    page.lines += ["", f"### {count} generations"]
    rows = [
        [
            name,
            f"{trace.recall[0]:.3f}",
            f"{trace.recall[-1]:.3f}",
            f"{trace.false_alarms[-1]:.2%}",
            f"{trace.wear_score[0]:.3f}",
            f"{trace.wear_score[-1]:.3f}",
            f"{max(trace.learnt):+.2f}",
            str(sum(trace.accepted)),
        ]
        for name, trace in traces.items()
    ]
    heads = [
        "arm", "recall at first", "at last", "false alarms at last", "score of clear wear at first",
        "at last", "baseline along wear, most", "accepted",
    ]  # fmt: skip
    page.table(heads, rows)
    page.lines += ["", "![Recall by generation](learning-generations.svg)"]


def generation_picture(traces: Mapping[str, GenerationTrace]) -> str:
    """Recall on the fault bank by generation, a line an arm, as SVG."""
    height = _HEIGHT + 30 + 16 * len(traces)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for value in (0.0, 0.5, 1.0):
        y = 10 + _HEIGHT * (1 - value)
        parts.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="8" y="{y + 4}">{value:.1f}</text>')
    for n, (name, trace) in enumerate(traces.items()):
        colour = _COLOURS[n % len(_COLOURS)]
        step = _WIDTH / max(len(trace.recall) - 1, 1)
        points = " ".join(
            f"{_LEFT + step * g:.1f},{10 + _HEIGHT * (1 - r):.1f}" for g, r in enumerate(trace.recall)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = _HEIGHT + 30 + 16 * n
        parts.append(f'<rect x="{_LEFT}" y="{y - 8}" width="10" height="8" fill="{colour}"/>')
        parts.append(f'<text x="{_LEFT + 14}" y="{y}">{name}</text>')
    return "".join([*parts, "</svg>"]) + "\n"
