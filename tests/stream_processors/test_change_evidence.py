"""The e-value of a change: what it is, and that it holds whatever the series remembers."""

import math

import numpy as np
import pytest

from stream_processors.drift.change_evidence import (
    MOST_VALUES,
    log_evidence,
    log_evidence_of_one,
    longest_memory,
)

RAMPS, SIZES, STEP = (1, 2, 5, 15, 45), {2.0: 0.4, 8.0: 0.4, 32.0: 0.2}, 0.04


def autoregressive(rng, memory, shape, last):
    """Stationary AR(1) series along the last axis."""
    noise = rng.standard_normal((*shape, last))
    noise[..., 1:] *= math.sqrt(1 - memory**2)
    for at in range(1, last):
        noise[..., at] += memory * noise[..., at - 1]
    return noise


def log_likelihood(values, covariance):
    """Of values about an unknown level with unknown noise, both integrated out; up to a constant."""
    n, ones, inverse = len(values), np.ones(len(values)), np.linalg.inv(covariance)
    of_level = ones @ inverse @ ones
    rest = values - (ones @ inverse @ values) / of_level
    squares = rest @ inverse @ rest
    return -(np.linalg.slogdet(covariance)[1] + math.log(of_level) + (n - 1) * math.log(squares)) / 2


def by_definition(values, memory):
    """The same e-value from whole covariance matrices."""
    n, lags = len(values), np.abs(np.subtract.outer(np.arange(len(values)), np.arange(len(values))))
    above, below = [], []
    for m in [*np.arange(0.0, memory, STEP), memory]:
        covariance = m**lags / (1 - m**2)
        below.append(log_likelihood(values, covariance))
        for ramp in RAMPS:
            for at in range(1, n - 1):
                shape = np.clip((np.arange(n) - at + 1) / ramp, 0, 1)
                for size, weight in SIZES.items():
                    moved = covariance + size**2 * np.outer(shape, shape)
                    above.append(log_likelihood(values, moved) + math.log(weight))
    most = max(below)
    mixture = np.exp(np.array(above) - most).sum() / (len(below) * len(RAMPS) * MOST_VALUES)
    return math.log(mixture)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.95])
def test_the_evidence_is_the_ratio_of_likelihoods_that_it_is_said_to_be(memory):
    rng = np.random.default_rng(3)
    for n in (4, 11):
        values = autoregressive(rng, 0.5, (), n) + 3.0 * (np.arange(n) >= n // 2)
        assert log_evidence(values, 0.0, memory) == pytest.approx(by_definition(values, memory), abs=1e-6)


@pytest.mark.parametrize("memory", [0.0, 0.6, 0.9, 0.98])
def test_a_series_that_is_looked_at_again_and_again_rarely_ever_shows_evidence(memory):
    """The chance that the e-value ever reaches 1 / a is at most a."""
    series = autoregressive(np.random.default_rng(5), memory, (150,), 48)
    highest = [max(log_evidence(one[:n], 0.0, 0.99) for n in range(6, 49, 6)) for one in series]
    for chance in (0.2, 0.05):
        reached = np.mean(np.array(highest) >= math.log(1 / chance))
        assert reached <= chance + 3 * math.sqrt(chance * (1 - chance) / len(series))


def test_a_memory_that_the_test_does_not_allow_for_is_evidence():
    """Else no series of rows that resemble each other would need an allowance."""
    series = autoregressive(np.random.default_rng(6), 0.98, (40,), 100)
    highest = [(log_evidence(one, 0.0, 0.0), log_evidence(one, 0.0, 0.99)) for one in series]
    unaware, aware = (np.mean(np.array(column) > math.log(20)) for column in zip(*highest, strict=True))
    assert (unaware > 0.5, aware) == (True, 0.0)


def test_neither_level_nor_unit_of_a_series_is_evidence():
    values = autoregressive(np.random.default_rng(7), 0.3, (), 30) + 2.0 * (np.arange(30) >= 20)
    found = log_evidence(values, 0.0, 0.8)
    assert log_evidence(50 - 7 * values, 0.0, 0.8) == pytest.approx(found)


def test_a_change_becomes_surer_with_each_window_of_it_whatever_its_shape():
    quiet = autoregressive(np.random.default_rng(8), 0.3, (), 80)
    since = np.maximum(np.arange(80) - 40, 0)
    for change in (4.0 * (since > 0), np.minimum(since, 10) * 0.5, since * 0.3):
        seen = [log_evidence((quiet + change)[:n], 0.0, 0.5) for n in (44, 56, 80)]
        assert seen == sorted(seen)
        assert seen[-1] > 10


def test_a_constant_series_shows_no_change_and_one_that_leaves_its_constant_does():
    assert log_evidence(np.full(30, 4.0), 1e-4, 0.9) < 0
    assert log_evidence(np.array([4.0] * 20 + [5.0] * 4), 1e-4, 0.9) > 20
    assert log_evidence(np.array([4.0, 9.0, 9.0]), 1e-4, 0.9) == 0


def test_windows_of_rows_that_resemble_each_other_resemble_each_other_less():
    for rows in (1, 5, 60):
        lags = np.abs(np.subtract.outer(np.arange(2 * rows), np.arange(2 * rows)))
        covariance = 0.99**lags
        first, second = np.repeat([[1, 0], [0, 1]], rows, axis=1)
        expected = first @ covariance @ second / (first @ covariance @ first)
        assert longest_memory(rows) == pytest.approx(expected)
    assert longest_memory(0.2) == 0.99


def test_one_device_of_many_moves_their_mean_little_and_shows_all_the_same():
    assert log_evidence_of_one(3.0, 20) > log_evidence_of_one(3.0, 5) > log_evidence_of_one(2.0, 5)
    # A move by the square root of two times the spread between devices is what any of them may make.
    assert log_evidence_of_one(math.sqrt(2 / 20), 20) < 0
