"""The drift watch alone over whole quarters: how many of a fleet's verdicts are false, with bounds.

A fleet's false discovery proportion is at most 1, and 0 without a false verdict. So the share of fleets with
one bounds the mean, the false discovery rate, from above; Clopper and Pearson bound that share.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.drift import simulated_fleets
from benchmarks.drift.retrain_rules import ours
from benchmarks.drift.simulated_fleets import CASES, COHORTS, FEATURES, FleetCase
from benchmarks.learning.paired_bootstrap import least_share

QUARTER = 91 * 24
"""Windows of an hour in a quarter: what the stated rate is about."""
STATED = 0.10


class QuarterOutcome(NamedTuple):
    """One fleet's quarter.

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


def quarter(case: FleetCase, seed: int) -> QuarterOutcome:
    """A fleet that lives for a quarter under the drift watch."""
    fleet = simulated_fleets.fleet(case, seed, QUARTER)
    found = simulated_fleets.score(case, ours(fleet, simulated_fleets.profile()))
    return QuarterOutcome(case.name, seed, found.alarms, found.false_share, found.false_retrains, found.found)


def journalled(journal: Path, seeds: Iterable[int], told: Callable[[str], None]) -> list[QuarterOutcome]:
    """Outcomes of each kind of fleet, those of the journal read and the others made and added to it."""
    code, known = _code(), {}
    for line in journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else ():
        raw = json.loads(line)
        if raw.pop("code") == code:
            known[raw["case"], raw["seed"]] = QuarterOutcome(**raw)
    wanted = [(case, seed) for seed in seeds for case in CASES]
    for case, seed in wanted:
        if (case.name, seed) in known:
            continue
        told(f"a quarter: {case.name} #{seed}")
        known[case.name, seed] = quarter(case, seed)
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(known[case.name, seed]._asdict() | {"code": code}) + "\n")
    return [known[case.name, seed] for case, seed in wanted]


def table(outcomes: list[QuarterOutcome]) -> list[str]:
    """The table, and all kinds together."""
    if not outcomes:
        return []
    heads = [
        "fleet, a quarter",
        "fleets",
        "verdicts",
        "with a false one",
        "at most (95 %)",
        "mean share",
        "found",
    ]
    rows = [_row(case, [o for o in outcomes if o.case == case.name]) for case in CASES]
    false = sum(o.false_share > 0 for o in outcomes)
    whole = [
        "**all**", str(len(outcomes)), str(sum(o.verdicts for o in outcomes)), str(false),
        f"{most_share(false, len(outcomes)):.1%}", f"{_mean_share(outcomes):.3f}", "",
    ]  # fmt: skip
    return [f"| {' | '.join(r)} |" for r in (heads, ["---"] * len(heads), *rows, whole)]


def _row(case: FleetCase, found: list[QuarterOutcome]) -> list[str]:
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


def _mean_share(found: list[QuarterOutcome]) -> float:
    return sum(o.false_share for o in found) / len(found)


def _code() -> str:
    """Version of the code that an outcome depends on."""
    root, digest = Path(__file__).parents[2], hashlib.sha256(str(COHORTS).encode())
    paths = [*(root / "stream_processors" / "drift").glob("*.py"), *Path(__file__).parent.glob("*_*.py")]
    for path in sorted(paths):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
