"""Which models a device runs: changed from outside, taken over by the sensing loop between windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge_producer.window import Predictor, Window


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """What came of one window.

    Attributes:
        version: Model that decided.
        score: Its score; None: no usable one.
        took_s: Time to its score.
        shadow_score, shadow_took_s: The shadow's on the same window, where one runs in the process.
    """

    version: str
    score: float | None
    took_s: float
    shadow_score: float | None = None
    shadow_took_s: float = 0.0


class Observer(Protocol):
    """Is told each window after its decision, in the sensing thread: must not block."""

    def observe(self, window: Window, outcome: ScoredWindow) -> None:
        """Take one window's outcome."""
        ...


@dataclass(frozen=True, slots=True)
class ActiveModels:
    """What runs from the next window on.

    Attributes:
        active: Decides.
        shadow: Scores the same windows after the decision.
        observer: Is told.
    """

    active: Predictor
    shadow: Predictor | None = None
    observer: Observer | None = None


class ModelSwitch:
    """One device's lineup. A reference assignment is all that a change costs the sensing loop."""

    def __init__(self, lineup: ActiveModels) -> None:
        self.lineup = lineup
        self.taken = lineup
        """What the sensing loop used last; the updater keeps it alive until it is another one."""
