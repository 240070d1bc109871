"""The river door and the search for a change: alarms, dates, sizes."""

import numpy as np
import pytest

from stream_processors.drift.change import find_change
from stream_processors.drift.detectors import in_alarm
from tests.stream_processors.drift_evaluation import profile_with

BOTH = pytest.mark.parametrize("detector", ["page_hinkley", "adwin"])


def noise(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, n)


@BOTH
def test_noise_raises_no_alarm(detector):
    policy = profile_with(detector=detector).drift
    assert not any(in_alarm(noise(seed, n).tolist(), policy) for seed in range(20) for n in (10, 50, 200))


@BOTH
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_step_raises_the_alarm_in_either_direction(detector, sign):
    policy = profile_with(detector=detector).drift
    values = noise(1, 60)
    values[40:] += sign * 8
    assert not in_alarm(values[:40].tolist(), policy)
    assert any(in_alarm(values[:n].tolist(), policy) for n in range(41, 50))


def test_the_alarm_is_of_the_last_value_only():
    policy = profile_with().drift
    values = [0.0] * 20 + [8.0] * 40
    assert in_alarm(values[:21], policy)
    assert not in_alarm(values, policy)


def test_a_smaller_delta_asks_for_more():
    values = [0.0] * 20 + [4.0] * 3
    bold, shy = profile_with(delta=0.1).drift, profile_with(delta=1e-6).drift
    assert any(in_alarm(values[:n], bold) for n in (21, 22, 23))
    assert not any(in_alarm(values[:n], shy) for n in (21, 22, 23))


def test_a_change_is_dated_and_sized():
    values = noise(2, 60)
    values[40:] -= 7
    found = find_change(values, 3)
    assert (found.at, found.after) == (40, 20)
    assert found.size == pytest.approx(-7, abs=0.8)
    assert found.abruptness > 0.5


def test_a_value_hit_in_its_middle_is_the_first_of_the_new_regime():
    values = 0.1 * noise(3, 30)
    values[20:] += 6
    values[20] = 2.5  # nearer to the old level: least squares alone would leave it there
    assert find_change(values, 3).at == 20


def test_a_ramp_is_not_abrupt():
    values = noise(4, 60)
    values[30:] += 0.3 * np.arange(30)
    assert find_change(values, 3).abruptness < 0.5


def test_two_values_are_no_more_than_the_smaller_of_them():
    assert find_change(np.array([0.0] * 10 + [1.0, 9.0]), 3).size == pytest.approx(1.0)


def test_too_short_a_series_holds_no_change():
    assert find_change(np.array([0.0, 0.0, 5.0]), 3) is None


@pytest.mark.parametrize("delta", [1.0, 2.0])
def test_a_delta_that_allows_everything_still_asks_for_more_than_noise(delta):
    policy = profile_with(delta=delta, min_effect=0.0).drift
    assert not in_alarm([0.0] * 20 + [0.6], policy)
    assert in_alarm([0.0] * 20 + [9.0], policy)
