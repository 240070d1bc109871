"""The drift watch alone, on more fleets whose rows resemble each other: its false verdicts, with bounds.

A fleet's false discovery proportion is at most 1, and 0 without a false verdict. So the share of fleets with
one bounds the mean, the false discovery rate, from above; Clopper and Pearson bound that share.
``python -m benchmarks.drift.false_rates --write docs/drift.md``; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.drift import simulated_fleets
from benchmarks.drift.retrain_rules import ours
from benchmarks.drift.simulated_fleets import CASES, COHORTS, FEATURES, FleetCase
from benchmarks.figure_page import replace_figures
from benchmarks.learning.paired_bootstrap import least_share

BEGIN = "<!-- figures: python -m benchmarks.drift.false_rates -->"
FIRST_SEED = 7000
"""Other seeds than those of the table beside other rules."""
_MODULES = ("false_rates", "retrain_rules", "simulated_fleets")
KINDS = tuple(case for case in CASES if case.memory)


def main() -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleets", type=int, default=10, help="fleets of each kind")
    parser.add_argument(
        "--journal", type=Path, default=Path("build/watched.jsonl"), help="where they are kept"
    )
    parser.add_argument("--write", type=Path, help="page whose figures to replace")
    given = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + given.fleets)
    text = "\n".join(table(journalled(given.journal, seeds, _tell))) + "\n"
    sys.stdout.write(text)
    if given.write is not None:
        replace_figures(given.write, BEGIN, text)
    return 0


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


class WatchOutcome(NamedTuple):
    """One fleet.

    Attributes:
        false_share: Share of its verdicts that are false; 0 without any.
        false_retrains: False ones that start a run.
        found: Drifting series with a verdict.
    """

    case: str
    seed: int
    verdicts: int
    false_share: float
    false_retrains: int
    found: int


def watched(case: FleetCase, seed: int) -> WatchOutcome:
    """A fleet under the drift watch."""
    fleet = simulated_fleets.fleet(case, seed)
    found = simulated_fleets.score(case, ours(fleet, simulated_fleets.profile()))
    return WatchOutcome(case.name, seed, found.alarms, found.false_share, found.false_retrains, found.found)


def journalled(journal: Path, seeds: Iterable[int], told: Callable[[str], None]) -> list[WatchOutcome]:
    """Outcomes of each kind of fleet, those of the journal read and the others made and added to it."""
    code, known = _code(), {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else ():
        raw = json.loads(line)
        if raw.pop("code") == code:
            known[raw["case"], raw["seed"]] = WatchOutcome(**raw)
    wanted = [(case, seed) for seed in seeds for case in KINDS]
    for case, seed in wanted:
        if (case.name, seed) in known:
            continue
        told(f"watched: {case.name} #{seed}")
        known[case.name, seed] = watched(case, seed)
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(known[case.name, seed]._asdict() | {"code": code}) + "\n")
    return [known[case.name, seed] for case, seed in wanted]


def table(outcomes: list[WatchOutcome]) -> list[str]:
    """The table, and all kinds together."""
    if not outcomes:
        return []
    heads = [
        "fleet",
        "fleets",
        "verdicts",
        "with a false one",
        "at most (95 %)",
        "mean share",
        "found",
    ]
    rows = [_row(case, [o for o in outcomes if o.case == case.name]) for case in KINDS]
    false = sum(o.false_share > 0 for o in outcomes)
    whole = [
        "**all**", str(len(outcomes)), str(sum(o.verdicts for o in outcomes)), str(false),
        f"{most_share(false, len(outcomes)):.1%}", f"{_mean_share(outcomes):.3f}", "",
    ]  # fmt: skip
    return [f"| {' | '.join(r)} |" for r in (heads, ["---"] * len(heads), *rows, whole)]


def _row(case: FleetCase, found: list[WatchOutcome]) -> list[str]:
    false, series = sum(o.false_share > 0 for o in found), case.drifting * FEATURES * len(found)
    return [
        case.name,
        str(len(found)),
        str(sum(o.verdicts for o in found)),
        str(false),
        f"{most_share(false, len(found)):.1%}",
        f"{_mean_share(found):.3f}",
        f"{sum(o.found for o in found)} of {series}" if series else "",
    ]


def most_share(successes: int, trials: int) -> float:
    """Upper 95 % bound (one-sided) of a share, of Clopper and Pearson."""
    return 1 - least_share(trials - successes, trials)


def _mean_share(found: list[WatchOutcome]) -> float:
    return sum(o.false_share for o in found) / len(found)


def _code() -> str:
    """Version of the code that an outcome depends on."""
    root, digest = Path(__file__).parents[2], hashlib.sha256(str(COHORTS).encode())
    own = [Path(__file__).parent / f"{name}.py" for name in _MODULES]
    for path in [*sorted((root / "stream_processors" / "drift").glob("*.py")), *own]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())
