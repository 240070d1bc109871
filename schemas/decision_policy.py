"""Local actions of a profile: rules on the score, fail-safe, samples out of range, incidents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from schemas.action_numbers import Bounds, FiniteNumber, NumbersByAction, clipped
from schemas.output_names import PRIMARY
from schemas.section import Fraction, Name, Section

YOUNGER_RULE_KEYS = ("numbers", "stands")
"""Keys of a rule that release 0.2.0 did not have: written only where they are used."""


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
        numbers: What the action carries, by name, within the bounds of ``DecisionPolicy.numbers``.
        stands: No decision function may choose a milder action while it is in force.
    """

    action: Name
    enter: Fraction
    leave: Fraction
    after_windows: PositiveInt = 1
    hold_s: NonNegativeFloat = 0.0
    alert: bool = True
    output: Name = PRIMARY
    numbers: dict[Name, FiniteNumber] = Field(default={})
    stands: bool = False

    @model_serializer(mode="wrap")
    def _without_unused(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            key: value
            for key, value in write(self).items()
            if key not in YOUNGER_RULE_KEYS or getattr(self, key) != fields[key].get_default()
        }

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
        function: Entry point of the group ``edgeloop.decisions`` that decides after the rules; None: none.
        function_timeout_s: Seconds that it may take; a later answer does not count.
        actions: Actions that the function may choose beside those of the rules. They are routine: no alarms.
        numbers: Bounds of the numbers that actions carry, by action and number.
        calibrates: The function learns what is usual on the device, and rows name the revision of that.
    """

    idle: Name = "none"
    fail_safe: Name = "none"
    out_of_range: Name | None = None
    refractory_windows: NonNegativeInt = 12
    rules: tuple[DecisionRule, ...] = ()
    function: Name | None = None
    function_timeout_s: PositiveFloat = 0.05
    actions: tuple[Name, ...] = ()
    numbers: NumbersByAction = Field(default={})
    calibrates: bool = False

    @model_validator(mode="after")
    def _function_calibrates(self) -> Self:
        if self.calibrates and self.function is None:
            raise ValueError("decision.calibrates needs decision.function, which does so")
        return self

    @model_validator(mode="after")
    def _numbers_are_known(self) -> Self:
        unknown = sorted(set(self.numbers) - self.known_actions)
        if unknown:
            raise ValueError(
                f"numbers of {unknown}: no such actions; name them in decision.actions or a rule"
            )
        for rule in self.rules:
            bounds = self.numbers.get(rule.action, {})
            _, moved = _given(f"rule {rule.action}", bounds, rule.numbers)
            if moved:
                said = {name: rule.numbers[name] for name in moved}
                raise ValueError(f"rule {rule.action}: {said} lies outside decision.numbers.{rule.action}")
        for action in {self.idle, self.fail_safe, self.out_of_range} - {None}:
            self.numbers_of(str(action))
        return self

    @property
    def known_actions(self) -> set[str]:
        """Every action that the profile names: a decision function may choose one of these."""
        named = {self.idle, self.fail_safe, *self.actions, *(rule.action for rule in self.rules)}
        return named | ({self.out_of_range} if self.out_of_range else set())

    @property
    def resting(self) -> tuple[str, ...]:
        """Actions that are no alarm: idle, and what the function chooses as a routine."""
        alarming = {rule.action for rule in self.rules}
        return (self.idle, *(name for name in self.actions if name not in alarming and name != self.idle))

    def numbers_of(self, action: str) -> dict[str, float]:
        """What an action carries where no function says more: its rule's numbers, and values of the bounds.

        Raises:
            ValueError: One has neither; the profile is refused then.
        """
        said = {rule.action: rule.numbers for rule in self.rules}.get(action, {})
        values, _ = _given(f"action {action}", self.numbers.get(action, {}), said)
        return values

    @property
    def score_rules(self) -> tuple[DecisionRule, ...]:
        """Rules that read the primary score: models are judged by them."""
        return tuple(rule for rule in self.rules if rule.output == PRIMARY)

    @property
    def alarm(self) -> float:
        """Primary score from which a window is an alarm: the mildest such rule's; 1 without one.

        Of all outputs ``schemas.alarm_bounds`` says so.
        """
        return next((rule.enter for rule in self.rules if rule.output == PRIMARY), 1.0)


def _given(
    what: str, bounds: Bounds, numbers: Mapping[str, float]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """As ``clipped``, with a name in front of what is wrong."""
    try:
        return clipped(bounds, numbers)
    except ValueError as exc:
        raise ValueError(f"{what}: {exc}") from exc
