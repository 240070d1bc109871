"""One watched statistic: its baseline, its unit, and how windows without values or devices are counted."""

import json
import math

import numpy as np
import pytest

from stream_processors.drift.series import KEPT, Reading, Series, SeriesBaseline, baseline_of
from tests.stream_processors.drift_evaluation import profile_with

POLICY = profile_with(warmup_windows=4, cooldown_windows=6, min_effect=3.0).drift


def readings(values, devices=20, spread=1.0):
    return [Reading(v, spread, devices) for v in values]


def observed(items, policy=POLICY, series=None):
    series = Series() if series is None else series
    for item in items:
        series = series.observe(item, policy)
    return series


def warm(level=50.0, devices=20, spread=1.0) -> Series:
    return observed(readings([level - 0.1, level + 0.1] * 2, devices, spread))


def test_a_baseline_is_the_median_of_level_spread_and_devices():
    found = baseline_of([Reading(1.0, 4.0, 9), Reading(2.0, 6.0, 11), Reading(9.0, 5.0, 40)])
    assert (found.level, found.spread, found.devices) == (2.0, 5.0, 11.0)


def test_the_unit_is_the_largest_of_what_windows_devices_and_the_level_say():
    quiet = baseline_of(readings([50.0] * 4, devices=25, spread=10.0))
    assert quiet.unit == pytest.approx((1 + 2 / 24) * 10.0 / 5)
    wandering = baseline_of(readings([40.0, 60.0, 40.0, 60.0], devices=25, spread=0.0))
    assert wandering.unit == pytest.approx(np.std([40, 60, 40, 60], ddof=1) * (1 + 2 / 3))
    constant = baseline_of(readings([-50.0] * 4, spread=0.0))
    assert constant.unit == pytest.approx(50.0 * 1e-4)
    assert baseline_of(readings([0.0] * 4, spread=0.0)).unit > 0


@pytest.mark.parametrize(
    ("devices", "caution"), [(1, 1.0), (2, 1.5), (3, 1.5), (5, 1.5), (6, 1.4), (21, 1.1)]
)
def test_a_spread_that_rests_on_few_devices_is_taken_larger_but_not_without_end(devices, caution):
    found = baseline_of(readings([50.0] * 4, devices=devices, spread=10.0))
    assert found.unit == pytest.approx(caution * 10.0 / math.sqrt(devices))


def test_values_are_distances_from_the_level_in_units():
    baseline = SeriesBaseline(50.0, 3.0, 1.0, 20.0)
    assert baseline.standardise(Reading(60.5, 1.0, 20)) == 3.5
    assert baseline.standardise(Reading(39.5, 1.0, 20)) == -3.5
    assert baseline.standardise(Reading(51.0, 1.0, 20)) == 0.333
    assert baseline.standardise(Reading(1e9, 1.0, 20)) == 1000.0
    assert baseline.standardise(Reading(-1e9, 1.0, 20)) == -1000.0


@pytest.mark.parametrize("devices", [5, 10, 40])
@pytest.mark.parametrize(("known", "now"), [(6.0, 2.0), (2.0, 6.0)])
def test_other_devices_add_the_variance_of_another_sample_to_the_unit(devices, known, now):
    baseline = SeriesBaseline(50.0, 2.0, known, 20.0)
    unit = math.sqrt(2.0**2 + abs(1 / devices - 1 / 20) * 6.0**2)
    assert baseline.standardise(Reading(60.0, now, devices)) == pytest.approx(10.0 / unit, abs=5e-4)


def test_windows_that_lack_devices_do_not_set_the_baseline():
    few, many = Reading(10.0, 1.0, 17), Reading(50.0, 1.0, 20)
    assert observed([few, many, many, many]).baseline is None
    assert observed([few, many, many, many, many]).baseline.level == 50.0
    assert observed([many, many, few, many]).baseline is None
    enough = Reading(50.0, 1.0, 18)  # nine in ten
    assert observed([enough, many, enough, many]).baseline is not None


def test_a_baseline_takes_as_many_windows_as_the_policy_says_and_those_are_values_too():
    three, four = observed(readings([50.0] * 3)), observed(readings([50.0] * 4))
    assert (three.baseline, len(three.warm), three.z) == (None, 3, ())
    assert (four.warm, four.z) == ((), (0.0,) * 4)


def test_a_window_without_a_value_is_skipped_before_the_baseline_and_kept_after_it():
    assert observed([None, *readings([50.0] * 2), None]).warm == tuple(readings([50.0] * 2))
    assert warm().observe(None, POLICY).z[-1] is None
    assert warm().skip(3).z[-3:] == (None,) * 3
    assert len(warm().skip(3).z) == 7
    assert Series().skip(3) == Series()


def test_no_more_values_are_kept_than_the_bound_and_the_newest_stay():
    full = Series(baseline=warm().baseline, z=tuple(float(n % 3) for n in range(KEPT)))
    assert len(full.skip(0).z) == KEPT
    after = full.observe(Reading(50.0, 1.0, 20), POLICY)
    assert len(after.z) == KEPT // 2
    assert after.z[:-1] == full.z[-(KEPT // 2 - 1) :]
    assert full.skip(10**9).z == (None,) * (KEPT // 2)


def stepped(windows, size=40.0):
    return observed(readings([50.0 + size] * windows), series=warm())


def test_an_alarm_is_looked_into_for_four_windows_more():
    ages, series = [], stepped(1)
    for _ in range(7):
        ages.append(series.since_alarm)
        series = series.observe(None, POLICY)
    assert ages == [0, 1, 2, 3, 4, None, None]


def test_a_window_without_a_value_raises_no_alarm():
    silent = Series(baseline=warm().baseline, z=(*stepped(1).z, None))
    assert silent.observe(None, POLICY).since_alarm is None


def test_only_after_an_alarm_a_change_is_looked_for():
    series = stepped(3)
    assert series.change(POLICY) is not None
    assert Series(baseline=series.baseline, z=series.z).change(POLICY) is None


def test_a_change_is_told_from_the_effect_on_that_the_policy_asks_for():
    def told(size, wobble=0.0):
        z = (wobble, -wobble) * 5 + (size, size, size)
        return Series(baseline=warm().baseline, z=z, since_alarm=0).change(POLICY) is not None

    assert (told(3.0), told(2.999), told(-3.0), told(-2.999)) == (True, False, True, False)
    assert not told(5.0, wobble=2.0), "three times the noise is asked for where that is more than one"
    assert not told(10.8, wobble=2.0)
    assert told(10.9, wobble=2.0)


def test_a_change_may_have_hit_the_last_window_of_the_baseline():
    series = Series(baseline=warm().baseline, z=(0.0, 0.0, 0.0, 9.0, 9.0, 9.0), since_alarm=0)
    assert series.change(POLICY).at == 3
    two = profile_with(warmup_windows=1).drift
    assert Series(baseline=warm().baseline, z=(0.0, 0.0, 9.0, 9.0, 9.0), since_alarm=0).change(two).at == 2


def test_values_are_placed_by_windows_and_not_by_how_many_there_are():
    series = Series(baseline=warm().baseline, z=(1.0, None, 2.0, None, None, 3.0, None))
    assert series.values().tolist() == [1.0, 2.0, 3.0]
    assert [series.windows_back(i) for i in range(3)] == [6, 4, 1]


def test_a_shift_is_that_of_the_medians_before_and_since_a_window():
    z = (9.0, 9.0, 0.0, 1.0, 0.0, 1.0, None, 5.0, None, 7.0, 6.0)
    series = Series(baseline=warm().baseline, z=z)
    assert series.shift_since(3, POLICY) == 6.0 - 0.5
    assert series.shift_since(3, profile_with(warmup_windows=6).drift) == 6.0 - 1.0
    assert series.shift_since(4, POLICY) == 6.0 - 0.5  # that window had no value
    assert series.shift_since(0, POLICY) == 6.0 - 3.0


def test_a_shift_is_not_known_where_the_baseline_is_younger_or_nothing_came_since():
    z = (0.0, 0.0, 0.0, 0.0, 5.0, 5.0)
    series = Series(baseline=warm().baseline, z=z)
    assert series.shift_since(1, POLICY) == 5.0
    assert series.shift_since(2, POLICY) is None
    assert series.shift_since(99, POLICY) is None
    assert Series(baseline=warm().baseline, z=(*z, None)).shift_since(0, POLICY) is None


@pytest.mark.parametrize("series", [Series(), observed(readings([50.0])), warm(), stepped(3).skip(2)])
def test_a_series_survives_as_json(series):
    assert Series.from_state(json.loads(json.dumps(series.to_state()))) == series
