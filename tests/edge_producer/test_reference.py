"""Laws of the reference: it is frozen when its warm-up agrees with itself, and learns no fault."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_producer.reference import FOLLOW_MEMORIES, HIGH_SHARE, DeviceReference, smallest_spreads
from schemas.profile import Profile

MEMORY, WARMUP = 64, 16


def reference(width=1, memory=MEMORY, warmup=WARMUP, floor=1e-3) -> DeviceReference:
    return DeviceReference(np.full(width, floor), memory=memory, warmup=warmup)


def teach(of: DeviceReference, values, score: float | None = 0.1) -> DeviceReference:
    for value in values:
        of.learn(np.atleast_1d(np.float32(value)), score)
    return of


def noise(n, level=0.0, seed=0):
    return np.random.default_rng(seed).normal(level, 1.0, n)


def frozen(level=0.0) -> DeviceReference:
    of = teach(reference(), noise(MEMORY, level))
    assert of.frozen.all()
    return of


def test_a_calm_warm_up_is_frozen_with_its_median_and_spread():
    of = frozen(5.0)
    assert abs(of.center[0] - 5.0) < 0.8
    assert 0.5 < of.spread[0] < 2.0


@pytest.mark.parametrize("seed", range(5))
def test_a_warm_up_that_does_not_agree_with_itself_is_not_frozen(seed):
    """Two levels, a machine that warms up, a random walk, and one that grows louder."""
    rng = np.random.default_rng(seed)
    levels = np.concatenate([noise(8, 0, seed), noise(8, 20, seed + 9)])
    ramp = np.linspace(0, 30, WARMUP) + noise(WARMUP, 0, seed)
    loud = noise(WARMUP, 0, seed) * np.repeat([0.1, 0.1, 0.1, 10], WARMUP // 4)
    pairs = np.repeat([0, 20, 0, 20], WARMUP // 4) + noise(
        WARMUP, 0, seed
    )  # either half looks like the other
    for warmup in (levels, ramp, loud, pairs, 50 * np.cumsum(np.abs(rng.normal(0, 1, WARMUP)))):
        assert not teach(reference(), warmup).frozen.any()


def test_it_is_compared_and_frozen_with_the_last_window_of_the_warm_up():
    of = teach(reference(), [0.0, 1.0] * (WARMUP // 2 - 1) + [0.0])
    assert np.isnan(of.center[0])
    teach(of, [1.0])
    assert of.center[0] == 0.5
    assert of.frozen.all()


def test_what_a_restart_keeps_of_an_unfrozen_reference_are_its_newest_windows():
    whole, again = teach(reference(), np.arange(40) * 9.0), reference()
    again.restore(whole.export())
    teach(again, [360.0])
    assert again.center[0] == 9.0 * np.median(np.arange(40 - WARMUP, 41))
    full, wrapped = teach(reference(), np.arange(100) * 9.0), reference()
    wrapped.restore(full.export())
    teach(wrapped, [900.0])
    assert wrapped.center[0] == 9.0 * np.median(np.arange(100 - WARMUP, 101))


def test_the_smallest_spread_is_a_thousandth_of_what_is_usual_and_fixed_for_ratios():
    profile = Profile.model_validate(
        {
            "name": "x",
            "channels": [{"name": "a", "unit": "V", "min": -50, "max": 150}],
            "sampling": {"rate_hz": 1.0, "window_samples": 8, "hop_samples": 8},
            "features": {"set": "x", "compute": [{"channel": "a", "kinds": ["mean", "crest"]}]},
        }
    )
    np.testing.assert_allclose(smallest_spreads(profile), [0.2, 0.05])


def test_what_is_not_frozen_rolls_on_and_freezes_once_it_agrees():
    of = teach(reference(), np.linspace(0, 300, 40))
    assert not of.frozen.any()
    assert np.isfinite(of.center).all(), "it is compared meanwhile"
    teach(of, noise(2 * MEMORY, 300))
    assert of.frozen.all()
    assert abs(of.center[0] - 300) < 2


def test_a_lasting_fault_never_becomes_usual():
    of = frozen()
    center, spread = of.center.copy(), of.spread.copy()
    teach(of, noise(20 * MEMORY, 50), score=0.95)
    np.testing.assert_array_equal(of.center, center)
    np.testing.assert_array_equal(of.spread, spread)


def test_a_score_of_one_half_is_high():
    of = frozen()
    center = of.center.copy()
    teach(of, center + of.spread, score=0.5)
    np.testing.assert_array_equal(of.center, center)


def test_a_short_warm_up_is_judged_by_two_halves():
    of = reference(memory=8, warmup=8)
    assert teach(of, [0, 1, 0, 1, 1, 0, 1, 0]).frozen.all()
    assert not teach(reference(memory=8, warmup=8), [0, 1, 0, 1, 20, 21, 20, 21]).frozen.any()


def test_before_it_is_frozen_a_fault_is_learnt_eight_times_slower():
    of = teach(reference(), np.linspace(0, 300, 40))
    before = of.center[0]
    teach(of, [900.0] * (HIGH_SHARE - 1), score=0.95)
    assert of.center[0] == before


def test_a_frozen_median_follows_by_one_spread_in_four_memories_at_most():
    of = frozen()
    begin, spread, n = float(of.center[0]), float(of.spread[0]), FOLLOW_MEMORIES * MEMORY
    teach(of, [begin + 2 * spread] * n)
    assert of.center[0] - begin == pytest.approx(spread, rel=1e-3)
    teach(of, noise(4 * n))
    assert abs(of.center[0] - np.median(noise(4 * n))) < spread, "and back, without drifting on noise"


@pytest.mark.parametrize("spreads", [3.5, 5.0, 7.5])
def test_a_step_does_not_enter_however_long_it_lasts_and_whether_it_alarms_or_not(spreads):
    of = frozen()
    center, step = of.center.copy(), of.center[0] + spreads * of.spread[0]
    teach(of, [step] * (20 * FOLLOW_MEMORIES * MEMORY), score=0.4)
    np.testing.assert_array_equal(of.center, center)


def test_a_small_step_on_a_large_offset_is_not_rounded_away():
    of = teach(reference(floor=1e-6), 1e5 + 0.1 * noise(MEMORY))
    begin, spread = float(of.center[0]), float(of.spread[0])  # float32 hides a step of spread / 256
    teach(of, [begin + 2 * spread] * (FOLLOW_MEMORIES * MEMORY))
    assert of.center[0] - begin == pytest.approx(spread, rel=0.2)


def test_slow_wear_is_still_seen_at_its_end():
    """A turbofan: twelve spreads over its life. A rolling reference moved along and never alarmed."""
    of, life = frozen(), 12 * MEMORY
    wear = of.center[0] + of.spread[0] * (np.linspace(0, 12, life) + 0.5 * noise(life, seed=3))
    for value in wear:
        distance = abs(value - of.center[0]) / of.spread[0]
        of.learn(np.float32([value]), 0.9 if distance > 8 else 0.1)
    assert (wear[-1] - of.center[0]) / of.spread[0] > 8


def test_a_dead_channel_is_learnt_when_it_comes_back_and_holds_up_no_other():
    of = reference(width=2)
    for value in noise(MEMORY):
        of.learn(np.float32([value, np.nan]), 0.1)
    assert of.frozen.tolist() == [True, False]
    center = of.center[0]
    for value in noise(3 * MEMORY, 7.0, seed=1):
        of.learn(np.float32([center, value]), 0.1)
    assert of.frozen.all()
    assert abs(of.center[1] - 7.0) < 1
    assert of.center[0] == center


@pytest.mark.parametrize("n", [0, 5, WARMUP, 40, 3 * MEMORY])
def test_an_exported_reference_goes_on_where_it_stopped(n):
    values = np.concatenate([np.linspace(0, 50, 20), noise(200, 50)])
    whole = teach(reference(), values[:n])
    again = reference()
    again.restore(json.loads(json.dumps(whole.export())))
    np.testing.assert_array_equal(again.center, whole.center)
    np.testing.assert_array_equal(again.spread, whole.spread)
    np.testing.assert_array_equal(again.frozen, whole.frozen)
    assert len(json.dumps(whole.export())) < 1000 + 12 * WARMUP


def test_a_damaged_state_or_one_of_other_features_is_refused():
    state = frozen().export()
    for wrong in (
        {**state, "center": state["center"][:-8]},
        {**state, "spread": "!"},
        {**state, "frozen": [True, False]},
        teach(reference(2), np.zeros((MEMORY, 2))).export(),
    ):
        with pytest.raises(ValueError):  # noqa: PT011  (ours, numpy's or base64's)
            reference().restore(wrong)


def test_a_thawed_reference_judges_by_what_it_knew_until_the_new_windows_agree():
    of = frozen()
    of.thaw()
    assert not of.frozen.any()
    center = of.center.copy()
    teach(of, np.linspace(2, 6, WARMUP))
    np.testing.assert_array_equal(of.center, center)
    teach(of, noise(2 * MEMORY, 6))
    assert of.frozen.all()
    assert abs(of.center[0] - 6) < 1


def test_a_copy_shares_nothing():
    first = frozen()
    second = first.copy()
    teach(second, [1.0] * 500)
    assert second.center[0] != first.center[0]
