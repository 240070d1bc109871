"""Has ROSS judge `machine`: rotors, fleets, outcomes; stores them, and writes docs/verticals/machine.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figure_page import replace_figures
from benchmarks.judge.judge_environment import JudgeUnavailableError, python_of
from benchmarks.judge.machine.feature_comparison import compared
from benchmarks.judge.machine.machine_outcome import JudgedOutcome, code_of, journalled
from benchmarks.judge.machine.machine_page import BEGIN, figures
from benchmarks.judge.machine.rig_fleets import (
    FAULT_KINDS,
    HARMLESS,
    HIDDEN,
    KNOWN_HARMLESS,
    LOAD,
    PROFILE,
    STEADY,
    UNKNOWN,
    judged_fleet,
)
from benchmarks.judge.machine.rig_models import ANNOUNCED, judged_model
from benchmarks.judge.machine.run_picture import pictured_run, run_picture, scores_of
from schemas.profile_file import find_profile

ROTORS = 8
SEEDS = {
    **dict.fromkeys(UNKNOWN, 20),
    "unbalance": 6,
    **dict.fromkeys(HARMLESS, 3),
    **dict.fromkeys(KNOWN_HARMLESS, 10),
    **dict.fromkeys(HIDDEN, 10),
    STEADY: 3,
}
"""Fleets of each cell; the seed counts up from 0."""
FEW_SEEDS, LOAD_SEEDS = 3, 15
"""Of fleets with the factory's model, by which all are in alarm, and of further changes with a profile of
one's own; and of announced loads."""
RESULTS, PAGE, PICTURE = (
    Path(__file__).with_name("results.json"),
    "docs/verticals/machine.md",
    "machine-run.svg",
)


def judge_machine(root: Path, given: argparse.Namespace) -> None:
    """Everything; what an earlier run has done is not done again.

    Raises:
        JudgeUnavailableError: ROSS cannot be had here, or its program fails.
    """
    cache = root / "build" / "judge" / "machine"
    if not given.measured:
        _rotors(root, cache)
    wanted = list(_wanted())
    outcomes = journalled(cache, _limited(wanted, cache, given.most), _tell, known_only=given.measured)
    if not given.write:
        return
    if len(outcomes) < len(wanted):
        # What a stopped run has not made again stays, and the page says so.
        _store(merged(read_results(), outcomes))
        write_page(root)
        return
    stored = {
        "code": code_of(), "ross": _physics(cache), "compared": compared(cache, range(6)),
        "chosen": {arm: judged_model(arm, cache).chosen for arm in ("factory", "fitted")},
        "high": {arm: _high(arm, cache) for arm in ("factory", "fitted")},
        **_windows(),
        "run": pictured_run(cache),
        "outcomes": [o._asdict() for o in outcomes],
    }  # fmt: skip
    _store(stored)
    write_page(root)


def _store(stored: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(stored, separators=(",", ":")) + "\n", encoding="utf-8")


def merged(stored: dict[str, Any], outcomes: Sequence[JudgedOutcome]) -> dict[str, Any]:
    """Stored results with newer outcomes in place of theirs; ``earlier`` names those that are older."""
    newer = {(o.arm, o.cell, o.seed): o for o in outcomes}
    kept = [o for o in outcomes_of(stored) if (o.arm, o.cell, o.seed) not in newer]
    every = [o._asdict() for o in (*kept, *outcomes)]
    earlier = [[o.arm, o.cell, o.seed] for o in kept]
    return {**stored, **_windows(), "code": code_of(), "outcomes": every, "earlier": earlier}


def _windows() -> dict[str, float]:
    """Length of a drift window in the judged fleets, and in a works, seconds."""
    lengths = {"drift_window_s": PROFILE, "works_window_s": "machine"}
    return {name: find_profile(profile).drift.window_s for name, profile in lengths.items()}


def write_page(root: Path) -> None:
    """The page's figures and picture, from the stored results alone."""
    stored = read_results()
    replace_figures(root / PAGE, BEGIN, figures(stored, outcomes_of(stored)))
    (root / PAGE).with_name(PICTURE).write_text(run_picture(stored["run"]), encoding="utf-8")


def read_results() -> dict[str, Any]:
    """What was measured last, as it is kept beside this module."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def outcomes_of(stored: dict[str, Any]) -> list[JudgedOutcome]:
    """The outcomes in stored results."""
    return [JudgedOutcome(**raw) for raw in stored["outcomes"]]


def _wanted() -> Iterator[tuple[str, str, int]]:
    """A run that is stopped has a profile of one's own first, and its unknown faults and known drifts."""
    for arm in ("own", "fitted"):
        yield from _of_model(arm, tuple(told for told, of in ANNOUNCED.items() if of == arm))
    for seed in range(SEEDS[LOAD], LOAD_SEEDS):
        yield "announced", LOAD, seed
    for seed in range(max(SEEDS.values())):
        for cell in (*FAULT_KINDS, *HARMLESS, STEADY):
            if seed < SEEDS[cell]:
                yield "fitted", cell, seed
                if seed < FEW_SEEDS:
                    yield from ((arm, cell, seed) for arm in ("factory", "own"))


def _of_model(arm: str, announced: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Seed by seed, without an announcement and with one."""
    for seed in range(max(SEEDS.values())):
        for cell in (*UNKNOWN, *KNOWN_HARMLESS):
            if seed < SEEDS[cell]:
                yield arm, cell, seed
                if cell in (*UNKNOWN, LOAD):
                    yield from ((told, cell, seed) for told in announced)
    for seed in range(max(SEEDS[cell] for cell in HIDDEN)):
        for cell in HIDDEN:
            yield from ((told, cell, seed) for told in announced)


def _limited(wanted: list[tuple[str, str, int]], cache: Path, most: int | None) -> list[tuple[str, str, int]]:
    wanted = list(dict.fromkeys(wanted))
    if most is None:
        return wanted
    known = {(o.arm, o.cell, o.seed) for o in journalled(cache, wanted, _tell, known_only=True)}
    missing = [w for w in wanted if w not in known]
    return [w for w in wanted if w in known or w in missing[:most]]


def _rotors(root: Path, cache: Path) -> None:
    folder = cache / "rotors"
    if all((folder / f"rotor-{n:02d}.npz").is_file() for n in range(ROTORS)):
        return
    program = Path(__file__).with_name("ross_rotors.py")
    command = [str(python_of("machine", root)), str(program), str(folder), "0", str(ROTORS)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise JudgeUnavailableError(f"{program.name} failed: {done.stderr.strip()[-300:]}")


def _physics(cache: Path) -> dict[str, Any]:
    rotors = sorted((cache / "rotors").glob("rotor-??.npz"))
    with np.load(rotors[0]) as first:
        return {"rotors": len(rotors), "version": str(first["ross"]), "apart": float(first["checked"])}


def _high(arm: str, cache: Path) -> float:
    """Share of healthy windows that score as high as an alarm needs."""
    model = judged_model(arm, cache)
    fleets = [judged_fleet(STEADY, seed, cache) for seed in range(SEEDS[STEADY])]
    enter = model.profile.decision.rules[0].enter
    return float(np.mean([scores_of(fleet, arm, model) >= enter for fleet in fleets]))


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
