"""What a raw score is worth: usable, usable after clipping, or none. The one place that judges it."""

from __future__ import annotations

import math
from typing import NamedTuple

ROUNDING = 1e-4
"""Farthest that rounding may put a score outside [0, 1]; the tolerance of golden vectors.

Sums of a hundred float32 trees come to 1.0000001.
"""


class UsableScore(NamedTuple):
    """A score as decisions use it.

    Attributes:
        score: In [0, 1]; None: no usable one.
        clipped: It lay outside by rounding.
        outside: It lay farther out: the model is wrong.
    """

    score: float | None
    clipped: bool = False
    outside: bool = False


def usable_score(raw: float | None) -> UsableScore:
    """What a model's raw score is worth; None and NaN mean that it gave none.

    >>> usable_score(1.0000001)
    UsableScore(score=1.0, clipped=True, outside=False)
    >>> usable_score(1.5)
    UsableScore(score=None, clipped=False, outside=True)
    """
    if raw is None or math.isnan(raw):
        return UsableScore(None)
    if 0.0 <= raw <= 1.0:
        return UsableScore(raw)
    if score_excess(raw) <= ROUNDING:
        return UsableScore(min(max(raw, 0.0), 1.0), clipped=True)
    return UsableScore(None, outside=True)


def score_excess(raw: float) -> float:
    """How far a raw score lies outside [0, 1]; 0 inside it, and for NaN."""
    return max(raw - 1.0, -raw, 0.0) if not math.isnan(raw) else 0.0
