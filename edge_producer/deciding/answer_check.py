"""Whether what a decision function answers can be carried out, and the name of what it has learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from edge_producer.deciding.decision_function import DecisionAnswer
from schemas.action_numbers import clipped
from schemas.decision_policy import DecisionPolicy

LARGEST_STATE = 16 * 1024
"""Bytes of JSON that a function may carry from window to window: each commit writes them."""
MOST_COUNTS = 32
"""Names that a function may count by."""
LONGEST_COUNT_NAME = 64
_PERSON = b"calibration"


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """An answer that can be carried out.

    Attributes:
        clipped: Names of the numbers that lay outside their bounds.
        state: As JSON.
        calibration: As JSON with sorted keys; empty: it has learnt nothing.
        counts: Whole numbers from 1 on, by name.
    """

    action: str
    numbers: Mapping[str, float]
    clipped: tuple[str, ...]
    state: str
    calibration: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def check_answer(policy: DecisionPolicy, answer: object) -> CheckedAnswer:
    """The answer, its numbers within their bounds.

    Raises:
        ValueError: It is none, or names what the profile does not, or its state cannot be kept.
    """
    if not isinstance(answer, DecisionAnswer):
        raise ValueError(f"it returned a {type(answer).__name__} instead of a DecisionAnswer")  # noqa: TRY004
    action, given = answer.action, answer.numbers
    if action not in policy.known_actions:
        raise ValueError(f"it chose {action!r}; the profile names {sorted(policy.known_actions)}")
    if not isinstance(given, Mapping):
        raise ValueError(f"numbers are a {type(given).__name__} instead of a mapping")  # noqa: TRY004
    ruled = next((rule.numbers for rule in policy.rules if rule.action == action), {})
    numbers, moved = clipped(policy.numbers.get(action, {}), {**ruled, **given})
    state = json.dumps(answer.state, allow_nan=False, separators=(",", ":"))
    if len(state) > LARGEST_STATE:
        raise ValueError(f"its state takes {len(state)} bytes of JSON; {LARGEST_STATE} are kept")
    learnt = ""
    if policy.calibrates and answer.calibration is not None:
        learnt = json.dumps(answer.calibration, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return CheckedAnswer(action, numbers, moved, state, learnt, _counts(answer.counts))


def revision_of(secret: bytes, calibration: str) -> str:
    """The name of what a device has learnt, 16 hex digits.

    A hash under the device's secret, which never leaves it: without that, nobody can find the values by
    trying, and equal values of two devices have different names.

    Args:
        secret: The device's.
        calibration: JSON.
    """
    return blake2b(calibration.encode(), key=secret, digest_size=8, person=_PERSON).hexdigest()


def _counts(given: Any) -> dict[str, int]:
    """Counts that can be shown.

    Raises:
        ValueError: They are none, or too many.
    """
    if not given:
        return {}
    if not isinstance(given, Mapping) or len(given) > MOST_COUNTS:
        raise ValueError(f"counts are no mapping of at most {MOST_COUNTS} names to whole numbers")
    for name, n in given.items():
        is_name = isinstance(name, str) and 0 < len(name) <= LONGEST_COUNT_NAME and name.isprintable()
        if not is_name or not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise ValueError("a count needs a short name and a whole number from 0 on")
    return {name: n for name, n in given.items() if n}
