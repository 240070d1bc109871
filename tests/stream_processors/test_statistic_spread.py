"""How much a window statistic moves while nothing happens, against processes whose spread is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_processors.drift.statistic_spread import (
    StatisticSpread,
    robust_sd,
    small_sample,
    spread_of,
)


def ar1(seed, n, memory):
    rng, x = np.random.default_rng(seed), np.empty(n)
    x[0] = rng.normal()
    for i in range(1, n):
        x[i] = memory * x[i - 1] + np.sqrt(1 - memory**2) * rng.normal()
    return x


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_the_spread_is_that_of_the_process_and_rarely_taken_smaller(memory):
    found = [spread_of(ar1(seed, 60, memory)).sd for seed in range(100)]
    assert 1.0 <= np.median(found) < 3.0
    assert np.mean(np.array(found) < 0.8) <= 0.05


def test_windows_that_resemble_each_other_are_trusted_less_than_as_many_independent_ones():
    independent, slow = (np.median([spread_of(ar1(s, 12, m)).sd for s in range(50)]) for m in (0.0, 0.95))
    plain = np.median([ar1(s, 12, 0.95).std(ddof=1) for s in range(50)])
    assert slow > 2.5 * plain
    assert independent < 2.2


@pytest.mark.parametrize("memory", [0.0, 0.6])
@pytest.mark.parametrize("after", [2, 8])
def test_chance_is_how_far_apart_means_of_an_unchanged_process_lie(memory, after):
    series = [ar1(seed, 60 + after, memory) for seed in range(400)]
    apart = np.std([x[60:].mean() - x[:60].mean() for x in series])
    told = np.median([spread_of(x[:60]).chance(after) for x in series[:100]])
    assert apart <= told <= 2.2 * apart


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(1e3, 1e9))
def test_the_spread_moves_with_the_scale_and_no_glitch_blinds_it(offset, scale, glitch):
    values = ar1(1, 40, 0.3)
    plain, scaled = spread_of(values), spread_of(offset + scale * values)
    assert scaled.sd == pytest.approx(scale * plain.sd, rel=1e-3)
    hit = values.copy()
    hit[20] += glitch
    assert spread_of(hit).sd < 2 * plain.sd


def test_where_most_windows_are_equal_the_others_are_no_glitches():
    rare = np.zeros(40)
    rare[[5, 17, 30]] = 1.0
    assert spread_of(rare).sd > 0.25


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [5.0] * 9])
def test_a_constant_has_no_spread(values):
    assert spread_of(np.array(values)).sd == 0.0


@pytest.mark.parametrize(("n", "factor"), [(1, 3.0), (2, 3.0), (3, 2.0), (5, 1.5), (21, 1.1)])
def test_a_spread_from_few_values_is_taken_larger(n, factor):
    assert small_sample(n) == pytest.approx(factor)


@pytest.mark.parametrize("n", [1, 2])
def test_from_fewer_than_three_windows_nothing_is_known_of_their_memory(n):
    values = np.array([1.0, 4.0])[:n]
    known = 3.0 * (np.std(values, ddof=1) if n > 1 else 0.0)
    assert spread_of(values) == (pytest.approx(known), 0.98, n)
    assert spread_of(np.array([1.0, 4.0, -2.0])).memory < 0.98


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=7))
def test_a_few_values_have_the_spread_of_a_sample(values):
    expected = np.std(values, ddof=1) if len(values) > 1 else 0.0
    assert robust_sd(np.array(values)) == pytest.approx(expected)


def test_from_eight_values_on_a_glitch_does_not_widen_the_spread():
    assert robust_sd(np.array([1.0, 2, 3, 4, 5, 6, 7])) == pytest.approx(np.std(range(7), ddof=1))
    assert robust_sd(np.array([1.0, 2, 3, 4, 5, 6, 7, 8])) == pytest.approx(1.4826 * 2)
    assert robust_sd(np.array([1.0, 2, 3, 4, 5, 6, 7, 1e9])) == pytest.approx(1.4826 * 2)


@pytest.mark.parametrize("far", [-1, 1])
def test_a_glitch_counts_as_if_it_lay_six_robust_deviations_out_and_a_value_within_as_it_is(far):
    rest = np.arange(1.0, 9.0) - 4.5

    def spread(last):
        return spread_of(np.append(rest, far * last)).sd

    hit = np.append(rest, far * 50.0)
    edge = far * np.median(hit) + 6 * robust_sd(hit)
    assert spread(1e3) == pytest.approx(spread(1e6))
    assert spread(1e3) == pytest.approx(spread(edge))
    assert spread(0.9 * edge) < spread(edge)


def test_seven_values_are_too_few_to_call_one_of_them_a_glitch():
    assert spread_of(np.array([1.0, 2, 1, 2, 1, 2, 1e6])).sd > 1e5


def variance_of_mean(memory, n):
    """Of n successive values of a process of variance 1 with this memory: the mean of all correlations."""
    at = np.arange(n)
    return float((memory ** np.abs(at[:, None] - at[None, :])).mean())


@pytest.mark.parametrize("memory", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(("after", "windows"), [(1, 1), (2, 30), (8, 4)])
def test_chance_is_how_far_apart_two_means_lie_by_the_correlations_of_their_windows(memory, after, windows):
    expected = 2.5 * np.sqrt(variance_of_mean(memory, after) + variance_of_mean(memory, windows))
    assert StatisticSpread(2.5, memory, windows).chance(after) == pytest.approx(expected)


@pytest.mark.parametrize(("memory", "windows"), [(0.0, 1.0), (0.5, 3.0), (0.9, 19.0)])
def test_windows_that_resemble_each_other_say_together_what_one_independent_one_says(memory, windows):
    assert StatisticSpread(1.0, memory, 9).lasting == pytest.approx(windows)
    assert windows * variance_of_mean(memory, 1) / 1000 == pytest.approx(
        variance_of_mean(memory, 1000), rel=0.02
    )


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("n", [12, 60, 480])
def test_the_memory_is_an_upper_estimate_that_gets_surer_with_the_windows(memory, n):
    found = np.array([spread_of(ar1(seed, n, memory)).memory for seed in range(200)])
    assert np.mean(found >= memory) >= 0.85
    assert np.median(found) <= memory + 4 * np.sqrt((1 - memory**2) / n) + 2 / n
    assert found.max() <= 0.98


def test_windows_that_alternate_have_no_memory_and_those_that_climb_all_there_may_be():
    assert spread_of(np.array([1.0, -1.0] * 200)).memory == 0.0
    assert spread_of(np.arange(400.0)).memory == 0.98
    assert spread_of(np.array([5.0] * 9)) == (0.0, 0.0, 9)


def test_the_spread_is_taken_larger_by_how_many_independent_windows_there_are():
    for values in (ar1(1, 40, 0.0), ar1(1, 40, 0.8)):
        found = spread_of(values)
        assert found.sd == pytest.approx(values.std(ddof=1) * small_sample(40 / found.lasting))
