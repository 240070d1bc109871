"""`make eval`, second part: the loop beside plain policies; writes what docs/learning.md shows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure_page import FigurePage, replace_figures
from benchmarks.learning.fleet_outcome import FleetOutcome, journalled
from benchmarks.learning.fleet_story import CELLS, machine_story
from benchmarks.learning.generation_page import (
    ARMS,
    generation_picture,
    scheduled,
    traced,
    write_generations,
    write_scheduled,
)
from benchmarks.learning.generations import POOL_DEVICES, POOL_WINDOWS
from benchmarks.learning.learning_page import (
    cost_picture,
    write_costs,
    write_releases,
    write_runs,
)
from benchmarks.learning.pump_story import PUMP_CELLS
from benchmarks.learning.recorded_page import recorded_outcomes, write_recordings

BEGIN = "<!-- figures: make eval -->"
FIRST, FLEETS = 200, 8
"""Seeds below 200 were looked at while rules were made; none of them is in a figure."""
POOLS = range(3, 13)
"""Seeds of the fleets whose scheduled runs are followed."""
RECORDINGS = Path(__file__).parents[3] / "shared" / "data"


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=RECORDINGS, help="holds the recordings")
    parser.add_argument("--fleets", type=int, default=FLEETS, help="of each cell")
    parser.add_argument("--first", type=int, default=FIRST, help="seed of each cell's first fleet")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--journal", type=Path, help="where fleets are kept, so that a run can be stopped")
    parser.add_argument("--measured", action="store_true", help="only the fleets that the journal has")
    parser.add_argument("--fleets-only", action="store_true", help="fill the journal, and write nothing")
    parser.add_argument("--write", type=Path, help="page whose figures to replace; pictures go beside it")
    given = parser.parse_args()
    if given.journal is not None:
        given.journal.parent.mkdir(parents=True, exist_ok=True)
    wanted = list(_wanted(given.first, given.fleets, given.only))
    outcomes = journalled(given.journal, wanted, _tell, known_only=given.measured)
    if given.fleets_only:
        return 0
    page = FigurePage()
    pictures = _fleets(page, outcomes)
    write_recordings(page, recorded_outcomes(given.folder, _tell))
    pool = machine_story("nothing", 3, POOL_DEVICES, POOL_WINDOWS)
    traces = {name: traced(pool, arm) for name, arm in ARMS.items()}
    write_generations(page, traces)
    write_scheduled(page, [scheduled(machine_story("nothing", s, POOL_DEVICES, POOL_WINDOWS)) for s in POOLS])
    pictures["learning-generations.svg"] = generation_picture(traces)
    text = "\n".join(page.lines).strip() + "\n"
    sys.stdout.write(text)
    if given.write is not None:
        replace_figures(given.write, BEGIN, text)
        for name, picture in pictures.items():
            (given.write.parent / name).write_text(picture, encoding="utf-8")
    return 0


def _wanted(first: int, fleets: int, only: str) -> Iterator[tuple[str, int]]:
    """Seed by seed: a run that is stopped has as many fleets of each cell."""
    for seed in range(first, first + fleets):
        for cell in (*CELLS, *PUMP_CELLS):
            if only in cell:
                yield cell, seed


def _fleets(page: FigurePage, outcomes: list[FleetOutcome]) -> dict[str, str]:
    page.lines += ["", "### Fleets"]
    if not outcomes:
        page.say("No fleet was measured.")
        return {}
    write_costs(page, outcomes)
    page.lines += ["", "![Mean cost of three policies](learning-cost.svg)"]
    write_releases(page, outcomes)
    write_runs(page, outcomes)
    return {"learning-cost.svg": cost_picture(outcomes)}


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
