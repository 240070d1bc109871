"""Gates of installed packages, which a profile names in ``gates.also``. See docs/extending.md.

They run on what our own gates read, after these have let the candidate be loaded, in a process of their own
with bounds (``limited_plug_ins``). Whatever such a gate does but pass is a refusal: the candidate has to show
that it is good.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from model_service.gates.gate_inputs import GateInputs
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.limited_plug_ins import LimitedPlugIns
from schemas.errors import DatasetError

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
    with LimitedPlugIns() as plug_ins:
        return tuple(_judged(name, inputs, ours, plug_ins) for name in inputs.profile.gates.also)


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


def _judged(name: str, inputs: GateInputs, ours: Collection[str], plug_ins: LimitedPlugIns) -> GateVerdict:
    if name in ours:
        return not_shown(f"also_{name}", f"a gate of ours is called {name}: its package has to rename it")
    if why := _lacks(name, _points(name)):
        return not_shown(name, why)
    what = f"profile {inputs.profile.name}"
    try:
        fields = plug_ins.call(GROUP, name, what, GateVerdict, inputs, method="judge")
    except DatasetError as exc:
        return not_shown(name, str(exc))
    if (wrong := _wrong_with(fields)) is not None:
        return not_shown(name, f"it gave {wrong}: its verdict is a GateVerdict of plain numbers")
    return GateVerdict(**{**fields, "gate": name})


def _wrong_with(fields: Mapping[str, Any]) -> str | None:
    """Why a verdict cannot be put on record as it is; None: it can."""
    if not isinstance(passed := fields["passed"], bool):
        return f"passed = {passed!r}"
    for field in ("value", "bound", "low", "high"):
        number = fields[field]
        if number is not None and (type(number) not in (int, float) or not math.isfinite(number)):
            return f"{field} = {number!r}"
    try:
        json.dumps(dict(fields["detail"]), allow_nan=False)
    except (TypeError, ValueError) as exc:
        return f"a detail that is no JSON ({exc})"
    return None
