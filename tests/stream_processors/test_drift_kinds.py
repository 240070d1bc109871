"""Which kind of drift the evidence suggests, at each bound, and what share of a cohort moved."""

import numpy as np
import pytest

from stream_processors.drift.drift_kinds import ACTIONS, DriftEvidence, channels_of, classify, moved_share
from stream_processors.windowing.moments import Moments
from tests.quick_machine_profile import quick_machine_profile

MACHINE = quick_machine_profile()
STEP = DriftEvidence(
    abrupt=True, windows_since_onset=3, devices=20, moved_share=1.0, channels_moved=1, scaled_share=1.0
)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "sensor_recalibration"),
        ({"scaled_share": 0.5}, "sensor_recalibration"),
        ({"scaled_share": 0.49}, "unclassified"),
        ({"channels_moved": 2}, "covariate"),
        ({"channels_moved": 3, "scaled_share": 0.0}, "covariate"),
        ({"channels_moved": 0}, "unclassified"),
        ({"abrupt": False}, "degradation"),
        ({"abrupt": False, "channels_moved": 2}, "degradation"),
        ({"moved_share": 0.05}, "single_device_fault"),
        ({"moved_share": 0.05, "abrupt": False}, "single_device_fault"),
        ({"moved_share": 0.1}, "sensor_recalibration"),  # two devices of twenty
        ({"devices": 3, "moved_share": 1 / 3}, "single_device_fault"),
        ({"devices": 2, "moved_share": 0.5}, "sensor_recalibration"),  # of two, one looks like all of them
        ({"devices": 9, "moved_share": 0.2}, "sensor_recalibration"),  # 1.8 devices to the last bit
    ],
)
def test_the_evidence_leads_to_its_kind(changes, kind):
    assert classify(STEP._replace(**changes)) == kind
    assert ACTIONS[kind]


def window_of(values):
    v = np.array(values, dtype=np.float64)
    return Moments(len(v), v.mean(), ((v - v.mean()) ** 2).sum(), v.min(), v.max())


@pytest.mark.parametrize("moved", [1, 2, 5, 10])
@pytest.mark.parametrize("by", [-40.0, 40.0])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_the_share_of_devices_that_moved_is_found_in_either_direction(moved, by, spread):
    healthy = np.random.default_rng(moved).normal(50.0, spread, 200)
    sd = float(healthy.std(ddof=1))
    values = healthy.copy()
    values[: moved * 10] += by
    assert moved_share(float(healthy.mean()), sd, window_of(values)) == pytest.approx(moved / 20, abs=0.02)


def test_where_the_spread_did_not_grow_all_moved():
    healthy = np.random.default_rng(1).normal(50.0, 1.0, 200)
    assert moved_share(50.0, 1.1, window_of(healthy + 9)) == 1.0
    same = window_of([1.0, 3.0])
    assert moved_share(0.0, same.variance**0.5, same) == 1.0
    still = Moments(5, 2.0, 16.0, 0.0, 4.0)
    assert moved_share(2.0, 2.0, still) == 1.0


def test_a_spread_that_grew_everywhere_is_no_single_device():
    wide = np.random.default_rng(2).normal(50.0, 6.0, 200)
    assert moved_share(49.9, 1.0, window_of(wide)) == 1.0
    assert moved_share(50.9, 1.0, window_of(wide)) == 1.0


@pytest.mark.parametrize(("low", "high"), [(0.0, 4.0), (-4.0, 0.0)])
def test_the_farthest_value_on_the_side_of_the_shift_decides_whether_one_device_can_be_the_cause(low, high):
    """The shift is up. Only a value far up, and none far down, can be the device that moved."""
    window = Moments(10, 1.0, 9 * 4.0, low, high)
    assert (moved_share(0.0, 0.0, window) < 1.0) == (high == 4.0)


def test_a_device_as_far_out_as_the_moments_suggest_by_half_again_still_counts():
    at = Moments(10, 1.0, 9 * 4.5, 0.0, 4.0)  # growth 4.5 = 1.5 * shift 1 * reach 3
    assert moved_share(0.0, 0.0, at) == pytest.approx(1 / 5.5)
    assert moved_share(0.0, 0.0, at._replace(max=3.99)) == 1.0


def moved(*names, unknown=()):
    features = [s.name for s in MACHINE.feature_specs()]
    return {f: None if f in unknown else f in names for f in [*features, "score"]}


CARRIERS = [
    "vibration_rms",
    "vibration_peak",
    "vibration_band_low",
    "vibration_band_mid",
    "vibration_band_high",
]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_one_channel_scales_by_the_features_that_carry_its_unit(count):
    assert channels_of(moved(*CARRIERS[:count]), MACHINE) == (1, count / 5)


def test_several_channels_or_none_scale_by_nothing():
    assert channels_of(moved("vibration_rms", "current_mean"), MACHINE) == (2, 0.0)
    assert channels_of(moved(), MACHINE) == (0, 0.0)
    assert channels_of(moved("score"), MACHINE) == (0, 0.0)


def test_a_feature_without_a_unit_that_moved_rules_a_gain_out():
    assert channels_of(moved(*CARRIERS, "vibration_crest"), MACHINE) == (1, 0.0)
    assert channels_of(moved("vibration_crest"), MACHINE) == (1, 0.0)


def test_features_that_are_not_known_count_for_nothing():
    assert channels_of(moved("vibration_rms", unknown=CARRIERS[2:]), MACHINE) == (1, 1 / 2)
    assert channels_of({"vibration_crest": True}, MACHINE) == (1, 0.0)
    assert channels_of({"vibration_rms": True}, MACHINE) == (1, 1.0)


def test_growth_is_what_the_variance_gained_over_the_baselines():
    assert moved_share(0.0, 3.0, Moments(10, 1.0, 9 * 10.0, 0.0, 4.0)) == pytest.approx(1 / 2)
