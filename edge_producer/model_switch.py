"""Which models a device runs: set from outside, taken over by the sensing loop between two windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge_producer.healthy_windows import HealthyWindows
from edge_producer.window import Predictor, Window


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """The scores of one window.

    Attributes:
        version: Version of the model that decided.
        score: Its score; None where there is no usable one.
        took_s: Seconds that the score took.
        shadow_score, shadow_took_s: The shadow's on the same window, where one runs in this process.
        alarm, shadow_alarm: Whether any output of either model, which a rule reads, raises an alarm.
    """

    version: str
    score: float | None
    took_s: float
    shadow_score: float | None = None
    shadow_took_s: float = 0.0
    alarm: bool = False
    shadow_alarm: bool = False

    @property
    def alarms(self) -> tuple[bool, bool]:
        """Of the shadow and of the model that decided."""
        return self.shadow_alarm, self.alarm


class Observer(Protocol):
    """Gets each window after its decision, in the sensing thread: must not block."""

    def observe(self, window: Window, outcome: ScoredWindow) -> None:
        """Take one window and its scores."""
        ...


@dataclass(frozen=True, slots=True)
class ActiveModels:
    """What runs from the next window on.

    Attributes:
        active: Scores each window; the decision follows from its score.
        shadow: Scores the same windows after the decision.
        observer: Gets the scores of both.
    """

    active: Predictor
    shadow: Predictor | None = None
    observer: Observer | None = None


class ModelSwitch:
    """One device's active models. A change costs the sensing loop no more than a reference assignment.

    Attributes:
        models: What to run from the next window on; set by the updater.
        in_use: What the sensing loop used last; the updater keeps it alive until the loop has moved on.
        healthy: The device's recent healthy windows, which a trial superposes faults on.
    """

    def __init__(self, models: ActiveModels) -> None:
        self.models = models
        self.in_use = models
        self.healthy = HealthyWindows()
