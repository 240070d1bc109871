"""What earlier runs of the judge have left: journals and the gates' findings, read without a run."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.judge.traffic.arms import ARMS, Judged
from benchmarks.judge.traffic.incidents import IncidentRun


def whole_seeds(journal: Path, version: str) -> list[Judged]:
    """Runs of the seeds that have every arm, of this version of the code."""
    found = {}
    for value in _lines(journal, version):
        item = Judged(**value)
        found[item.net, item.seed, item.arm] = item
    return [i for i in found.values() if all((i.net, i.seed, arm) in found for arm in ARMS)]


def known_incidents(journal: Path, version: str) -> list[IncidentRun]:
    """Runs with an incident."""
    return [IncidentRun(**value) for value in _lines(journal, version)]


def plan_findings(work: Path, names: list[str], version: str) -> dict[str, tuple[bool, str]]:
    """By scenario: whether the plan was released, and the gate's sentence."""
    found = {}
    for name in names:
        path = work / name.replace(" ", "-") / f"plans-{version}.json"
        if path.is_file():
            value = json.loads(path.read_text())
            found[name] = value["passed"], value["text"]
    return found


def _lines(journal: Path, version: str) -> list[dict]:
    if not journal.is_file():
        return []
    values = [json.loads(line) for line in journal.read_text().splitlines()]
    return [value for value in values if value.pop("version") == version]
