"""Bounds of what an operator's own role may sign in a profile; the offline policy role signs the bounds."""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Self

from pydantic import AwareDatetime, Field, PositiveInt, model_validator

from schemas.channel_documents import SignedDocument

BOUNDS_PATH = "policy/profiles.json"


class ValueLimits(SignedDocument):
    """Least and most value of a number; None: no limit on that side."""

    least: float | None = None
    most: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least {self.least} must not exceed most {self.most}")
        return self

    def allow(self, value: Any) -> bool:
        """Whether a value lies within; a list is judged by each of its numbers, and absence is no number.

        >>> ValueLimits(least=0.01, most=0.2).allow(0.05), ValueLimits(least=0.01).allow(None)
        (True, False)
        """
        if isinstance(value, list | tuple):
            return all(self.allow(v) for v in value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        low, high = ("" if end is None else f"{end:g}" for end in (self.least, self.most))
        return f"{low}..{high}"


class ProfileBounds(SignedDocument):
    """What an operator may change, and how far.

    Attributes:
        seq: Grows with every document.
        limits: By pattern of a path in a profile, such as ``decision.rules.*.enter``: the first that fits
            counts. An everyday value without limits is free.
    """

    seq: PositiveInt
    limits: dict[str, ValueLimits] = Field(default={})
    issued: AwareDatetime
    expires: AwareDatetime

    def of(self, path: str) -> ValueLimits | None:
        """ValueLimits of a value; None: it has none."""
        return next((found for pattern, found in self.limits.items() if fnmatchcase(path, pattern)), None)


DEFAULT_BOUNDS = ProfileBounds(
    seq=1,
    limits={
        "filter.p": ValueLimits(least=0.001, most=0.5),
        "filter.p_min": ValueLimits(least=0.0001),
        "filter.threshold": ValueLimits(least=0.05, most=0.95),
        "filter.thinning_floor": ValueLimits(least=2**-10),
        "filter.delay_s": ValueLimits(most=3600),
        "decision.rules.*.enter": ValueLimits(least=0.05, most=0.95),
        "decision.rules.*.leave": ValueLimits(least=0.01, most=0.95),
        "decision.rules.*.after_windows": ValueLimits(most=60),
        "decision.rules.*.hold_s": ValueLimits(most=3600),
        "decision.refractory_windows": ValueLimits(most=1000),
        "summaries.period_s": ValueLimits(least=1, most=86400),
        "clock.max_age_s": ValueLimits(least=3600),
        "clock.max_ahead_s": ValueLimits(most=3600),
    },
    issued=datetime(2026, 1, 1, tzinfo=UTC),
    expires=datetime(9999, 1, 1, tzinfo=UTC),
)
"""Bounds until the policy role has signed others."""
