"""One watched feature: what a window says of it, its cool-down, and when its cohort is another one."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_processors.drift.change_evidence import ChangeTest
from stream_processors.drift.series import Reading, Series
from stream_processors.drift.statistic_spread import spread_of
from stream_processors.drift.watched_feature import STATISTICS, SeasonPhase, WatchedFeature, readings_of
from stream_processors.windowing.moments import Moments
from tests.stream_processors.drift_evaluation import profile_with

WARMUP, COOLDOWN = 4, 6
ANY = ChangeTest(needed=-math.inf, memory=0.5)
POLICY = profile_with(warmup_windows=WARMUP, cooldown_windows=COOLDOWN, min_effect=3.0).drift


def moments_of(values):
    v = np.array(values, dtype=np.float64)
    return Moments(
        len(v), float(v.mean()), float(((v - v.mean()) ** 2).sum()), float(v.min()), float(v.max())
    )


def level(value, devices=20):
    return {"level": Reading(value, 1.0, devices), "spread": None}


def watched(values, first=1, devices=20) -> WatchedFeature:
    watch = WatchedFeature(first - 1)
    for n, value in enumerate(values):
        watch = watch.observe(first + n, level(value, devices), POLICY)
    return watch


STEADY = [50.0, 50.2, 50.0, 50.2]
WANDERING = [50.0, 50.9, 49.4, 50.2] * 2


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=30))
def test_a_window_says_its_mean_and_the_logarithm_of_its_spread(values):
    found = readings_of(moments_of(values), 7)
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    assert found["level"] == pytest.approx(Reading(mean, sd, 7, len(values)), abs=1e-9)
    if found["spread"] is not None and sd > 1e-3:
        farthest = ((max(values) - mean) / sd) ** 4 + ((mean - min(values)) / sd) ** 4
        doubt = math.sqrt((max(3.0, farthest / len(values)) - 1) / 4)
        assert found["spread"] == pytest.approx(Reading(math.log(sd), doubt, 7, len(values)))


def test_one_far_value_makes_the_spread_less_sure():
    plain, heavy = moments_of([0.0, 1.0] * 10), moments_of([0.0] * 39 + [60.0])
    assert readings_of(plain, 7)["spread"].spread == pytest.approx(math.sqrt(0.5))
    assert readings_of(heavy, 7)["spread"].spread > 2


@pytest.mark.parametrize(
    ("moments", "known"),
    [
        (Moments(2, 5.0, 1.0, 4.0, 6.0), False),
        (Moments(3, 5.0, 1.0, 4.0, 6.0), True),
        (Moments(9, 5.0, 0.0, 5.0, 5.0), False),
        (Moments(9, 0.0, 0.0, 0.0, 0.0), False),
        (Moments(3, 1e6, 2.0, 1e6 - 1, 1e6 + 1), False),  # a relative spread of 1e-6
        (Moments(3, -1e6, 2.0, -1e6 - 1, -1e6 + 1), False),
        (Moments(3, 1e6, 2.1, 1e6 - 1, 1e6 + 1), True),
    ],
)
def test_too_few_values_or_a_constant_have_no_spread_to_watch(moments, known):
    assert (readings_of(moments, 7)["spread"] is not None) is known


def test_a_phase_expects_the_mean_of_its_first_seasons_and_then_follows_slowly():
    phase = SeasonPhase(0, 0.0)
    for value in (4.0, 8.0, 6.0):
        phase = phase.learn(value)
    assert phase == SeasonPhase(3, 6.0)
    old = SeasonPhase(8, 6.0).learn(14.0)
    assert old == SeasonPhase(8, 7.0)


def test_windows_left_out_are_windows_without_a_value_and_cool_down_too():
    watch = replace(watched(STEADY), cooldown=5)
    after = watch.observe(7, level(50.0), POLICY)
    assert after.newest == 7
    assert after.series["level"].z[-3:] == (None, None, pytest.approx(-1.0, abs=3))
    assert len(after.series["level"].z) == WARMUP + 3
    assert after.cooldown == 2
    assert watch.observe(5, level(50.0), POLICY).cooldown == 4
    assert watch.observe(99, level(50.0), POLICY).cooldown == 0


def test_a_window_that_comes_twice_leaves_no_gap():
    watch = watched(STEADY)
    assert len(watch.observe(4, level(50.0), POLICY).series["level"].z) == WARMUP + 1


def test_an_alarm_in_the_cool_down_is_kept_and_looked_into_when_it_ends():
    watch = replace(watched(STEADY), cooldown=COOLDOWN + 1)
    ages = []
    for n in range(COOLDOWN + 1):
        watch = watch.observe(5 + n, level(90.0 if n < 3 else 50.0), POLICY)
        ages.append((watch.cooldown, watch.series["level"].since_alarm))
        assert watch.cooldown == 0 or watch.changes(POLICY, ANY) == {}
    assert [cooldown for cooldown, _ in ages] == [6, 5, 4, 3, 2, 1, 0]
    assert all(age == 0 for cooldown, age in ages if cooldown)
    quiet = replace(watched(STEADY), cooldown=9).observe(5, level(50.1), POLICY)
    assert quiet.series["level"].since_alarm is None


def test_changes_are_told_of_the_statistics_that_changed():
    watch = watched(STEADY)
    for n in range(3):
        watch = watch.observe(5 + n, level(90.0), POLICY)
    assert set(watch.changes(POLICY, ANY)) == {"level"}
    assert replace(watch, cooldown=1).changes(POLICY, ANY) == {}
    assert watched(STEADY).changes(POLICY, ANY) == {}


def test_after_a_verdict_everything_is_learnt_anew_but_the_onset():
    after = watched(STEADY).after_verdict(17, POLICY)
    assert after == WatchedFeature(4, COOLDOWN, 17)
    assert watched(STEADY).after_verdict(None, POLICY).onset is None


@pytest.mark.parametrize(
    ("devices", "other"), [(20, False), (21, False), (24, True), (19, False), (17, True)]
)
def test_a_window_of_other_devices_is_not_compared(devices, other):
    after = watched(WANDERING).observe(9, level(90.0, devices), POLICY)
    assert after.resized == int(other)
    assert (after.series["level"].z[-1] is None) is other
    assert (after.series["level"].since_alarm is None) is other


def test_the_windows_beside_one_of_other_devices_are_not_compared_either():
    watch = watched(WANDERING).observe(9, level(90.0), POLICY)
    without = watch.observe(10, level(70.0, 10), POLICY)
    assert without.series["level"].z[-2:] == (None, None)
    back = without.observe(11, level(90.0), POLICY)
    assert (back.resized, back.series["level"].z[-1]) == (0, None)
    assert back.observe(12, level(50.1), POLICY).series["level"].z[-1] is not None


def test_a_cohort_that_stays_another_one_gets_a_new_baseline_after_a_bounded_wait():
    watch = replace(watched(WANDERING), onset=3)
    last = WARMUP + COOLDOWN
    for n in range(last):
        watch = watch.observe(9 + n, level(50.0, 50), POLICY)
        assert watch.changes(POLICY, ANY) == {}
    assert (watch.resized, watch.series["level"].baseline is not None) == (last, True)
    renewed = watch.observe(9 + last, level(50.0, 50), POLICY)
    assert renewed == WatchedFeature(9 + last, 0, 3)
    for between in (level(50.0, 20), {"level": None, "spread": None}):
        assert watch.observe(9 + last, between, POLICY).resized == 0


def test_before_there_is_a_baseline_no_cohort_has_another_size():
    assert watched([50.0, 50.0], devices=20).observe(3, level(50.0, 99), POLICY).resized == 0


def moved_since(onset, size, watch_onset=None):
    z = (0.5, -0.5) * 20 + (size,) * 8
    base = watched(STEADY).series["level"].baseline
    series = {"level": Series(baseline=base, z=z), "spread": Series()}
    return WatchedFeature(109, 0, watch_onset, 0, series).has_moved(onset, POLICY)


def test_a_feature_moved_if_its_shift_since_then_reaches_the_effect():
    least = 3 * spread_of(np.array((0.5, -0.5) * 20)).sd
    sizes = (0.99 * least, 1.01 * least, -1.01 * least, -0.99 * least)
    assert [moved_since(102, size) for size in sizes] == [False, True, True, False]


def test_a_feature_without_values_from_before_is_not_known():
    assert moved_since(65, 9.0) is None
    assert WatchedFeature(109).has_moved(106, POLICY) is None


def test_a_recent_verdict_on_it_tells_that_it_moved_whatever_its_baseline():
    recent = WARMUP + COOLDOWN
    for onset in (102 - recent, 102, 102 + recent):
        assert moved_since(102, 0.0, onset) is True
    for onset in (102 - recent - 1, 102 + recent + 1):
        assert moved_since(102, 0.0, onset) is False


@pytest.mark.parametrize(
    "watch", [WatchedFeature(7), watched(STEADY), replace(watched(STEADY), cooldown=3, onset=2, resized=1)]
)
def test_a_watch_survives_as_json(watch):
    assert WatchedFeature.from_state(json.loads(json.dumps(watch.to_state()))) == watch
    assert set(watch.series) == set(STATISTICS)


def test_that_few_devices_account_for_a_change_is_not_assumed():
    z = (0.0, 0.3, 0.6, 0.9, 4.2, 4.4, 4.3)
    level = Series(baseline=watched(STEADY).series["level"].baseline, z=z, since_alarm=0)
    watch = WatchedFeature(9, series={"level": level, "spread": Series()})
    assert watch.changes(POLICY, ANY) == {}
    assert list(watch.changes(POLICY, ANY, few=True)) == ["level"]
