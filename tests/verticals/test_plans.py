"""Laws of plans: splits keep bounds, platoons pass, and the gate refuses what it must."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_service.verticals.traffic.cyclic_profiles import CyclicProfiles, arm_times
from model_service.verticals.traffic.plan_search import coordinated_plans, fixed_plans, loads, webster_splits
from model_service.verticals.traffic.plan_trial import chosen_plans, judge_plans
from model_service.verticals.traffic.plan_week import planned_week
from schemas.verticals.traffic.junction import Junction, Phase, all_conflicts
from schemas.verticals.traffic.phase_control import equal_plan
from schemas.verticals.traffic.plan_table import as_parameters, faults, week_of
from schemas.verticals.traffic.queue_network import QueueNetwork, constant, run_queues
from schemas.verticals.traffic.road_site import Arm, Feeder, RoadSite
from schemas.verticals.traffic.signal_plan import SignalPlan, infeasible
from schemas.verticals.traffic.standard_junction import standard_junction

JUNCTION = standard_junction()
STREETS = [frozenset({"main"}), frozenset({"side"})]
SIMPLE = Junction(
    (Phase("main", STREETS[0], 1.0, 5.0, 90.0), Phase("side", STREETS[1], 0.5, 5.0, 90.0)),
    all_conflicts(STREETS),
)
TRAVEL_S = 23.0


def street(count: int = 2) -> RoadSite:
    """Intersections in a row: what leaves the main arm of one goes on to the next."""
    arms = []
    for k in range(count):
        feeders = (Feeder(f"m{k - 1}", 0.95, TRAVEL_S),) if k else ()
        arms += [Arm(f"m{k}", f"J{k}", 0, 1.0, 1.0, feeders), Arm(f"s{k}", f"J{k}", 1, 0.5, 1.0)]
    return RoadSite({f"J{k}": SIMPLE for k in range(count)}, tuple(arms))


def flows(site: RoadSite, main: float = 0.4, side: float = 0.1) -> dict[str, float]:
    return {arm.name: main if arm.name[0] == "m" else side for arm in site.arms}


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.floats(40, 212))
def test_splits_keep_the_bounds_and_fill_the_cycle(ratios, cycle_s):
    plan = SignalPlan(cycle_s, 0.0, webster_splits(JUNCTION, ratios, cycle_s))
    assert infeasible(plan, JUNCTION) == []


def test_a_cycle_that_no_splits_keep_is_refused():
    for cycle_s in (30.0, 300.0):
        with pytest.raises(ValueError, match="does not keep"):
            webster_splits(JUNCTION, [0.1] * 4, cycle_s)


def test_every_plan_that_is_computed_is_feasible():
    site = street(3)
    for plans in [fixed_plans(site, flows(site)), *coordinated_plans(site, flows(site))]:
        assert [infeasible(plan, site.junctions[name]) for name, plan in plans.items()] == [[], [], []]
    assert loads(site, flows(site))["J0"] == pytest.approx((0.4, 0.2))


def test_offsets_let_a_platoon_pass():
    site = street()
    plans = coordinated_plans(site, flows(site), (60,))[0]
    lag_s = (plans["J1"].offset_s - plans["J0"].offset_s) % 60
    assert abs(lag_s - TRAVEL_S) <= 8


def test_the_profiles_and_the_queue_model_agree_which_offset_is_better():
    site = street()
    base = coordinated_plans(site, flows(site), (60,))[0]
    bad = base | {"J1": replace(base["J1"], offset_s=(base["J1"].offset_s + 30) % 60)}
    model = CyclicProfiles(site, flows(site), 60)
    starts = {n: p.starts_s() for n, p in base.items()}
    greens = {n: p.greens_s(SIMPLE) for n, p in base.items()}
    good_s, bad_s = (
        model.delay(*arm_times(site, {n: np.array([p.offset_s]) for n, p in plans.items()}, starts, greens))[
            0
        ]
        for plans in (base, bad)
    )
    assert good_s < bad_s
    demand = constant(site.entering(flows(site)))
    runs = [run_queues(site, demand, 3, 900, plans, choosing=False).delay_s for plans in (base, bad)]
    assert runs[0] < runs[1]


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 0.6), st.integers(0, 99))
def test_no_vehicle_is_lost_or_made_in_the_queue_model(main, seed):
    site = RoadSite({"J0": SIMPLE}, (Arm("m0", "J0", 0, 1.0, 1.0), Arm("s0", "J0", 1, 0.5, 1.0)))
    network = QueueNetwork(site, constant({"m0": main, "s0": 0.1}), seed)
    left = came = 0
    for _ in range(200):
        network.step(None)
        left, came = left + int(network.departed.sum()), came + int(network.arrived.sum())
    assert came == left + int(network.queue.sum())
    assert 0 <= network.entered - came <= 60
    assert sum(sum(counts) for counts in network.vehicles()["J0"]) == network.entered - left


def test_the_gate_refuses_an_infeasible_plan_without_a_look_at_its_delay():
    site = street()
    plans = coordinated_plans(site, flows(site), (60,))[0]
    for wrong in (
        plans | {"J0": replace(plans["J0"], splits=(0.95, 0.05))},
        plans | {"J0": replace(plans["J0"], pull=-1.0)},
        {"J0": plans["J0"]},
    ):
        found = judge_plans(site, flows(site), wrong, 60)
        assert not found.passed
        assert "not feasible" in found.text
        assert np.isnan(found.change)


def test_the_gate_refuses_a_plan_that_costs_time():
    site = street()
    wrong = {name: replace(equal_plan(SIMPLE, 120.0), pull=20.0) for name in site.junctions}
    found = judge_plans(site, flows(site, 0.2, 0.02), wrong, 600)
    assert not found.passed
    assert found.change > 0


def test_the_same_flows_give_the_same_plans():
    site = street()
    first, second = (chosen_plans(site, flows(site), (60,), 120) for _ in range(2))
    assert first.plans == second.plans
    assert first.text == second.text


def test_a_site_that_lets_out_more_than_it_has_is_refused():
    arms = (Arm("a", "J", 0, 1.0, 1.0), Arm("b", "J", 1, 1.0, 1.0, (Feeder("a", 1.2, 9.0),)))
    with pytest.raises(ValueError, match="at most 1"):
        RoadSite({"J": SIMPLE}, arms)


def test_a_site_comes_back_from_its_json():
    site = street(3)
    assert RoadSite.from_json(site.as_json()) == site


def test_a_weeks_table_is_feasible_and_leaves_quiet_hours_free():
    site = street()
    busy, quiet = (0.5, 0.12), (0.1, 0.02)
    day = [dict.fromkeys(site.junctions, busy if 7 <= hour < 10 else quiet) for hour in range(24)]
    made = planned_week(site, [day, [dict.fromkeys(site.junctions, quiet)] * 24], (60,), 120)
    assert faults(made.week, site.junctions) == []
    assert [day for day, _ in made.findings] == [0]
    for number, hours in enumerate(made.week):
        for hour, plans in enumerate(hours):
            pulled = {plan.pull > 0 for plan in plans.values()}
            [found] = made.findings.values()
            assert pulled == {found.passed and number == 0 and 7 <= hour < 10}
    assert week_of(as_parameters(made.week), ["J0", "J1"]) == [list(hours) for hours in made.week]
    with pytest.raises(ValueError, match="23 hours"):
        planned_week(site, [day[:23]])
