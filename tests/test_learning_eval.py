"""Laws of the figures in docs/learning.md: the loop in simulated time, small and seeded."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.learning.fleet_outcome import FleetOutcome, journalled, outcome_of
from benchmarks.learning.fleet_story import FleetStory, machine_story
from benchmarks.learning.generations import generations, inclusion
from benchmarks.learning.learning_page import best_calendar, compared, costs
from benchmarks.learning.paired_bootstrap import least_share, ratio_interval
from benchmarks.learning.plain_policies import PHASES, calendar
from benchmarks.learning.prequential_cost import block_costs
from benchmarks.learning.pump_story import FAULTY_PUMPS, HARMLESS_PUMPS, pump_story
from benchmarks.learning.simulated_loop import ModelInForce, SimulatedLoop
from edge_producer.decider import LocalDecision
from edge_producer.filter import RowFilter
from edge_producer.sensed_rows import Row
from model_service.gates.unexplained_shift import MOST_SHIFT


@pytest.fixture(scope="module")
def pool() -> FleetStory:
    return machine_story("nothing", 3, 12, 60)


def test_a_harmless_recalibration_is_learnt_and_the_loop_costs_less_than_never():
    story = pump_story(HARMLESS_PUMPS[0], 0, windows=480)
    found = outcome_of(story)
    assert found.retrains["ours"] >= 1
    assert len(found.costs["calendar"]) == PHASES
    assert np.mean(found.costs["ours"]) < np.mean(found.costs["never"])
    assert found.releases[0][0] < found.releases[0][1]


def test_wear_is_not_learnt_however_early_it_looks_like_a_step():
    """On this fleet chance makes the first windows of the wear a step; no candidate may come of it."""
    history = SimulatedLoop(pump_story(FAULTY_PUMPS[0], 4)).run()
    assert history.verdicts > 0
    assert history.built == []


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path):
    made = []

    def make(cell: str, seed: int) -> FleetStory:
        made.append(cell)
        return pump_story(cell, seed, windows=120)

    journal, cell = tmp_path / "journal.jsonl", "pumps: nothing"
    first = journalled(journal, [(cell, 0)], lambda _: None, make)
    again = journalled(journal, [(cell, 0)], lambda _: None, make)
    assert first == again
    assert made == [cell]


def test_a_model_that_never_alarms_and_one_that_always_does_cost_half(pool):
    for constant in (0.0, 1.0):
        model = ModelInForce(0, "m", lambda rows, c=constant: np.full(len(rows), c))
        assert block_costs(machine_slice(pool), [model]) == pytest.approx(0.5)


def machine_slice(pool: FleetStory) -> FleetStory:
    """The pool's windows, twice over: a whole block of them."""
    features, faulty = (np.concatenate([a, a], axis=1) for a in (pool.features, pool.faulty))
    return FleetStory(
        pool.cell, pool.seed, pool.profile, pool.first, pool.bank, features, faulty, pool.changed
    )


def test_a_calendar_retrains_as_often_as_it_says_and_no_phase_is_another(pool):
    story = machine_slice(pool)
    times = {tuple(m.first for m in calendar(story, 1, phase)) for phase in range(PHASES)}
    assert len(times) > 1
    assert all(len(t) <= 2 for t in times)


def test_the_interval_of_equal_policies_is_one_and_that_of_a_worse_one_lies_above():
    rng = np.random.default_rng(1)
    base = [rng.uniform(0.1, 0.2, 10) for _ in range(6)]
    assert ratio_interval(base, base) == (1.0, 1.0)
    low, high = ratio_interval([1.3 * b for b in base], base)
    assert low == pytest.approx(1.3)
    assert high == pytest.approx(1.3)
    assert compared(base, [b + 0.1 for b in base]).high < 1


def test_the_lower_bound_of_a_share_is_clopper_and_pearsons():
    assert least_share(59, 59) == pytest.approx(0.05 ** (1 / 59), abs=1e-6)
    assert least_share(58, 58) < 0.95 < least_share(59, 59)
    assert least_share(0, 10) == 0.0


def test_the_best_calendar_is_one_phase_for_all_fleets_of_a_cell():
    found = [
        outcome(never=[2.0], calendar=[[1.0], [3.0]]),
        outcome(never=[2.0], calendar=[[5.0], [2.0]]),
        outcome(never=[2.0], calendar=[]),
    ]
    assert [c.tolist() for c in best_calendar(found)] == [[3.0], [2.0], [2.0]]
    assert [c.tolist() for c in costs(found, "never")] == [[2.0]] * 3


def outcome(never, calendar):
    """Two phases stand for all of them: the others cost more."""
    phases = calendar + [[9.0]] * (PHASES - len(calendar)) if calendar else []
    return FleetOutcome("c", 0, {"never": never, "calendar": phases}, [], 0, [], [], [], 0, {})


def test_inclusion_probabilities_are_those_of_the_devices_filter(pool):
    """Of single rows: what depends on earlier ones (burst, deadband) is not in the simulation."""
    profile, steady = pool.profile, LocalDecision("none", started=False, alert=False, fail_safe=False)
    policy = profile.filter.model_copy(update={"deadband": {}, "burst_after": 0})
    for score in (0.0, 0.44, 0.45, 0.59, 0.6, 0.95):
        row = Row(1, 0, 0, 0, 0, 1, pool.features[0, 0].astype(np.float32), score, "none", "m", 0.0)
        RowFilter(policy, profile.feature_names, 1.0, bytes(32)).offer(row, steady)
        assert inclusion(np.array([score]), profile)[0] == row.pi


def test_without_inclusion_probabilities_generations_go_deaf_and_with_them_they_do_not(pool):
    fair, alike = (
        generations(pool, gated=False, moved=True, weighted=weighted, count=15) for weighted in (True, False)
    )
    assert np.mean(fair.recall[5:]) > np.mean(alike.recall[5:]) + 0.02
    assert alike.recall[-1] < alike.recall[0] - 0.02
    assert fair.recall[-1] > fair.recall[0] - 0.03


def test_scheduled_runs_never_take_the_baseline_along_wear_for_fifty_generations(pool):
    crept = generations(pool, wear=True, bounded=False)
    kept = generations(pool, wear=True)
    assert len(kept.learnt) == 50
    assert max(crept.learnt) > 4 * MOST_SHIFT
    assert max(kept.learnt) <= MOST_SHIFT
    assert min(kept.recall) > kept.recall[0] - 0.03 > crept.recall[-1]


def test_gates_keep_growing_wear_out_of_the_accepted_baseline(pool):
    learnt = generations(pool, gated=False, moved=True, wear=True, count=8)
    kept = generations(pool, moved=True, wear=True, count=8)
    assert max(learnt.learnt) > 1.0
    assert max(kept.learnt) < 0.5 * max(learnt.learnt)
    assert kept.wear_score[-1] > learnt.wear_score[-1]
