"""Runs faults one after the other on a running system, and checks it after each."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.checker import Checker, Finding
from tests.faults.fault_kinds import KINDS, Allowance, FaultKind
from tests.faults.fault_rig import DEVICES_PER_EDGE, SPEED, FaultRig

RUNS_PER_STACK = 25
"""A stack this old is thrown away: so one run's damage cannot hide in all later ones."""
WINDOWS_PER_S = SPEED * DEVICES_PER_EDGE
"""Windows that an edge process judges in a second, one a simulated second and device."""
DECIDED_SHARE = 0.3
"""Least share of these windows between the start of a fault and the recovery; the machine is shared."""


@dataclass(frozen=True)
class Run:
    """One run of one kind."""

    number: int
    kind: FaultKind
    seed: int


@dataclass
class Result:
    """A run and what came of it."""

    run: Run
    faults: int
    finding: Finding = field(default_factory=Finding)


def plan(runs: int, seed: int, kinds: Sequence[str] = ()) -> list[Run]:
    """Which kind runs when: every kind once before any runs twice, in an order that the seed shuffles."""
    names = [n for n in KINDS if not kinds or n in kinds]
    rng, order = random.Random(seed), list[str]()
    while len(order) < runs:
        order += rng.sample(names, len(names))
    return [Run(i, KINDS[name], rng.randrange(2**31)) for i, name in enumerate(order[:runs])]


def perform(
    runs: Sequence[Run],
    folder: Path,
    seed: int,
    say: Callable[[str], None],
    keep: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Perform the runs; a stack that a run leaves broken is replaced by a new one.

    Args:
        runs: From ``plan``.
        folder: Of the stacks.
        seed: Of the simulated machines.
        say: Is given a line for each run.
        keep: Is given each result at once: a campaign that is cut short has still counted.
    """
    results: list[Result] = []
    left = list(runs)
    while left:
        here = folder / f"stack-{len(results):04d}"
        say(f"a fresh stack for {min(len(left), RUNS_PER_STACK)} runs")
        with FaultRig(here, seed + len(results)) as rig:
            checker = Checker.of(rig)
            complaint = checker.await_flow()
            if complaint:
                raise AssertionError(f"the stack does not start whole: {complaint}")
            for _ in range(min(RUNS_PER_STACK, len(left))):
                run = left.pop(0)
                result = _perform(run, rig, checker)
                results.append(result)
                keep(result)
                say(_line(result, len(runs)))
                if not result.finding.holds:
                    break  # what is broken would be found again in every later run
    return results


def _perform(run: Run, rig: FaultRig, checker: Checker) -> Result:
    rng = random.Random(run.seed)
    before = {name: rig.windows(name) for name in rig.edges}
    began = time.monotonic()
    try:
        allowed = run.kind.inject(rig, rng) or Allowance()
    except AssertionError as exc:
        finding = Finding()
        finding.violate(6, "stuck", 1, f"while the fault held: {exc}")
        return Result(run, 1, finding)
    try:
        finding = checker.check(allowed)
    except Exception as exc:  # noqa: BLE001  (a check that fails is no run that holds, and ends no campaign)
        finding = Finding()
        finding.violate(6, "stuck", 1, f"the check failed: {type(exc).__name__}: {exc}")
    # A full disk takes no status file: so windows are counted from before the fault to after the recovery.
    least = DECIDED_SHARE * WINDOWS_PER_S * (time.monotonic() - began)
    silent = [n for n in rig.edges if run.kind.decides and rig.windows(n) - before[n] < least]
    if silent:
        finding.violate(7, "wrong", len(silent), f"{', '.join(silent)} did not decide while the fault held")
    return Result(run, allowed.faults, finding)


def _line(result: Result, total: int) -> str:
    found, run = result.finding, result.run
    verdict = "holds" if found.holds else "; ".join(found.notes)
    number = f"{run.number + 1}/{total}"
    return f"{number:>9}  {run.kind.layer:4} {run.kind.name:28} {found.recovered_s:5.1f} s  {verdict}"
