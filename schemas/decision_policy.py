"""Local actions of a profile: rules on the score, fail-safe, samples out of range, incidents."""

from __future__ import annotations

from typing import Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from schemas.output_names import PRIMARY
from schemas.section import Fraction, Name, Section


class DecisionRule(Section):
    """A local action while the score is high.

    Attributes:
        action: Name of the action; a device-local file maps names to commands.
        enter: Score at or above which the action starts.
        leave: Score below which it may end (hysteresis).
        after_windows: Consecutive windows at or above ``enter`` before it starts.
        hold_s: Shortest time it stays in force, seconds of event time.
        alert: Send an alert when it starts.
        output: Which of the model's outputs it reads.
    """

    action: Name
    enter: Fraction
    leave: Fraction
    after_windows: PositiveInt = 1
    hold_s: NonNegativeFloat = 0.0
    alert: bool = True
    output: Name = PRIMARY

    @model_validator(mode="after")
    def _hysteresis(self) -> Self:
        if self.leave > self.enter:
            raise ValueError(f"rule {self.action}: leave {self.leave} must not exceed enter {self.enter}")
        return self


class DecisionPolicy(Section):
    """What the device does by itself. Rules are ordered by severity; the most severe one in force wins.

    Attributes:
        idle: Action while no rule is in force.
        fail_safe: Action while no usable score exists.
        out_of_range: Action while samples are absurd in a row, or too many are; None: the mildest rule's.
        refractory_windows: Windows after an action in which another start belongs to the same incident; an
            alert leaves only where an incident begins or becomes more severe than it was.
    """

    idle: Name = "none"
    fail_safe: Name = "none"
    out_of_range: Name | None = None
    refractory_windows: NonNegativeInt = 12
    rules: tuple[DecisionRule, ...] = ()

    @property
    def score_rules(self) -> tuple[DecisionRule, ...]:
        """Rules that read the primary score: models are judged by them."""
        return tuple(rule for rule in self.rules if rule.output == PRIMARY)

    @property
    def alarm(self) -> float:
        """Score from which a window counts as an alarm: the mildest such rule's; 1 without one."""
        return next((rule.enter for rule in self.rules if rule.output == PRIMARY), 1.0)
