"""The verdict of one gate on one candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """A measured value and its bound.

    Attributes:
        gate: Name of the gate.
        passed: Whether the candidate passed the gate.
        value: What was measured; None: it could not be measured.
        bound: What the value was compared with.
        low, high: 95 % interval of the value, where it has one.
        detail: Further JSON values; ``says`` holds ``text``.
    """

    gate: str
    passed: bool
    value: float | None = None
    bound: float | None = None
    low: float | None = None
    high: float | None = None
    detail: Mapping[str, object] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The verdict in one sentence."""
        return str(self.detail.get("says", ""))


def not_shown(gate: str, why: str, bound: float | None = None) -> GateVerdict:
    """A refusal because something could not be measured: the candidate has to show that it is good."""
    return GateVerdict(gate, passed=False, bound=bound, detail={"says": why})
