"""One watched statistic: its baseline, its unit, and how windows without values or devices are counted."""

import json
import math

import numpy as np
import pytest

from stream_processors.drift.change_evidence import ChangeTest
from stream_processors.drift.series import KEPT, Reading, Series, SeriesBaseline, baseline_of
from stream_processors.drift.statistic_spread import spread_of
from tests.stream_processors.drift_evaluation import profile_with

POLICY = profile_with(warmup_windows=4, cooldown_windows=6, min_effect=3.0).drift
ANY = ChangeTest(needed=-math.inf, memory=0.5)
"""Asks for no evidence: laws about size."""


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
    assert baseline.standardise(Reading(51.0, 1.0, 20)) == 0.33333
    assert baseline.standardise(Reading(1e9, 1.0, 20)) == 1000.0
    assert baseline.standardise(Reading(-1e9, 1.0, 20)) == -1000.0


@pytest.mark.parametrize("devices", [5, 10, 40])
@pytest.mark.parametrize(("known", "now"), [(6.0, 2.0), (2.0, 6.0)])
def test_other_devices_have_another_mean_by_the_variance_of_a_sample(devices, known, now):
    baseline = SeriesBaseline(50.0, 2.0, known, 20.0)
    expected = math.sqrt(abs(1 / devices - 1 / 20)) * 6.0 / 2.0
    assert baseline.other_devices(Reading(60.0, now, devices)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("devices", "compared"), [(17, False), (18, True), (20, True), (22, True), (23, False)]
)
def test_a_window_is_compared_with_a_baseline_of_nearly_as_many_devices(devices, compared):
    assert warm(spread=0.0).compares(Reading(50.0, 0.0, devices), POLICY) is compared
    assert Series().compares(Reading(50.0, 0.0, devices), POLICY)


def test_nine_in_ten_devices_are_nearly_as_many_whether_the_baseline_has_them_or_the_window():
    assert warm(devices=9, spread=0.0).compares(Reading(50.0, 0.0, 10), POLICY)
    assert warm(devices=10, spread=0.0).compares(Reading(50.0, 0.0, 9), POLICY)


def test_a_window_is_not_compared_where_other_devices_alone_move_the_mean_as_much_as_it_moves():
    alike, unlike = warm(spread=0.1), warm(spread=30.0)
    assert alike.compares(Reading(50.0, 0.1, 19), POLICY)
    assert not unlike.compares(Reading(50.0, 30.0, 19), POLICY)


def flat(spread=1.0):
    """A series that stays at its level to the last digit: its least spread is one unit."""
    return Series(baseline=SeriesBaseline(1e4, 1.0, spread, 20.0), z=(0.0,) * 40, since_alarm=0)


def test_other_devices_may_move_the_mean_just_as_much_as_it_moves():
    for spread, compared in ((1.0, True), (math.sqrt(380), True), (1.001 * math.sqrt(380), False)):
        assert flat(spread).compares(Reading(1e4, spread, 19), POLICY) is compared


def test_the_least_spread_is_a_share_of_the_level_in_units_and_never_nothing():
    for sign in (-1, 1):
        assert SeriesBaseline(sign * 50.0, 2.0, 1.0, 20.0).least == pytest.approx(0.0025)
    assert SeriesBaseline(0.0, 2.0, 1.0, 20.0).least == pytest.approx(5e-13)


def test_the_usual_spread_does_not_rest_on_the_newest_windows():
    old = (0.05, -0.05) * 20
    known = Series(baseline=warm().baseline, z=old)
    for new in range(1, 9):
        shifted = Series(baseline=known.baseline, z=(*old, *[9.0] * new))
        rest = np.array(old[: len(old) + new - 8])
        assert shifted.usual(POLICY) == spread_of(rest)


def test_a_newest_window_that_is_taken_back_has_no_value():
    series = Series(baseline=warm().baseline, z=(1.0, 2.0, 3.0))
    assert series.without_newest().z == (1.0, 2.0, None)
    assert Series().without_newest() == Series()


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


def alarm_ages(series):
    """Ages of an alarm over windows without a value, until it is over."""
    ages = []
    while series.since_alarm is not None:
        ages.append(series.since_alarm)
        series = series.observe(None, POLICY)
    return ages


def test_an_alarm_is_looked_into_for_four_independent_windows_more():
    steady = tuple(0.1 * (-1) ** n for n in range(40))
    slow = tuple(math.sin(n / 9) for n in range(40))
    base = warm().baseline
    lasting = {z: Series(baseline=base, z=z, since_alarm=0) for z in (steady, slow)}
    assert alarm_ages(lasting[steady]) == [0, 1, 2, 3, 4]
    assert alarm_ages(lasting[slow]) == list(range(65)), "windows that resemble each other, up to a bound"


def test_a_window_without_a_value_raises_no_alarm():
    silent = Series(baseline=warm().baseline, z=(*stepped(1).z, None))
    assert silent.observe(None, POLICY).since_alarm is None


def alarms(before, after):
    """Whether an alarm stands after further values, in units."""
    series = Series(baseline=SeriesBaseline(0.0, 1.0, 1.0, 20.0), z=tuple(before))
    return observed(readings(after), series=series).since_alarm is not None


QUIET = (0.05, -0.05) * 20
"""Moves a twentieth of what the devices' spread allows for."""
WANDERING = tuple(4.0 * math.sin(n / 9) for n in range(120))
"""Moves more than the devices' spread explains: all have something in common."""


def test_steady_values_raise_no_alarm_however_far_they_wander_together():
    assert not alarms(QUIET, QUIET[:8])
    assert not alarms(WANDERING[:60], WANDERING[60:62])


def test_a_shift_beyond_a_quiet_statistics_own_spread_raises_the_alarm():
    assert alarms(QUIET, [0.5] * 3)
    assert not alarms([20 * v for v in QUIET], [0.5] * 3)


def test_a_shift_beyond_the_spread_between_devices_raises_the_alarm_of_a_statistic_that_wanders_further():
    slow = tuple(0.9 * math.sin(n / 9) for n in range(57))
    assert Series(baseline=SeriesBaseline(0.0, 1.0, 1.0, 20.0), z=slow).usual(POLICY).sd > 1
    assert alarms(slow, [7.0] * 2)


def test_only_after_an_alarm_a_change_is_looked_for():
    series = stepped(3)
    assert series.change(POLICY, ANY) is not None
    assert Series(baseline=series.baseline, z=series.z).change(POLICY, ANY) is None


def told(size, wobble=0.05, after=3, policy=POLICY, test=ANY):
    side = math.copysign(wobble, size)  # the last window before lies on the other side of the level
    z = (side, -side) * 20 + (size,) * after
    return Series(baseline=warm().baseline, z=z, since_alarm=0).change(policy, test)


def test_a_shift_is_told_in_the_spread_of_the_statistic_whatever_the_baselines_unit():
    sd = spread_of(np.array((0.05, -0.05) * 20)).sd
    for scale in (1.0, 0.5):
        change = told(4 * sd * scale, wobble=0.05 * scale)
        assert (change.size, change.noise) == (pytest.approx(4.0), pytest.approx(sd * scale))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("effect", [3.0, 6.0])
def test_a_change_is_told_from_the_effect_on_that_the_policy_asks_for(effect, sign):
    policy = profile_with(warmup_windows=4, min_effect=effect).drift
    sd = spread_of(np.array((0.05, -0.05) * 20)).sd
    assert told(sign * 1.001 * effect * sd, after=8, policy=policy)
    assert told(sign * 0.999 * effect * sd, after=8, policy=policy) is None


def test_a_change_is_told_from_the_evidence_on_that_is_asked_for():
    found = told(1.0, after=8).evidence
    assert found > 5
    assert told(1.0, after=8, test=ChangeTest(found - 0.01, 0.5))
    assert told(1.0, after=8, test=ChangeTest(found + 0.01, 0.5)) is None


def test_a_series_that_wandered_before_must_show_more():
    """The windows before say more of its memory than the least that is always assumed."""
    wandering = tuple(math.sin(n / 6) for n in range(60))
    series = Series(baseline=warm().baseline, z=(*wandering, *[20.0] * 4), since_alarm=0)
    assert series.change(POLICY, ANY).evidence == series.change(POLICY, ChangeTest(-math.inf, 0.0)).evidence


def test_a_single_device_is_told_by_the_spread_between_devices_where_windows_are_few():
    z = (0.0, 0.3, 0.6, 0.9, 4.2, 4.4, 4.3)
    series = Series(baseline=warm().baseline, z=z, since_alarm=0)
    assert series.change(POLICY, ANY) is None
    assert series.change(POLICY, ANY, few=True).size == pytest.approx(3.8, abs=0.3)


def fewer(z, few=True, **policy):
    """The change found where few devices account for it."""
    asked = profile_with(**{"warmup_windows": 4, "min_effect": 3.0, **policy}).drift
    return Series(baseline=warm().baseline, z=tuple(z), since_alarm=0).change(asked, ANY, few=few)


@pytest.mark.parametrize("wide", [1, 3])
def test_a_single_device_is_told_by_how_far_windows_before_it_lay_apart_and_by_the_devices_spread(wide):
    before = [wide * v for v in (0.0, 0.3, 0.6, 0.9)]
    middle, apart = np.median(before), np.std(before, ddof=1) * (1 + 2 / 3)
    between = max(1.0, apart)
    found = fewer([*before, *[middle + 3.01 * between] * 3])
    assert (found.size, found.noise, found.chance) == (pytest.approx(3.01), pytest.approx(between), 0.0)
    assert fewer([*before, *[middle + 3.01 * between] * 3], few=False) is None
    assert fewer([*before, *[middle + 2.99 * between] * 3]) is None


def test_a_single_devices_change_is_told_by_its_spread_only_while_it_may_have_raised_the_alarm():
    before = (0.0, 0.3, 0.6, 0.9)
    assert fewer([*before, *[3.5] * 8]) is not None
    assert fewer([*before, *[3.5] * 9]) is None


def test_a_shift_of_just_the_effect_asked_for_is_told():
    stays = flat()
    for size, is_told in ((3.0, True), (2.999, False)):
        series = Series(baseline=stays.baseline, z=(*stays.z, *[size] * 8), since_alarm=0)
        assert (series.change(POLICY, ANY) is not None) is is_told
        assert series.moved_since(7, POLICY) is is_told


def test_what_chance_makes_of_a_shift_is_told_in_the_same_units_as_the_shift():
    sd = spread_of(np.array(QUIET)).sd
    for scale in (1.0, 0.5):
        change = told(8 * sd * scale, wobble=0.05 * scale)
        assert change.size / change.chance == pytest.approx(8 * sd / spread_of(np.array(QUIET)).chance(3))


def test_a_change_may_have_hit_the_last_window_of_the_baseline():
    series = Series(baseline=warm().baseline, z=(0.0, 0.0, 0.0, 9.0, 9.0, 9.0), since_alarm=0)
    assert series.change(POLICY, ANY).at == 3
    two = profile_with(warmup_windows=1).drift
    assert (
        Series(baseline=warm().baseline, z=(0.0, 0.0, 9.0, 9.0, 9.0), since_alarm=0).change(two, ANY).at == 2
    )


def test_values_are_placed_by_windows_and_not_by_how_many_there_are():
    series = Series(baseline=warm().baseline, z=(1.0, None, 2.0, None, None, 3.0, None))
    assert series.values().tolist() == [1.0, 2.0, 3.0]
    assert [series.windows_back(i) for i in range(3)] == [6, 4, 1]


def moved(z, windows_back, **policy):
    series = Series(baseline=warm().baseline, z=z)
    return series.moved_since(windows_back, profile_with(**{"warmup_windows": 4, **policy}).drift)


def test_a_statistic_moved_where_its_newest_windows_lie_apart_by_what_a_verdict_asks():
    old = (0.05, -0.05) * 20
    sd = spread_of(np.array(old)).sd
    for far in (1.0, -1.0):
        assert moved((*old, *[far * 3.01 * sd] * 8), 7)
        assert not moved((*old, *[far * 2.99 * sd] * 8), 7)
    assert not moved([5.0 + v for v in old], 7), "it is at home away from the baseline's level"
    assert moved([*(5.0 + v for v in old), *[-5.0] * 8], 7)
    assert moved((*old, None, 9.0, None, 9.0), 3), "windows without a value are left out"


def test_a_shift_is_not_known_where_the_baseline_is_younger_or_nothing_came_since():
    z = (0.0, 0.1, 0.0, 0.1, 5.0, 5.0)
    assert moved(z, 1) is True
    assert moved(z, 2) is None
    assert moved(z, 99) is None
    assert moved((*z, None), 0) is None


@pytest.mark.parametrize("series", [Series(), observed(readings([50.0])), warm(), stepped(3).skip(2)])
def test_a_series_survives_as_json(series):
    assert Series.from_state(json.loads(json.dumps(series.to_state()))) == series
