"""Makes the tables of false retrains in docs/drift.md: ``python -m benchmarks.drift --write PAGE``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.drift import recorded_drifts, simulated_fleets
from benchmarks.drift.retrain_rules import RULES
from benchmarks.figure_page import replace_figures

BEGIN = "<!-- figures: python -m benchmarks.drift -->"
RECORDINGS = Path(__file__).parents[3] / "shared" / "data"


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=RECORDINGS)
    parser.add_argument("--fleets", type=int, default=3, help="fleets of each kind")
    parser.add_argument("--first", type=int, default=6000, help="first seed")
    parser.add_argument("--write", type=Path, help="page whose figures to replace")
    given = parser.parse_args()
    lines = [*simulated(range(given.first, given.first + given.fleets)), "", *recorded(given.folder)]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if given.write is not None:
        replace_figures(given.write, BEGIN, text)
    return 0


def simulated(seeds: range) -> list[str]:
    """The table of simulated fleets; a cell: false retrains a fleet, share of false alarms, found, delay."""
    profile = simulated_fleets.profile()
    rows = []
    for case in simulated_fleets.CASES:
        cells = []
        fleets = [simulated_fleets.fleet(case, seed) for seed in seeds]
        for rule in RULES.values():
            scores = [simulated_fleets.score(case, rule(fleet, profile)) for fleet in fleets]
            false = np.mean([s.false_retrains for s in scores])
            share = np.mean([s.false_share for s in scores])
            text = f"{false:.1f}; {share:.2f}"
            if case.drifting:
                series = case.drifting * simulated_fleets.FEATURES * len(scores)
                delays = [delay for s in scores for delay in s.delays]
                late = f", {np.median(delays):.0f} w" if delays else ""
                text += f"; {sum(s.found for s in scores)} of {series}{late}"
            cells.append(text)
        rows.append(f"| {case.name} | {' | '.join(cells)} |")
    return [*_heads("fleet"), *rows]


def recorded(folder: Path) -> list[str]:
    """The table of recordings; a cell: known changes met and delay, other alarms, retrains for these."""
    rows = []
    for recording in recorded_drifts.RECORDED:
        if not (folder / recording.path).is_file():
            rows.append(
                f"| {recording.name} | the recording is not here: not measured |" + " |" * (len(RULES) - 1)
            )
            continue
        cells_of = recorded_drifts.samples(folder, recording)
        profile = recorded_drifts.profile_of(recording, cells_of)
        first, windows = recorded_drifts.windows_of(recording, cells_of)
        cells = []
        for rule in RULES.values():
            alarms = rule([windows], profile)
            found = recorded_drifts.score(recording, first, alarms)
            late = f", {np.median(found.delays):.0f} w" if found.delays else ""
            cells.append(f"{found.met} of {len(recording.known)}{late}; {found.others}; {found.retrains}")
        rows.append(f"| {recording.name} | {' | '.join(cells)} |")
    return [*_heads("recording"), *rows]


def _heads(first: str) -> Sequence[str]:
    return f"| {first} | {' | '.join(RULES)} |", f"|{'---|' * (len(RULES) + 1)}"


if __name__ == "__main__":
    sys.exit(main())
