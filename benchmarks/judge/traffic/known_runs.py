"""What earlier runs of the judge have left: journals and the gates' findings, read without a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.judge.traffic.arms import Judged
from benchmarks.judge.traffic.incidents import IncidentRun


def known_arms(journal: Path, version: str) -> list[Judged]:
    """Runs of arms, of this version of the code."""
    return [Judged(**value) for value in _lines(journal, version)]


def known_incidents(journal: Path, version: str) -> list[IncidentRun]:
    """Runs with an incident."""
    return [IncidentRun(**value) for value in _lines(journal, version)]


def known_values(work: Path, names: list[str], what: str, version: str) -> dict[str, dict[str, Any]]:
    """By scenario, what a file of its folder holds: ``plans`` or ``model``; without one there is no key."""
    paths = {name: work / name.replace(" ", "-") / f"{what}-{version}.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def _lines(journal: Path, version: str) -> list[dict[str, Any]]:
    if not journal.is_file():
        return []
    values = [json.loads(line) for line in journal.read_text().splitlines()]
    return [value for value in values if value.pop("version") == version]
