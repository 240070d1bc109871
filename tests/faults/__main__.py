"""`python -m tests.faults`: run the campaign and write its tally."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.faults import edge_faults, file_faults, line_faults, loop_faults, message_faults
from tests.faults.campaign import Result, perform, plan
from tests.faults.checker import INVARIANTS
from tests.faults.fault_kinds import KINDS
from tests.faults.tally import merge_into, table

_ = (edge_faults, file_faults, line_faults, loop_faults, message_faults)  # they register their kinds


def main() -> int:
    """Parse, run, print, write; 1: an invariant was violated, or the campaign was ended before its end."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS", "12")))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", "1")))
    parser.add_argument(
        "--kinds", default=os.environ.get("KINDS", ""), help="names with commas between; default all"
    )
    parser.add_argument("--list", action="store_true", help="list the kinds and the invariants")
    parser.add_argument("--tally", type=Path, help="add the results to the tally in this document")
    parser.add_argument(
        "--keep", type=Path, help="folder that keeps stacks and logs; default: a temporary one"
    )
    given = parser.parse_args()
    if given.list:
        for number, text in INVARIANTS.items():
            _say(f"({number}) {text}")
        for kind in KINDS.values():
            _say(f"{kind.layer:4}  {kind.name:30} {kind.says}")
        return 0
    names = [k for k in given.kinds.split(",") if k]
    if unknown := sorted(set(names) - set(KINDS)):
        parser.error(f"no such kind: {', '.join(unknown)}; --list names them")

    results: list[Result] = []

    def keep(result: Result) -> None:
        results.append(result)
        if given.tally:
            merge_into(given.tally, [result])

    with tempfile.TemporaryDirectory(prefix="edgeloop-faults-") as temporary:
        folder = given.keep or Path(temporary)
        try:
            perform(plan(given.runs, given.seed, names), folder, given.seed, _say, keep)
        except KeyboardInterrupt:
            _say(f"\nended after {len(results)} of {given.runs} runs")
    if results:
        _say(table(results))
    return 0 if len(results) == given.runs and all(r.finding.holds for r in results) else 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
