"""What the watch finds and what it leaves alone, beside always-fire and never-fire."""

import numpy as np
import pytest

from schemas.profile import Profile
from stream_processors.drift.cohort_judge import CohortJudge
from stream_processors.windowing.moments import Moments
from stream_processors.windowing.partials import TaskShare
from stream_processors.windowing.windows import CohortScope, TumblingWindow
from tests.stream_processors.drift_evaluation import (
    START_US,
    WINDOW_US,
    always,
    never,
    profile_with,
    score,
    stream,
    watch,
)

DEVICES = 20


def judged(windows: list[dict[str, np.ndarray]], profile: Profile | None = None) -> list[dict]:
    """Verdicts over windows; each gives the values of each feature, shape (devices, values)."""
    judge = CohortJudge(CohortScope("machine", "machine/s/g/h"), profile or profile_with(), {})
    verdicts = []
    for i, features in enumerate(windows):
        shares = {("m@1", name): share_of(v) for name, v in features.items()}
        verdicts += [
            v | {"at": i} for v in judge.window(TumblingWindow(START_US + i * WINDOW_US, WINDOW_US), shares)
        ]
    return verdicts


def share_of(values: np.ndarray) -> TaskShare:
    v = values.ravel()
    m2 = float(((v - v.mean()) ** 2).sum())
    return TaskShare(Moments(v.size, float(v.mean()), m2, float(v.min()), float(v.max())), len(values))


def fleet(seed: int, windows: int, features=("temperature_mean", "current_mean", "vibration_rms")):
    """Healthy windows: 20 devices, each at its own level."""
    rng = np.random.default_rng(seed)
    levels = {f: 50 + rng.normal(0, 1, (DEVICES, 1)) for f in features}
    return [{f: levels[f] + rng.normal(0, 0.5, (DEVICES, 5)) for f in features} for _ in range(windows)]


def onset_window(verdict: dict) -> float:
    return (verdict["onset"].timestamp() * 1e6 - START_US) / WINDOW_US


@pytest.mark.parametrize(("detector", "within"), [("page_hinkley", 2), ("adwin", 12)])
def test_a_clear_step_is_found_within_few_windows(detector, within):
    for seed in range(5):
        windows = fleet(seed, 30)
        for w in windows[15:]:
            w["temperature_mean"] += 3
        [verdict] = judged(windows, profile_with(detector=detector))
        assert verdict["at"] < 15 + within
        assert onset_window(verdict) == 15
        assert (verdict["kind"], verdict["statistic"]) == ("sensor_recalibration", "level")


def test_a_window_hit_in_its_middle_dates_the_change():
    windows = fleet(1, 30)
    windows[15]["temperature_mean"] += np.array([0, 0, 0, 3, 3])
    for w in windows[16:]:
        w["temperature_mean"] += 3
    [verdict] = judged(windows)
    assert onset_window(verdict) == 15
    assert verdict["kind"] == "sensor_recalibration"


def test_one_outlying_window_is_no_drift():
    windows = fleet(2, 40)
    windows[20]["temperature_mean"] += 10
    assert judged(windows) == []


def test_a_spread_that_grows_everywhere_is_found_and_blamed_on_no_single_device():
    windows = fleet(3, 40)
    for w in windows[20:]:
        w["current_mean"] = 50 + 5 * (w["current_mean"] - 50)
    kinds = {(v["feature"], v["statistic"]): v["kind"] for v in judged(windows)}
    assert kinds[("current_mean", "spread")] != "single_device_fault"


def test_one_failing_device_is_told_from_a_drift_of_the_cohort():
    windows = fleet(4, 40)
    for w in windows[20:]:
        w["vibration_rms"][3] += 30
    verdicts = judged(windows)
    assert verdicts
    assert {v["kind"] for v in verdicts} == {"single_device_fault"}


def test_a_shift_of_several_channels_is_a_regime():
    windows = fleet(5, 40)
    for w in windows[20:]:
        for feature in w:
            w[feature] += 3
    assert {v["kind"] for v in judged(windows)} == {"covariate"}


def test_wear_that_grows_is_degradation():
    windows = fleet(6, 60)
    for i, w in enumerate(windows[20:]):
        w["vibration_rms"] += 0.08 * i
    verdicts = judged(windows)
    assert verdicts[0]["kind"] == "degradation"


def test_no_gain_moves_a_crest_factor_so_that_is_no_recalibration():
    windows = fleet(7, 40, ("vibration_rms", "vibration_crest", "current_mean"))
    for w in windows[20:]:
        w["vibration_rms"] += 3
        w["vibration_crest"] += 3
    assert {v["kind"] for v in judged(windows)} == {"unclassified"}


def test_features_of_one_channel_that_move_together_share_the_onset_of_the_clearest():
    windows = fleet(11, 40, ("vibration_rms", "vibration_peak", "vibration_band_low", "current_mean"))
    windows[20]["vibration_peak"] += 0.5  # this one shows a window earlier than its weaker siblings
    for w in windows[21:]:
        for feature, size in (("vibration_rms", 1.0), ("vibration_peak", 1.2), ("vibration_band_low", 1.0)):
            w[feature] += size
    verdicts = judged(windows)
    assert [v["feature"] for v in verdicts] == ["vibration_band_low", "vibration_peak", "vibration_rms"]
    assert [onset_window(v) for v in verdicts] == [20, 20, 20]
    assert len({v["at"] for v in verdicts}) == 1


def test_a_part_of_the_fleet_offline_is_no_drift():
    for seed in range(5):
        windows = fleet(seed, 40)
        for w in windows[20:30]:
            for feature in w:
                order = np.argsort(w[feature].mean(axis=1))
                w[feature] = w[feature][order[:12]]  # those that stay are the low ones: the worst case
        assert judged(windows) == []


def test_after_a_verdict_the_feature_is_silent_and_the_new_level_is_normal():
    windows = fleet(9, 80)
    for w in windows[20:]:
        w["temperature_mean"] += 5
    assert len(judged(windows)) == 1


def test_a_step_in_the_cool_down_is_told_when_it_ends():
    windows = fleet(10, 60)
    for i, w in enumerate(windows):
        w["temperature_mean"] += 5 * (i >= 20) + 5 * (i >= 32)
    first, second = judged(windows, profile_with(cooldown_windows=20))
    assert second["at"] >= first["at"] + 20
    assert onset_window(second) == 32


def test_a_second_step_after_the_cool_down_is_found():
    windows = fleet(10, 80)
    for i, w in enumerate(windows):
        w["temperature_mean"] += 5 * (i >= 20) + 5 * (i >= 50)
    assert [onset_window(v) for v in judged(windows)] == [20, 50]


def test_a_season_is_no_drift_and_a_step_on_top_of_it_is():
    def with_season(seed):
        windows = fleet(seed, 120, ("temperature_mean",))
        for i, w in enumerate(windows):
            w["temperature_mean"] += 5 * (i % 20 >= 10)  # a day shift and a night shift
        return windows

    seasonal = profile_with(seasonal_s=20 * 5.0)
    assert judged(with_season(11), seasonal) == []
    assert judged(with_season(11)), "without the season in the policy the same data look like drift"
    windows = with_season(11)
    for w in windows[80:]:
        w["temperature_mean"] += 5
    [verdict] = judged(windows, seasonal)
    assert onset_window(verdict) == 80


def test_only_the_profiles_features_are_watched():
    windows = fleet(12, 40)
    for w in windows[20:]:
        for feature in w:
            w[feature] += 3
    verdicts = judged(windows, profile_with(features=("current_mean",)))
    assert {v["feature"] for v in verdicts} == {"current_mean"}


def test_a_constant_channel_is_watched_without_dividing_by_its_spread():
    windows = [{"current_mean": np.full((DEVICES, 5), 4.0)} for _ in range(40)]
    assert judged(windows) == []
    for w in windows[20:]:
        w["current_mean"] += 1
    assert [v["statistic"] for v in judged(windows)] == ["level"]


def test_healthy_wandering_cohorts_rarely_give_a_verdict():
    """A slice: `python -m benchmarks.drift` counts over many more."""
    easy = [stream(seed, 120, phi=0.7) for seed in range(2)]
    hard = [stream(seed, 120, phi=0.9, common=0.3) for seed in range(6)]
    assert score(watch(), [*easy, *hard], grace=8).false == 0


def test_the_watch_beats_always_fire_and_never_fire():
    streams = [stream(seed, 180, phi=0.5, size=10.0, every=60) for seed in range(4)]
    ours, eager, mute = (score(f, streams, grace=8) for f in (watch(), always, never))
    assert ours.recall >= 0.85
    assert ours.delay <= 2
    assert ours.false <= 10
    assert (eager.recall, mute.recall, mute.false) == (1.0, 0.0, 0.0)
    assert eager.false > 100 * max(ours.false, 1.0)
