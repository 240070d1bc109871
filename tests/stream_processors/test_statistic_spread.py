"""How much a window statistic moves while nothing happens, against processes whose spread is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_processors.drift.statistic_spread import spread_of


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
