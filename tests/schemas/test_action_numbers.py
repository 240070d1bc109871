"""Laws of numbers that actions carry: nothing leaves the signed bounds, and an operator cannot move them."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.action_numbers import NumberBounds, clipped
from schemas.profile import Profile
from schemas.profile_changes import judge
from schemas.profile_file import find_profile
from schemas.profile_versions import parse_canonical
from tests.quick_machine_profile import AS_BEFORE

MACHINE = find_profile("machine")
FINITE = st.floats(allow_nan=False, allow_infinity=False)
GREEN = {"min": 5.0, "max": 60.0, "unit": "s"}


def with_decision(base: Profile = MACHINE, **keys: Any) -> Profile:
    """A profile with other keys in ``[decision]``; None takes one away."""
    content = base.canonical()
    decision = {**content["decision"], **keys}
    content["decision"] = {k: v for k, v in decision.items() if v is not None}
    return Profile.model_validate(content)


def ruled(profile: Profile, **numbers: float) -> list[dict[str, Any]]:
    """The profile's rules, the last of them with numbers."""
    *rules, last = profile.canonical()["decision"]["rules"]
    return [*rules, {**last, "numbers": numbers}]


@given(st.tuples(FINITE, FINITE).map(sorted), FINITE)
def test_a_clipped_number_lies_within_its_bounds_and_one_that_lies_there_stays(ends, value):
    low, high = ends
    values, moved = clipped({"x": NumberBounds(min=low, max=high)}, {"x": value})
    assert low <= values["x"] <= high
    assert (values["x"] == value) == (moved == ())
    assert moved == () if low <= value <= high else moved == ("x",)


@given(
    st.one_of(
        st.sampled_from([math.nan, math.inf, -math.inf, True, None, "7", 10**400, np.float32("nan"), [1.0]]),
        st.text(),
        st.binary(),
    )
)
def test_what_is_no_finite_number_is_refused_and_never_clipped(value):
    with pytest.raises(ValueError, match="x"):
        clipped({"x": NumberBounds(min=0, max=1)}, {"x": value})


@pytest.mark.parametrize("value", [1, 0.25, np.float32(0.25), np.int64(1), Fraction(1, 4)])
def test_a_number_of_any_numeric_type_is_one(value):
    values, _ = clipped({"x": NumberBounds(min=0, max=1)}, {"x": value})
    assert values == {"x": float(value)}
    assert type(values["x"]) is float


def test_an_unknown_or_missing_number_is_refused_and_a_stated_value_stands_for_it():
    bounds = {"a": NumberBounds(min=0, max=1), "b": NumberBounds(min=0, max=1, value=0.5)}
    assert clipped(bounds, {"a": 1.0})[0] == {"a": 1.0, "b": 0.5}
    with pytest.raises(ValueError, match="a is missing"):
        clipped(bounds, {"b": 0.1})
    with pytest.raises(ValueError, match="unknown numbers"):
        clipped(bounds, {"a": 1.0, "c": 0.0})


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        ({"numbers": {"green": {"green_s": GREEN}}}, "no such actions"),
        ({"numbers": {"stop": {"s": GREEN}}}, "number s is missing"),  # its rule says none
        ({"fail_safe": "plan", "numbers": {"plan": {"s": GREEN}}}, "action plan: number s is missing"),
        ({"actions": ["green"], "numbers": {"green": {}}}, "at least 1 item"),
        ({"actions": ["green"], "numbers": {"green": {"s": {**GREEN, "min": 61.0}}}}, "must not exceed"),
        ({"actions": ["green"], "numbers": {"green": {"s": {**GREEN, "value": 4.0}}}}, "must lie within"),
        ({"actions": ["green"], "numbers": {"green": {"s": {**GREEN, "max": math.inf}}}}, "finite"),
        ({"rules": ruled(MACHINE, decel=1.0)}, "unknown numbers"),
        ({"numbers": {"stop": {"s": GREEN}}, "rules": ruled(MACHINE, s=61.0)}, "lies outside"),
        ({"function": "own", "function_timeout_s": 3600.0}, "must be below a hop"),
    ],
)
def test_a_profile_whose_numbers_do_not_fit_is_refused(decision, says):
    with pytest.raises(ValidationError, match=says):
        with_decision(**decision)


def test_a_rules_numbers_belong_to_its_action_wherever_that_is_chosen():
    found = with_decision(
        fail_safe="stop", numbers={"stop": {"s": {**GREEN, "value": 7.0}}}, rules=ruled(MACHINE, s=8.0)
    )
    assert found.decision.numbers_of("stop") == {"s": 8.0}
    assert found.decision.numbers_of("inspect") == {}


def test_what_no_profile_of_before_has_changes_no_digest_and_what_is_used_is_in_it():
    canonical = MACHINE.canonical()["decision"]
    assert {"function", "function_timeout_s", "actions", "numbers"}.isdisjoint(canonical)
    assert all("numbers" not in rule for rule in canonical["rules"])
    assert find_profile("machine_demo").model_copy(update=AS_BEFORE).digest() == "89f606202d984205"
    numbered = with_decision(numbers={"stop": {"s": GREEN}}, rules=ruled(MACHINE, s=8.0))
    assert numbered.digest() != MACHINE.digest()
    assert parse_canonical(numbered.canonical_form()) == numbered


NUMBERED = with_decision(numbers={"stop": {"s": GREEN}}, rules=ruled(MACHINE, s=8.0))


@pytest.mark.parametrize(
    "after",
    [
        with_decision(NUMBERED, numbers={"stop": {"s": {**GREEN, "max": 61.0}}}),
        with_decision(NUMBERED, numbers={"stop": {"s": {**GREEN, "min": 6.0}}}),
        with_decision(NUMBERED, numbers={"stop": {"s": {**GREEN, "value": 9.0}}}),
        with_decision(NUMBERED, function="own"),
        with_decision(NUMBERED, function_timeout_s=0.01),
        with_decision(NUMBERED, actions=["green"]),
    ],
)
def test_only_the_policy_role_signs_bounds_functions_and_further_actions(after):
    assert judge(NUMBERED, after).authority == "policy"


def test_an_operator_signs_a_rules_number_within_the_bounds():
    after = with_decision(NUMBERED, rules=ruled(NUMBERED, s=12.0))
    assert judge(NUMBERED, after).authority == "operator"
