"""Statistics of the quality guard, by simulation and against SciPy's distributions."""

import numpy as np
import pytest
from scipy import optimize, stats

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


@pytest.mark.parametrize(("worse", "n"), [(0, 1), (2, 4), (250, 500), (499, 500)])
def test_up_to_five_hundred_devices_the_bound_is_exact(worse, n):
    exact = stats.beta.ppf(0.95, worse + 1, n - worse)
    assert guard_statistics.could_be_worse(worse, n, 0.05) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("worse", "n"), [(0, 501), (20, 1000), (500, 1000), (950, 1000)])
def test_beyond_five_hundred_devices_the_bound_is_close(worse, n):
    exact = stats.beta.ppf(0.95, worse + 1, n - worse)
    assert guard_statistics.could_be_worse(worse, n, 0.05) == pytest.approx(
        exact, abs=0.0005 if worse else 0.003
    )


@pytest.mark.parametrize("n", [1, 4, 600])
def test_where_all_are_worse_all_may_be(n):
    assert guard_statistics.could_be_worse(n, n, 0.05) == 1.0


@pytest.mark.parametrize("freedom", [300, 301, 2000])
def test_students_quantile_is_exact_to_300_and_close_beyond(freedom):
    exact = stats.t.ppf(0.9875, freedom)
    close = 1e-9 if freedom <= 300 else 0.01
    assert guard_statistics.student_quantile(0.9875, freedom) == pytest.approx(exact, rel=close)
    assert guard_statistics.student_quantile(0.9875, 301) < guard_statistics.student_quantile(0.9875, 300)


def students_bound(values, alpha):
    """By SciPy, of the gains or of the rises alone, each with half of alpha: the smaller one."""
    bounds = []
    for v in (np.array(values), np.maximum(values, 0.0)):
        reach = stats.t.ppf(1 - alpha / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v))
        bounds.append(v.mean() + reach)
    return min(bounds)


def rejected(values, alpha, least, most):
    """The largest mean that a gambler's wealth of 1/alpha rejects, one value and one bet at a time."""
    x = (np.array(values) - least) / (most - least)

    def excess(mean):
        stakes = [np.prod([1 + bet / mean * (v - mean) for v in x]) for bet in guard_statistics.BETS]
        return np.mean(stakes) - 1 / alpha

    return least if excess(1e-6) < 0 else least + (most - least) * optimize.brentq(excess, 1e-6, x.mean())


SAMPLES = pytest.mark.parametrize(
    "values",
    [
        [0.3, 0.1],
        [0.0, -1.0, -0.8, 0.0],
        [0.05, -0.02, 0.01, 0.0, -0.01],
        [0.6] * 9 + [0.5],
        [0.9, 0.7] * 12,
        gains(np.random.default_rng(8), 40, 20, 0.05, 0.3),
    ],
)


@SAMPLES
def test_both_ends_are_those_of_their_sources(values):
    """Student's bound by SciPy with this look's part of the budget; the betting bound by brute force."""
    found = guard_statistics.judge(values, values, BOUND, 3, looks=3)
    assert found.high == pytest.approx(students_bound(values, guard_statistics.ALPHA / 3), abs=1e-9)
    assert found.low == pytest.approx(rejected(values, guard_statistics.ALPHA / 2, -1.0, 1.0), abs=1e-6)
    assert found.gain == pytest.approx(np.mean(values))


@SAMPLES
def test_a_device_counts_as_worse_only_if_it_alarms_more(values):
    found = guard_statistics.judge(values, values, BOUND, 3, looks=1)
    worse = sum(v > 0 for v in values)
    exact = stats.beta.ppf(0.95, worse + 1, len(values) - worse) if worse < len(values) else 1.0
    assert found.unseen == pytest.approx(exact, abs=1e-9)


@SAMPLES
def test_the_upper_end_mirrors_the_lower_one(values):
    rates = [(v + 1) / 2 for v in values]
    mirrored = 1 - guard_statistics.lower_end([1 - r for r in rates], 0.01, 0.0, 1.0)
    assert guard_statistics.upper_end(rates, 0.01, 0.0, 1.0) == pytest.approx(mirrored, abs=1e-6)
    assert guard_statistics.upper_end(rates, 0.01, 0.0, 1.0) >= np.mean(rates)
    mirrored = -guard_statistics.lower_end([-v for v in values], 0.01, -1.0, 2.0)
    assert guard_statistics.upper_end(values, 0.01, -2.0, 1.0) == pytest.approx(mirrored, abs=1e-6)


def test_values_that_show_nothing_leave_the_whole_range():
    assert guard_statistics.lower_end([-1.0, -1.0], 0.05) == -1.0
    assert guard_statistics.upper_end([1.0, 1.0], 0.05, 0.0, 1.0) == 1.0
    found = guard_statistics.judge([], [], BOUND, 3, looks=1)
    assert (found.low, found.high, found.unseen) == (-1.0, 1.0, 1.0)
    newest_only = guard_statistics.judge([], [0.6] * 9, BOUND, 3, looks=1)
    assert (newest_only.low, newest_only.answer) == (-1.0, "not_shown")


def test_one_device_bounds_nothing_and_as_many_as_asked_for_are_judged():
    assert guard_statistics.largest_mean([0.3], 0.05) == 1.0
    quiet = [0.0, 0.0, 0.0]
    assert guard_statistics.judge(quiet, quiet, BOUND, 3, looks=1).answer == "shown"
    assert guard_statistics.judge(quiet, quiet, BOUND, 4, looks=1).answer == "not_shown"


def test_what_lies_at_the_allowed_bound_is_allowed():
    values = [0.6] * 39 + [0.5]
    found = guard_statistics.judge(values, values, BOUND, 3, looks=1)
    assert found.answer == "harmful"
    assert guard_statistics.judge(values, values, found.low, 3, looks=1).answer == "not_shown"
    assert guard_statistics.judge(values, values, found.high, 3, looks=1).answer == "shown"
    loud, calm = [0.6] * 40, [0.02] * 40
    part = guard_statistics.ALPHA / 4
    gap = rejected(loud, part, 0.0, 1.0) - (1 - rejected([1 - v for v in calm], part, 0.0, 1.0))
    assert guard_statistics.holdout_harm(loud, calm, gap - 1e-6)
    assert not guard_statistics.holdout_harm(loud, calm, gap + 1e-6)
    ends = guard_statistics.lower_end(loud, part, 0.0, 1.0), guard_statistics.upper_end(calm, part, 0.0, 1.0)
    assert not guard_statistics.holdout_harm(loud, calm, ends[0] - ends[1])


def test_neither_side_alone_shows_harm():
    assert guard_statistics.holdout_harm([], [0.1], BOUND) == ""
    assert guard_statistics.holdout_harm([0.9] * 40, [], BOUND) == ""
