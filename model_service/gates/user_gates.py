"""Gates of installed packages, which a profile names in ``gates.also``. See docs/extending.md.

They run in the gate's process on what our own gates read, after these have let the candidate be loaded.
Whatever such a gate does but pass is a refusal: the candidate has to show that it is good.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from model_service.gates.gate_inputs import GateInputs
from model_service.gates.verdict import GateVerdict, not_shown

GROUP = "edgeloop.gates"
"""Group of entry points; the entry point's name is the gate's name in profiles and verdicts."""


class UserGate(Protocol):
    """A gate of a user's own; the entry point names its class, which is made without arguments."""

    def judge(self, inputs: GateInputs) -> GateVerdict:
        """The verdict on a candidate. An exception is a refusal, and its text the reason."""
        ...


def installed_gates() -> list[str]:
    """Names of the gates that are installed here."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def judge_also(inputs: GateInputs, ours: Collection[str]) -> tuple[GateVerdict, ...]:
    """Verdicts of the gates that the candidate's profile names, in its order.

    Args:
        inputs: What our own gates read.
        ours: Names of gates of ours, which no package may take.
    """
    return tuple(_judged(name, inputs, ours) for name in inputs.profile.gates.also)


def lacking(names: Sequence[str]) -> list[str]:
    """Why gates that a profile names cannot run here; empty: they can."""
    return [f"the gate '{name}': {why}" for name in names if (why := _lacks(name, _points(name)))]


def _points(name: str) -> list[EntryPoint]:
    return [point for point in entry_points(group=GROUP) if point.name == name]


def _lacks(name: str, found: Sequence[EntryPoint]) -> str:
    """Why there is not the one gate of this name; empty: there is."""
    if len(found) == 1:
        return ""
    there = ", ".join(installed_gates()) or "none"
    what = "is not installed here" if not found else f"is that of {len(found)} installed packages"
    return (
        f"{name} {what} (there: {there}): install the package that has it among its entry points {GROUP} "
        "where the gate runs, or take it out of gates.also"
    )


def _judged(name: str, inputs: GateInputs, ours: Collection[str]) -> GateVerdict:
    if name in ours:
        return not_shown(f"also_{name}", f"a gate of ours is called {name}: its package has to rename it")
    found = _points(name)
    if why := _lacks(name, found):
        return not_shown(name, why)
    try:
        gate: UserGate = found[0].load()()
        verdict = gate.judge(inputs)
    except (Exception, SystemExit) as exc:  # noqa: BLE001  (a user's code: whatever it raises is the reason)
        return not_shown(name, f"{type(exc).__name__}: {exc}")
    if (wrong := _wrong_with(verdict)) is not None:
        return not_shown(name, f"it gave {wrong}: its verdict is a GateVerdict of plain Python numbers")
    return replace(verdict, gate=name)


def _wrong_with(verdict: object) -> str | None:
    """Why a verdict cannot be put on record as it is; None: it can."""
    if not isinstance(verdict, GateVerdict):
        return f"a {type(verdict).__name__}"
    if not isinstance(passed := getattr(verdict, "passed"), bool):  # noqa: B009  (a user's code may lie)
        return f"passed = {passed!r}"
    for field in ("value", "bound", "low", "high"):
        number = getattr(verdict, field)
        if number is not None and (type(number) not in (int, float) or not math.isfinite(number)):
            return f"{field} = {number!r}"
    try:
        json.dumps(dict(verdict.detail), allow_nan=False)
    except (TypeError, ValueError) as exc:
        return f"a detail that is no JSON ({exc})"
    return None
