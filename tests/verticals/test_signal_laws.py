"""Laws of signals: no conflict, no green too short, whatever is asked and detectors say."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_producer.verticals.traffic.intersection_lanes import lanes_of
from edge_producer.verticals.traffic.signal_decision import SignalDecision
from schemas.verticals.traffic.junction import Junction, Phase
from schemas.verticals.traffic.late_orders import LateOrders
from schemas.verticals.traffic.phase_control import (
    LONGEST_RED_S,
    SignalView,
    equal_plan,
    fixed_phase,
    next_phase,
)
from schemas.verticals.traffic.plan_table import as_parameters, faults, plan_in_force, week_of
from schemas.verticals.traffic.signal_head import SignalHead
from schemas.verticals.traffic.signal_plan import SignalPlan, infeasible
from schemas.verticals.traffic.standard_junction import NAMES, detected, standard_junction

JUNCTION = standard_junction()
PHASES = len(JUNCTION.phases)
COUNTS = st.lists(
    st.lists(st.one_of(st.floats(0, 60), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=2),
    min_size=PHASES,
    max_size=PHASES,
)


@st.composite
def plans(draw: st.DrawFn) -> SignalPlan:
    """Feasible plans."""
    weights = draw(st.lists(st.floats(0.05, 1), min_size=PHASES, max_size=PHASES))
    spare = draw(st.floats(0, 40))
    parts = [
        p.min_green_s + JUNCTION.intergreen_s + spare * w / sum(weights)
        for p, w in zip(JUNCTION.phases, weights, strict=True)
    ]
    cycle_s = sum(parts)
    offset_s = draw(st.floats(0, cycle_s * 0.999))
    pull = draw(st.floats(0, 20))
    return SignalPlan(cycle_s, offset_s, tuple(p / cycle_s for p in parts), pull)


def greens_of(shown: list[int | None]) -> list[tuple[int, int, int]]:
    """Phase, first second and length of each run of one green."""
    found, begin = [], 0
    for k in range(1, len(shown) + 1):
        if k == len(shown) or shown[k] != shown[begin]:
            if shown[begin] is not None:
                found.append((shown[begin], begin, k - begin))
            begin = k
    return found


def assert_lawful(shown: list[int | None]) -> None:
    """No green below its shortest or above its longest, and the whole intergreen between two; the last
    may be cut."""
    greens = greens_of(shown)
    for phase, _, length in greens[:-1]:
        assert length >= JUNCTION.phases[phase].min_green_s
    for phase, _, length in greens:
        assert length <= JUNCTION.phases[phase].max_green_s
    for (_, begin, length), (_, after, _) in pairwise(greens):
        assert after - begin - length >= JUNCTION.intergreen_s


@given(st.lists(st.one_of(st.none(), st.integers(-3, 9)), min_size=30, max_size=400))
def test_whatever_it_is_told_a_signal_keeps_its_bounds(commands):
    head, shown = SignalHead(JUNCTION, 0.0), []
    for second, command in enumerate(commands):
        if command is not None:
            head.tell(command)
        shown.append(head.step(float(second)))
    assert_lawful(shown)


@settings(max_examples=60)
@given(st.lists(COUNTS, min_size=5, max_size=60), st.one_of(st.none(), plans()), st.integers(1, 5))
def test_whatever_the_detectors_say_a_signal_keeps_its_bounds(readings, plan, step_s):
    head, shown = SignalHead(JUNCTION, 0.0), []
    for second in range(300):
        if second % step_s == 0:
            counts = readings[second // step_s % len(readings)]
            head.tell(next_phase(JUNCTION, head.view, counts, float(second), plan, float(step_s)).phase)
        shown.append(head.step(float(second)))
    assert_lawful(shown)
    assert head.fallbacks == 0


@given(COUNTS, st.one_of(st.none(), plans()), st.integers(0, 3), st.floats(0, 200), st.floats(0, 1e9))
def test_a_choice_never_ends_a_green_too_soon_or_lets_it_last_too_long(counts, plan, phase, green_s, now_s):
    view = SignalView(phase, green_s, tuple(0.0 if k == phase else 7.0 for k in range(PHASES)))
    made = next_phase(JUNCTION, view, counts, now_s, plan, 2.0)
    bounds = JUNCTION.phases[made.phase]
    assert bounds.min_green_s <= made.green_s <= bounds.max_green_s
    if green_s < JUNCTION.phases[phase].min_green_s:
        assert made.phase == phase
    if green_s >= JUNCTION.phases[phase].max_green_s:
        assert made.phase != phase


def test_a_signal_that_is_told_nothing_serves_every_phase():
    head = SignalHead(JUNCTION, 0.0)
    shown = [head.step(float(second)) for second in range(400)]
    assert {phase for phase in shown if phase is not None} == set(range(PHASES))
    assert head.fallbacks > 0
    assert_lawful(shown)


def test_a_phase_with_vehicles_is_served_however_long_another_queue_is():
    head, shown = SignalHead(JUNCTION, 0.0), []
    for second in range(400):
        head.tell(
            next_phase(JUNCTION, head.view, [[60.0], [0.0], [0.0], [1.0]], float(second), None, 1.0).phase
        )
        shown.append(head.step(float(second)))
    assert {0, 3} <= {phase for phase, _, _ in greens_of(shown)}
    last = max(begin for phase, begin, _ in greens_of(shown) if phase == 3)
    assert last > 400 - 2 * LONGEST_RED_S


def test_without_vehicles_the_green_stays_until_its_longest():
    view = SignalView(2, 20.0, (9.0, 9.0, 0.0, 9.0))
    assert next_phase(JUNCTION, view, [[0.0]] * 4, 0.0, None, 2.0).phase == 2


@given(plans(), st.integers(0, 100))
def test_dead_detectors_leave_the_fixed_plan(plan, begin):
    ours, theirs = SignalHead(JUNCTION, begin), SignalHead(JUNCTION, begin)
    for second in range(begin, begin + 150):
        ours.tell(next_phase(JUNCTION, ours.view, [[math.nan]] * 4, float(second), plan, 1.0).phase)
        theirs.tell(fixed_phase(JUNCTION, theirs.view, float(second), plan, 1.0).phase)
        assert ours.step(float(second)) == theirs.step(float(second))


@given(plans(), st.integers(0, 3), st.integers(0, 3))
def test_pull_draws_the_signal_to_the_planned_phase_where_vehicles_wait(plan, green, count):
    now_s = plan.offset_s + plan.starts_s()[count] + 1.0
    view = SignalView(green, 20.0, tuple(0.0 if k == green else 9.0 for k in range(PHASES)))
    pulled = SignalPlan(plan.cycle_s, plan.offset_s, plan.splits, 20.0)
    assert next_phase(JUNCTION, view, [[6.0]] * PHASES, now_s, pulled, 2.0).phase == count
    empty = [[0.0] if k == count else [6.0] for k in range(PHASES)]
    free = next_phase(JUNCTION, view, empty, now_s, None, 2.0)
    assert next_phase(JUNCTION, view, empty, now_s, pulled, 2.0) == free


def test_a_wide_street_does_not_take_the_green_from_a_narrow_one_whose_queue_still_leaves():
    wide = replace(JUNCTION.phases[0], saturation=2.0)
    junction = replace(JUNCTION, phases=(wide, *JUNCTION.phases[1:]))
    view = SignalView(2, 12.0, (30.0, 9.0, 0.0, 9.0))
    crowd = [[40.0, 40.0], [0.0], [9.0, 9.0], [0.0]]
    assert next_phase(junction, view, crowd, 0.0, None, 2.0).phase == 2
    crowd[2] = [1.0, 0.0]
    assert next_phase(junction, view, crowd, 0.0, None, 2.0).phase == 0


def test_a_green_is_not_kept_for_vehicles_of_one_approach_that_only_pass():
    view = SignalView(0, 12.0, (0.0, 9.0, 30.0, 9.0))
    assert next_phase(JUNCTION, view, [[2.0, 0.0], [0.0], [9.0, 9.0], [0.0]], 0.0, None, 2.0).phase == 2
    assert next_phase(JUNCTION, view, [[7.0, 7.0], [0.0], [9.0, 9.0], [0.0]], 0.0, None, 2.0).phase == 0


def test_a_phase_of_which_one_approach_is_empty_yields_to_one_with_as_many_on_both():
    view = SignalView(1, 20.0, (9.0, 0.0, 9.0, 9.0))
    uneven, even = [16.0, 0.0], [8.0, 8.0]
    assert next_phase(JUNCTION, view, [uneven, [0.0], even, [0.0]], 0.0, None, 2.0).phase == 2
    assert next_phase(JUNCTION, view, [even, [0.0], uneven, [0.0]], 0.0, None, 2.0).phase == 0


@pytest.mark.parametrize("late_s", [0, 5])
def test_an_order_arrives_so_many_seconds_after_it_was_sent(late_s):
    head, orders = SignalHead(JUNCTION, 0.0), LateOrders(late_s)
    changed = None
    for second in range(30):
        head.step(float(second))
        if second == 10:
            orders.send(second, head, 2)
        orders.arrive(second)
        if changed is None and head.step(float(second)) is None:
            changed = second
    assert changed == 10 + late_s


def test_streams_in_conflict_cannot_share_a_phase():
    north, east = Phase("a", frozenset({"n", "e"})), Phase("b", frozenset({"w"}))
    with pytest.raises(ValueError, match="e and n conflict"):
        Junction((north, east), frozenset({frozenset({"n", "e"})}))


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (SignalPlan(60.0, 0.0, (0.4, 0.05, 0.4, 0.15)), "phase ns_left"),
        (SignalPlan(60.0, 60.0, (0.25,) * 4), "offset"),
        (SignalPlan(60.0, 0.0, (0.25, 0.25, 0.25, 0.2)), "sum"),
        (SignalPlan(60.0, 0.0, (0.5, 0.5)), "2 splits for 4 phases"),
        (SignalPlan(300.0, 0.0, (0.25,) * 4), "at most 50"),
        (SignalPlan(math.nan, 0.0, (0.25,) * 4), "not finite"),
        (SignalPlan(60.0, 0.0, (0.25,) * 4, -1.0), "a pull of -1"),
    ],
)
def test_an_infeasible_plan_is_named(plan, why):
    assert any(why in text for text in infeasible(plan, JUNCTION))
    week = [[{"a": plan}] * 24] * 2
    assert any(why in text for text in faults(week, {"a": JUNCTION}))


@given(plans())
def test_a_feasible_plan_is_none_of_them(plan):
    assert infeasible(plan, JUNCTION) == []


def test_a_plan_table_comes_back_from_its_parameters_and_is_read_by_local_hour():
    quiet, busy = equal_plan(JUNCTION, 60.0), SignalPlan(80.0, 13.0, (0.4, 0.15, 0.3, 0.15), 2.0)
    week = [[{"a": busy if day == 0 and hour == 8 else quiet} for hour in range(24)] for day in range(2)]
    parameters = as_parameters(week)
    assert week_of(parameters, ["a"]) == week
    own = {name: parameters[name]["a"] for name in parameters}
    monday_8_in_chicago = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
    assert plan_in_force(own, monday_8_in_chicago, "America/Chicago") == busy
    assert plan_in_force(own, monday_8_in_chicago, "UTC") == quiet
    assert plan_in_force(own, monday_8_in_chicago + timedelta(days=6), "America/Chicago") == quiet
    saturday = monday_8_in_chicago + timedelta(days=5)
    assert plan_in_force(own, saturday, "America/Chicago") == quiet
    assert plan_in_force({}, monday_8_in_chicago, "UTC") is None


@given(st.lists(COUNTS, min_size=2, max_size=80))
def test_the_decision_and_the_signal_agree_on_what_is_green(readings):
    decision = SignalDecision(lanes_of("x", {}), 2.0, "UTC")
    begin, state, choice = datetime(2026, 3, 2, tzinfo=UTC), None, None
    head = SignalHead(JUNCTION, begin.timestamp())
    for second in range(2 * len(readings)):
        at = begin + timedelta(seconds=second)
        if second % 2 == 0:
            features = {
                f"queue_{part}_queued_last": counts[place % len(counts)] + 1.0
                for name, counts in zip(NAMES, readings[second // 2], strict=True)
                for place, part in enumerate(detected(name))
            }
            choice, state = decision.decide(features, at, {}, state)
            assert choice.phase != head.view.phase or choice.green_s > head.view.green_s
            head.tell(choice.phase)
        head.step(at.timestamp())
        assert head.view.phase == choice.phase
        assert max(at.timestamp() - state["green_since_s"], 0.0) == head.green_s
