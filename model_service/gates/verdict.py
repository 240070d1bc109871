"""What one gate says of one candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """A measured value against its bound.

    Attributes:
        gate: Name of the gate.
        passed: Whether the candidate may go on.
        value: What was measured; None: it could not be.
        bound: What the value was held against.
        low, high: 95 % interval of the value, where it has one.
        detail: Further numbers, JSON values; ``says`` is one sentence for people.
    """

    gate: str
    passed: bool
    value: float | None = None
    bound: float | None = None
    low: float | None = None
    high: float | None = None
    detail: Mapping[str, object] = field(default_factory=dict)

    @property
    def says(self) -> str:
        """The verdict in one sentence."""
        return str(self.detail.get("says", ""))


def not_shown(gate: str, why: str, bound: float | None = None) -> GateVerdict:
    """The verdict where nothing could be measured: a candidate must show its worth, so it does not pass."""
    return GateVerdict(gate, passed=False, bound=bound, detail={"says": why})
