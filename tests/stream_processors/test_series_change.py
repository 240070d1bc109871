"""The search for a change against brute force: where, how far, and how abrupt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_processors.drift.change import SeriesChange, find_change
from stream_processors.drift.statistic_spread import robust_sd, small_sample, spread_of

WANDER = st.lists(st.floats(-3, 3), min_size=6, max_size=24)


def error(values):
    return float(((values - values.mean()) ** 2).sum())


def best_splits(values, first):
    """The splits whose two means leave the least squared error, to rounding."""
    errors = {k: error(values[:k]) + error(values[k:]) for k in range(first, len(values) - 1)}
    return {k for k, e in errors.items() if e <= min(errors.values()) + 1e-9}


@given(WANDER, st.integers(2, 4))
def test_a_change_is_where_two_means_fit_best_or_one_value_earlier(values, first):
    found, best = find_change(np.array(values), first), best_splits(np.array(values), first)
    assert found.at in best or found.at + 1 in best
    assert found.at >= first
    assert found.at + found.after == len(values)


@pytest.mark.parametrize(
    ("values", "ramp", "step"),
    [
        ([0, 0, 0, 3, 3], 1.6875, 0.0),
        ([0, 0, 0, 0, 1, 2, 3], 0.0, 0.5),
        ([0, 0, 0, 4, 5, 6], 3.2, 0.5),
        ([7, 7, 7, 3, 2, 1], 3.2, 0.5),
        ([5, 5, 5, 5, 5, 5], 0.0, 0.0),
    ],
    ids=["a step", "a ramp", "a step that goes on", "downwards", "nothing"],
)
def test_abruptness_is_the_error_of_the_best_ramp_over_that_of_ramp_and_step(values, ramp, step):
    """Errors worked out by hand: of the best line that is flat and then rises, and of the best two means.

    A step may hit one value in its middle, so that value counts to neither side.
    """
    found = find_change(np.array(values, dtype=float), 2)
    assert found.abruptness == pytest.approx((ramp + 1e-3) / (ramp + step + 2e-3), abs=1e-9)


@pytest.mark.parametrize("at", [5, 12, 17, 28])
@pytest.mark.parametrize("size", [-6.0, 6.0])
def test_a_clean_step_is_found_where_it_is(at, size):
    values = np.where(np.arange(30) >= at, size, 0.0) + np.tile([0.1, -0.1], 15)
    found = find_change(values, 3)
    assert (found.at, found.after) == (at, 30 - at)
    assert found.size == pytest.approx(size, abs=0.25)
    assert found.abrupt


def test_the_newest_values_are_searched_and_counted_from_the_start():
    values = np.tile([0.1, -0.1], 200)
    values[10:20] += 50  # older than what is searched
    values[350:] += 5
    found = find_change(values, 3)
    assert (found.at, found.after) == (350, 50)


@pytest.mark.parametrize(
    ("least_before", "length", "found"), [(3, 5, True), (3, 4, False), (1, 4, True), (1, 3, False)]
)
def test_a_change_needs_two_values_after_it_and_two_or_more_before(least_before, length, found):
    assert (find_change(np.array([0.0, 0.1, 0.0, 5.0, 5.0][-length:]), least_before) is not None) is found


def test_a_value_between_both_levels_is_the_first_of_the_new_one_only_if_it_moved_enough():
    def at(first_value, wobble=0.1, level=-40.0):
        values = np.tile([wobble, -wobble], 15)
        values[20:] += 8.0
        values[20] = first_value
        return find_change(values + level, 3).at

    assert at(2.5) == 20  # more than a quarter of the way
    assert at(1.5) == 21  # less
    assert (at(2.0, wobble=0.0), at(2.01, wobble=0.0)) == (21, 20)
    assert at(-2.5) == 21  # the other way
    assert at(2.5, wobble=2.0) == 21  # within the noise


def test_the_first_value_that_may_belong_to_the_change_is_the_earliest_split():
    values = np.array([0.0, 0.0, 3.0, 8.0, 8.0, 8.0])
    assert find_change(values, 3).at == 3
    assert find_change(values, 2).at == 2


def test_the_size_is_the_shift_of_the_median_nearer_to_the_old_level():
    old = [0.0] * 9
    assert find_change(np.array([*old, 4.0, 6.0]), 3).size == 4.0
    assert find_change(np.array([*old, -4.0, -6.0]), 3).size == -4.0
    assert find_change(np.array([*old, 4.0, 6.0, 7.0]), 3).size == 6.0
    assert find_change(np.array([*old, 3.0, 4.0, 6.0, 7.0]), 3).size == 4.0
    shifted = find_change(np.array([*old, 4.0, 6.0]) + 100.0, 3)
    assert shifted.size == 4.0


def test_a_regime_whose_median_went_the_other_way_than_its_mean_has_no_size():
    assert find_change(np.array([0.0, 0.1] * 5 + [9.0, -0.5, -0.5]), 3).size == pytest.approx(0.0, abs=0.6)


def test_noise_and_chance_are_those_of_the_values_before_the_change():
    old = np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    found = find_change(np.append(old, [50.0] * 4), 3)
    assert found.noise == pytest.approx(spread_of(old).sd)
    assert found.chance == pytest.approx(spread_of(old).chance(4))


@pytest.mark.parametrize(("n", "factor"), [(1, 3.0), (2, 3.0), (3, 2.0), (5, 1.5), (201, 1.01)])
def test_few_values_make_a_deviation_less_sure(n, factor):
    assert small_sample(n) == factor


def test_a_deviation_is_the_usual_one_of_few_values_and_robust_for_many():
    rng = np.random.default_rng(1)
    few, many = rng.normal(0, 2, 7), rng.normal(0, 2, 8)
    assert robust_sd(few) == pytest.approx(few.std(ddof=1))
    assert robust_sd(many) == pytest.approx(1.4826 * np.median(abs(many - np.median(many))))
    assert robust_sd(np.array([5.0, 9.0])) == pytest.approx(np.sqrt(8))
    assert robust_sd(np.array([5.0])) == robust_sd(np.array([])) == 0.0


@pytest.mark.parametrize(
    ("abruptness", "after", "abrupt"), [(0.5, 9, True), (0.49, 9, False), (0.49, 2, False), (0.5, 2, True)]
)
def test_a_change_is_abrupt_if_a_step_explains_it_as_well_as_a_ramp(abruptness, after, abrupt):
    assert SeriesChange(10, after, 3.0, 1.0, abruptness).abrupt is abrupt


def test_few_values_that_fit_a_ramp_and_a_step_leave_it_open_which_it_was():
    def unclear(*new):
        return find_change(np.array([0.4, -0.4] * 10 + list(new)), 3).unclear

    assert unclear(0.5, 1.0, 1.5)
    assert not unclear(9.0, 9.0)
    assert not unclear(3.0, 6.0, 9.0, 12.0, 15.0)


def test_a_series_without_noise_divides_nothing_by_nothing():
    assert find_change(np.zeros(12), 3).abruptness == pytest.approx(0.5)
