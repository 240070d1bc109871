"""Numbers that an action carries, and the bounds that the policy role signs for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from schemas.section import Name, Section

FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]
Bounds = Mapping[str, "NumberBounds"]
"""What one action's numbers are clipped to, by the number's name."""


class NumberBounds(Section):
    """Bounds of one number of an action.

    Attributes:
        min: Least value that leaves the device.
        max: Largest one.
        unit: As people write it.
        value: What the action carries where nothing else says it; None: whoever chooses the action must.
    """

    min: FiniteNumber
    max: FiniteNumber
    unit: str = "1"
    value: FiniteNumber | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} must not exceed max {self.max}")
        if self.value is not None and not self.min <= self.value <= self.max:
            raise ValueError(f"value {self.value} must lie within {self.min} to {self.max}")
        return self

    def clip(self, value: float) -> float:
        """The nearest value within the bounds.

        >>> NumberBounds(min=5, max=60, unit="s").clip(75.0)
        60.0
        """
        return min(max(value, self.min), self.max)


def finite_number(name: str, given: Any) -> float:
    """A number as somebody gave it, of any numeric type.

    Raises:
        ValueError: It is none, or not finite.
    """
    if isinstance(given, bool) or not isinstance(given, Real):
        raise ValueError(f"{name} is a {type(given).__name__}, and no number")  # noqa: TRY004  (an answer is wrong)
    try:
        value = float(given)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise ValueError(f"{name} is not finite")
    return value


def clipped(bounds: Bounds, given: Mapping[str, Any]) -> tuple[dict[str, float], tuple[str, ...]]:
    """An action's numbers within their bounds, and the names of those that had to be clipped.

    Args:
        bounds: Of every number of the action.
        given: What was said; of the others the bounds' ``value`` counts.

    Raises:
        ValueError: One is unknown, no finite number, or missing.

    >>> clipped({"green_s": NumberBounds(min=5, max=60)}, {"green_s": 75})
    ({'green_s': 60.0}, ('green_s',))
    """
    if unknown := sorted(map(str, set(given) - set(bounds))):
        raise ValueError(f"unknown numbers {unknown}; the profile declares {sorted(bounds)}")
    values, moved = {}, []
    for name, limits in bounds.items():
        said = given.get(name, limits.value)
        if said is None:
            raise ValueError(f"number {name} is missing")
        value = finite_number(name, said)
        values[name] = limits.clip(value)
        if values[name] != value:
            moved.append(name)
    return values, tuple(moved)


NumbersByAction = dict[Name, Annotated[dict[Name, NumberBounds], Field(min_length=1)]]
"""``[decision.numbers.<action>.<number>]``."""
