"""`make guarding`: rollouts of right and wrong models, simulated, into the figures of docs/rollouts.md.

It may be stopped at any time: the next run goes on with the cells that are missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.guarding.cell_result import CellResult, Journal
from benchmarks.guarding.one_rollout import run
from benchmarks.guarding.page import figures, write
from benchmarks.guarding.simulated_fleet import GOOD, GROUPS, KINDS, RATES, Cell

ROLLOUTS = 500


def main() -> int:
    """Simulate what is missing; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=ROLLOUTS, help="rollouts of each cell")
    parser.add_argument(
        "--journal", type=Path, default=Path("build/guarding.jsonl"), help="cells that are done"
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of models to simulate, by commas")
    parser.add_argument("--write", type=Path, help="page whose figures to replace")
    given = parser.parse_args()
    journal = Journal(given.journal)
    results = journal.read(given.rollouts)
    quickest = sorted(KINDS, key=lambda kind: kind in GOOD)  # wrong models are soon stopped
    for cell in (Cell(k, n, rate) for n in GROUPS for k in quickest for rate in RATES):
        if cell.kind not in given.kinds.split(","):
            continue
        if cell.name not in results:
            begun = time.process_time()
            endings = [run(cell, seed) for seed in range(given.rollouts)]
            results[cell.name] = CellResult.of(cell, endings, time.process_time() - begun)
            journal.add(cell, results[cell.name])
            sys.stderr.write(f"{cell.name}: {results[cell.name]}\n")
    sys.stdout.write(figures(results))
    if given.write is not None:
        given.write.write_text(write(given.write.read_text(encoding="utf-8"), results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
