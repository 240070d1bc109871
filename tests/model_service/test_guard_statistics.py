"""Statistics of the quality guard, by simulation and against SciPy's distributions."""

import numpy as np
import pytest
from scipy import stats

from model_service.rollout import guard_statistics

BOUND = 0.02


def gains(rng, devices, windows, old, rise, spread=0.0):
    """Gain of each device: alarms of two models on the same number of windows."""
    rate = np.clip(old + rng.normal(0, spread, devices), 0, 1)
    new = np.clip(rate + rise, 0, 1)
    return ((rng.binomial(windows, new) - rng.binomial(windows, rate)) / windows).tolist()


@pytest.mark.parametrize("windows", [5, 50])
def test_a_look_after_every_device_seldom_aborts_a_model_that_is_no_worse(windows):
    rng = np.random.default_rng(windows)
    aborted = 0
    for _ in range(200):
        values = gains(rng, 60, windows, 0.1, BOUND, spread=0.05)  # exactly at the bound: the hardest case
        x = (np.array(values) + 1) / 2
        aborted += any(
            guard_statistics.wealth(x[:n], (BOUND + 1) / 2) >= 2 / guard_statistics.ALPHA
            for n in range(1, 61)
        )
    assert aborted / 200 <= guard_statistics.ALPHA


def test_a_model_that_alarms_much_more_is_found_out_on_a_few_dozen_devices():
    rng = np.random.default_rng(1)
    found = sum(
        guard_statistics.lower_end(gains(rng, 60, 10, 0.05, 0.25), guard_statistics.ALPHA / 2) > BOUND
        for _ in range(100)
    )
    assert found >= 90


def test_the_confidence_sequence_covers_at_all_sizes_together():
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(150):
        values = rng.beta(2, 5, 50).tolist()
        low = max(guard_statistics.lower_end(values[:n], 0.05, 0.0, 1.0) for n in (5, 20, 50))
        missed += low > 2 / 7
    assert missed / 150 <= 0.05


def test_the_order_of_devices_does_not_matter():
    values = [0.4, -0.2, 1.0, 0.0, 0.3]
    assert guard_statistics.lower_end(values, 0.05) == pytest.approx(
        guard_statistics.lower_end(values[::-1], 0.05)
    )


def test_a_promotion_of_a_worse_model_is_rare_at_the_planned_look():
    rng = np.random.default_rng(3)
    shown = 0
    for _ in range(200):
        values = gains(rng, 20, 30, 0.1, BOUND + 0.001, spread=0.03)
        found = guard_statistics.judge(values, values, BOUND, 3, looks=1)
        shown += found.answer == "shown"
    assert shown / 200 <= guard_statistics.ALPHA + 0.02


def test_a_quieter_model_is_shown_on_four_devices_however_unequal_they_are():
    assert guard_statistics.judge([], [0.0, -1.0, -0.8, 0.0], BOUND, 3, looks=2).answer == "shown"


def test_a_rise_on_one_of_four_devices_is_not_shown_to_be_harmless():
    found = guard_statistics.judge([0.2, 0, 0, 0], [0.2, 0.0, 0.0, 0.0], BOUND, 3, looks=2)
    assert found.answer == "not_shown"
    assert found.high > BOUND


def test_fewer_devices_than_asked_for_show_nothing():
    found = guard_statistics.judge([0.0, 0.0], [0.0, 0.0], BOUND, 3, looks=2)
    assert (found.answer, found.devices) == ("not_shown", 2)
    assert guard_statistics.judge([], [], BOUND, 3, looks=2).answer == "not_shown"


def test_each_look_spends_only_its_part_of_the_budget():
    values = [0.03, -0.02, 0.01, 0.0, -0.01]
    assert guard_statistics.largest_mean(values, guard_statistics.ALPHA / 4) > guard_statistics.largest_mean(
        values, guard_statistics.ALPHA
    )


def test_treated_devices_are_held_against_the_holdout():
    calm, loud = [0.02] * 40, [0.6] * 40
    assert "held out" in guard_statistics.holdout_harm(loud, calm, BOUND)
    assert guard_statistics.holdout_harm(calm, calm, BOUND) == ""
    assert guard_statistics.holdout_harm(loud, [], BOUND) == ""


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 19, 60, 299])
def test_students_distribution_is_that_of_scipy(freedom):
    for p in (0.6, 0.9, 0.95, 0.9875, 0.999):
        assert guard_statistics.student_quantile(p, freedom) == pytest.approx(
            stats.t.ppf(p, freedom), rel=1e-9
        )


@pytest.mark.parametrize(("worse", "n"), [(0, 4), (1, 4), (3, 20), (0, 300), (20, 1000)])
def test_what_could_be_worse_is_clopper_and_pearson(worse, n):
    exact = stats.beta.ppf(0.95, worse + 1, n - worse)
    assert guard_statistics.could_be_worse(worse, n, 0.05) == pytest.approx(exact, abs=0.005)
