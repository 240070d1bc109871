"""What a verdict says and on what it rests, on windows given as moments; and what a judge keeps."""

import json
import math
from datetime import timedelta

import pytest

from schemas.instants import from_us
from stream_processors.drift.cohort_judge import ANY_MODEL, SCORE, CohortJudge
from stream_processors.windowing.moments import Moments
from stream_processors.windowing.partials import TaskShare
from stream_processors.windowing.windows import CohortScope, TumblingWindow
from tests.stream_processors.drift_evaluation import START_US, WINDOW_US, profile_with

WARMUP, COOLDOWN = 4, 6
SCOPE = CohortScope("machine", "machine/s/g/h")
SEP = "\x1f"


def share(mean, devices=20, n=100, sd=1.0, reach=2.5):
    return TaskShare(Moments(n, mean, (n - 1) * sd**2, mean - reach, mean + reach), devices)


class Judged:
    """A judge whose state goes through JSON after each window, as a task keeps it."""

    def __init__(self, **policy) -> None:
        self.profile = profile_with(**{"warmup_windows": WARMUP, "cooldown_windows": COOLDOWN, **policy})
        self.state: dict = {}

    def window(self, number, shares):
        """Verdicts on a window; shares by feature, or by model and feature."""
        judge = CohortJudge(SCOPE, self.profile, self.state)
        keyed = {k if isinstance(k, tuple) else ("m@1", k): s for k, s in shares.items()}
        found = judge.window(TumblingWindow(START_US + number * WINDOW_US, WINDOW_US), keyed)
        self.state = {
            k: v for k, v in (self.state | json.loads(json.dumps(judge.changed))).items() if v is not None
        }
        return found

    def run(self, windows):
        """Verdicts with the window in which they were given."""
        return [v | {"at": n} for n, shares in windows for v in self.window(n, shares)]


def wobble(number):
    return 50.0 + (0.1 if number % 2 else -0.1)


def stepped(features=("temperature_mean",), size=5.0, step_at=10, windows=14, still=("current_mean",)):
    """Windows of features that step, and of others that do not."""
    for n in range(windows):
        moved = size if n >= step_at else 0.0
        yield n, {**{f: share(wobble(n) + moved) for f in features}, **{f: share(wobble(n)) for f in still}}


def test_a_verdict_carries_the_numbers_it_rests_on():
    [verdict] = Judged().run(stepped())
    number = verdict["at"]
    assert verdict["onset"] == from_us(START_US + 10 * WINDOW_US)
    assert verdict["detected"] == from_us(START_US + (number + 1) * WINDOW_US)
    assert (verdict["cohort"], verdict["profile"], verdict["model_version"]) == (
        SCOPE.cohort,
        "machine",
        "m@1",
    )
    assert (verdict["feature"], verdict["statistic"], verdict["devices"]) == ("temperature_mean", "level", 20)
    evidence = verdict["evidence"]
    assert evidence["windows_since_onset"] == number - 10 + 1
    assert (evidence["n"], evidence["window_mean"]) == (100, pytest.approx(wobble(number) + 5))
    assert evidence["window_std"] == pytest.approx(1.0)
    assert (evidence["features_moved"], evidence["channels_moved"], evidence["scaled_share"]) == (1, 1, 1)
    assert evidence["baseline_level"] == pytest.approx(50.0)
    assert verdict["size"] * evidence["baseline_unit"] == pytest.approx(5.0, abs=0.3)
    assert (evidence["baseline_devices"], evidence["missing_tasks"]) == (20, 0)
    assert (evidence["abrupt"], evidence["moved_share"]) == (1.0, 1.0)
    assert all(math.isfinite(v) for v in evidence.values())


def test_a_step_found_late_counts_its_windows_from_its_onset():
    judge = Judged(min_effect=3.0)
    windows = [(n, s) for n, s in stepped() if n < 10]
    gap = [(n, {"temperature_mean": share(55.0)}) for n in (14, 15, 16, 17)]
    [verdict] = judge.run(windows + gap)
    assert verdict["onset"] == from_us(START_US + 14 * WINDOW_US)
    assert verdict["evidence"]["windows_since_onset"] == verdict["at"] - 14 + 1


def test_features_of_several_channels_that_moved_are_counted_in_each_verdict():
    verdicts = Judged().run(
        stepped(("temperature_mean", "current_mean", "current_std"), still=("vibration_rms",))
    )
    assert {v["kind"] for v in verdicts} == {"covariate"}
    assert {(v["evidence"]["features_moved"], v["evidence"]["channels_moved"]) for v in verdicts} == {(3, 2)}


def outlier(number):
    """A window in which one device of twenty lies 30 away from window 10 on."""
    far = number >= 10
    moments = Moments(100, wobble(number) + 1.5 * far, 99 * (1 + 44 * far), 47.0, 52.0 + 30 * far)
    return {"temperature_mean": TaskShare(moments, 20)}


def test_the_share_that_moved_tells_a_single_device():
    verdicts = Judged().run((n, outlier(n)) for n in range(13))
    assert {v["kind"] for v in verdicts} == {"single_device_fault"}
    for verdict in verdicts:
        assert verdict["evidence"]["moved_share"] == pytest.approx(1.5**2 / (1.5**2 + 44), abs=0.01)


def few_windows(growth):
    """Few windows that resemble each other, then a mean that moves by four units between devices.

    Args:
        growth: Of the variance: says what share of the cohort moved. Windows of two rows have no spread to
            watch, so the level is judged alone.
    """
    unit = 1.1 / math.sqrt(20)
    for n, off in enumerate((0.0, 0.3, 0.6, 0.9, 4.2, 4.4, 4.3)):
        mean, after = 50.0 + off * unit, n >= 4
        moments = Moments(2, mean, 1.0 + growth * after, mean - 2.5, mean + (50.0 if after else 2.5))
        yield n, {"temperature_mean": TaskShare(moments, 20)}


def test_after_few_windows_one_whole_device_is_told_and_no_part_of_one():
    def verdicts(growth):
        return Judged(min_effect=3.0, delta=0.2).run(few_windows(growth))

    [verdict] = verdicts(20.0)
    assert (verdict["kind"], verdict["statistic"]) == ("single_device_fault", "level")
    assert verdict["evidence"]["moved_share"] * 20 == pytest.approx(0.9, abs=0.05)
    assert verdicts(30.0), "0.61 of a device"
    assert verdicts(35.0) == [], "half a device"
    assert verdicts(5.0) == [], "three devices"


def test_features_with_other_devices_than_their_baseline_are_counted_window_by_window():
    profile = profile_with(warmup_windows=WARMUP, cooldown_windows=COOLDOWN)
    judge = CohortJudge(SCOPE, profile, {})
    for n, lacking in enumerate([0] * (WARMUP + 1) + [1, 2, 0, 2]):
        features = ("temperature_mean", "current_mean", "vibration_rms")
        shares = {("m@1", f): share(wobble(n), 10 if i < lacking else 20) for i, f in enumerate(features)}
        judge.window(TumblingWindow(START_US + n * WINDOW_US, WINDOW_US), shares)
        assert judge.not_compared == lacking


def test_what_one_device_did_is_no_onset_for_later_verdicts():
    judge = Judged()
    assert judge.run((n, outlier(n)) for n in range(13))
    watch = judge.state[SEP.join(("watch", ANY_MODEL, "temperature_mean"))]
    assert watch["onset"] is None
    assert watch["silent"] > 0
    other = Judged()
    assert other.run(stepped())
    watch = other.state[SEP.join(("watch", ANY_MODEL, "temperature_mean"))]
    assert watch["onset"] == START_US // WINDOW_US + 10


def test_verdicts_name_the_version_that_most_windows_ran():
    def both(n, old, new):
        moved = 5.0 if n >= 10 else 0.0
        return {("m@1", "temperature_mean"): share(wobble(n) + moved, n=old),
                ("m@2", "temperature_mean"): share(wobble(n) + moved, n=new)}  # fmt: skip

    for old, new, named in ((90, 10, "m@1"), (10, 90, "m@2"), (50, 50, "m@1")):
        verdicts = Judged().run((n, both(n, old, new)) for n in range(13))
        assert {v["model_version"] for v in verdicts} == {named}
        assert len(verdicts) == 1


def test_a_shadow_sends_scores_only_and_is_never_in_force():
    def windows():
        for n in range(13):
            step = 5.0 if n >= 10 else 0.0
            yield (
                n,
                {
                    ("m@1", "temperature_mean"): share(wobble(n) + step, n=50),
                    ("shadow@2", SCORE): share(wobble(n), n=900),
                },
            )

    assert {v["model_version"] for v in Judged().run(windows())} == {"m@1"}


def test_a_score_is_judged_under_the_model_that_gave_it_and_ends_with_it():
    def scores(model, first, step_at):
        return [
            (n, {(model, SCORE): share(wobble(n) + (5.0 if n >= step_at else 0.0))})
            for n in range(first, first + 13)
        ]

    judge = Judged()
    [verdict] = judge.run(scores("m@1", 0, 10))
    assert (verdict["model_version"], verdict["feature"]) == ("m@1", SCORE)
    assert Judged().run(scores("m@1", 0, 99) + scores("m@2", 13, 13)) == []


def test_a_rollout_changes_no_features_baseline():
    rolled = [
        (n, {(f"m@{1 if n < 8 else 2}", "temperature_mean"): share(wobble(n) + (5.0 if n >= 10 else 0))})
        for n in range(13)
    ]
    [verdict] = Judged().run(rolled)
    assert (verdict["model_version"], verdict["onset"]) == ("m@2", from_us(START_US + 10 * WINDOW_US))


@pytest.mark.parametrize(
    ("devices", "n", "counted"),
    [
        ((20, 0), 100, 20),
        ((20, 20), 100, 20),  # 5 windows a device: twenty at most
        ((20, 20), 101, 21),
        ((12, 20), 400, 32),
        ((20, 3), 5, 20),  # the larger share's own devices at least
    ],
)
def test_devices_of_two_models_are_counted_once_where_windows_allow_no_more(devices, n, counted):
    def windows(step):
        for k in range(13):
            moved = step if k >= 10 else 0.0
            first, second = (share(wobble(k) + moved, d, n // 2 + (n % 2) * i) for i, d in enumerate(devices))
            shares = {("m@1", "temperature_mean"): first}
            yield k, shares | ({("m@2", "temperature_mean"): second} if devices[1] else {})

    if not devices[1]:
        n *= 2
    verdicts = Judged().run(windows(9.0))
    assert {v["devices"] for v in verdicts} == {counted}


def test_one_channels_features_share_the_onset_of_the_largest_shift_whichever_way_it_went():
    def windows():
        for n in range(14):
            early, late = (n >= 10), (n >= 11)
            yield (
                n,
                {
                    "vibration_rms": share(wobble(n) + 30.0 * late),
                    "vibration_peak": share(wobble(n) - 90.0 * late - 2.0 * early),
                    "current_mean": share(wobble(n)),
                },
            )

    verdicts = Judged().run(windows())
    assert {v["feature"] for v in verdicts} >= {"vibration_rms", "vibration_peak"}
    onsets = {v["feature"]: v["onset"] for v in verdicts}
    assert onsets["vibration_rms"] == onsets["vibration_peak"]


def test_only_watched_features_are_kept():
    judge = Judged(features=("current_mean",))
    judge.run(stepped())
    assert {key.split(SEP)[2] for key in judge.state} == {"current_mean"}


@pytest.mark.parametrize(("silent_for", "kept"), [(2048, True), (2049, False)])
def test_a_watch_is_dropped_with_its_phases_once_nothing_came_for_it_for_long(silent_for, kept):
    judge = Judged(seasonal_s=20 * 5.0)
    judge.window(0, {"temperature_mean": share(50.0), "current_mean": share(50.0)})
    judge.window(silent_for, {"current_mean": share(50.0)})
    left = {(key.split(SEP)[0], key.split(SEP)[2]) for key in judge.state}
    assert (("watch", "temperature_mean") in left) is kept
    assert (("phase", "temperature_mean") in left) is kept
    assert {("watch", "current_mean"), ("phase", "current_mean")} <= left


def phases(judge, statistic="level"):
    """What is expected at each phase of the season: number of the phase to (seasons, level)."""
    return {
        int(key.split(SEP)[4]): tuple(value)
        for key, value in judge.state.items()
        if key.startswith("phase") and key.split(SEP)[3] == statistic
    }


SEASON = 4


def seasonal(**policy):
    return Judged(seasonal_s=SEASON * 5.0, **policy)


def first_phase():
    return START_US // WINDOW_US % SEASON


def season_of(number, low=50.0, high=80.0):
    return high if (first_phase() + number) % SEASON == 1 else low


def test_each_phase_of_a_season_is_learnt_by_itself_and_nothing_is_judged_in_the_first():
    judge = seasonal()
    for n in range(SEASON):
        assert judge.window(n, {"temperature_mean": share(season_of(n))}) == []
    assert phases(judge) == {k: (1, 80.0 if k == 1 else 50.0) for k in range(SEASON)}
    watch = judge.state[SEP.join(("watch", ANY_MODEL, "temperature_mean"))]
    assert watch["series"]["level"]["warm"] == []
    judge.window(SEASON, {"temperature_mean": share(season_of(SEASON) + 1.0)})
    watch = judge.state[SEP.join(("watch", ANY_MODEL, "temperature_mean"))]
    assert [r[0] for r in watch["series"]["level"]["warm"]] == [1.0]


def warmed(moved=0.0):
    """A judge with a baseline of residuals around ``moved``, whose unit is ``unit``."""
    judge = seasonal()
    for n in range(2 * SEASON):
        later = moved * (n >= SEASON)
        judge.window(n, {"temperature_mean": share(season_of(n) + later + (wobble(n) - 50.0))})
    series = judge.state[SEP.join(("watch", ANY_MODEL, "temperature_mean"))]["series"]["level"]
    return judge, series["base"]


@pytest.mark.parametrize("moved", [0.0, 7.0, -7.0])
def test_an_expectation_waits_for_a_baseline_and_follows_an_outlier_by_two_units_at_most(moved):
    judge, (level, unit, *_) = warmed(moved)
    assert level == pytest.approx(moved, abs=0.21)
    before = phases(judge)
    assert {seasons for seasons, _ in before.values()} == {1}, (
        "while the baseline was made nothing was learnt"
    )
    n = 2 * SEASON
    phase = (first_phase() + n) % SEASON
    for off, expected in ((1e3, 2 * unit), (-1e3, -2 * unit), (unit, unit)):
        other, _ = warmed(moved)
        other.window(n, {"temperature_mean": share(before[phase][1] + level + off)})
        assert phases(other)[phase] == (2, pytest.approx(before[phase][1] + expected / 2))


def test_a_constant_channel_has_a_season_of_its_level_alone():
    judge = seasonal()
    for n in range(3 * SEASON):
        assert judge.window(n, {"temperature_mean": share(season_of(n), sd=0.0, reach=0.0)}) == []
    assert set(phases(judge)) == set(range(SEASON))
    assert phases(judge, "spread") == {}


def test_a_phase_first_met_after_the_baseline_is_expected_around_its_level():
    judge = seasonal()
    numbers = [n for n in range(3 * SEASON) if (first_phase() + n) % SEASON != 2]
    for n in numbers:
        judge.window(n, {"temperature_mean": share(season_of(n) + 7.0 * (n >= SEASON))})
    level = judge.state[SEP.join(("watch", ANY_MODEL, "temperature_mean"))]["series"]["level"]["base"][0]
    assert level == pytest.approx(7.0)
    missed = next(n for n in range(3 * SEASON, 4 * SEASON) if (first_phase() + n) % SEASON == 2)
    judge.window(missed, {"temperature_mean": share(57.0)})
    assert phases(judge)[2] == (1, pytest.approx(50.0))


def test_a_seasons_baseline_is_of_residuals_and_says_nothing_of_the_share_that_moved():
    judge = seasonal()
    windows = [
        (n, {"temperature_mean": share(season_of(n) + (wobble(n) - 50) + 9.0 * (n >= 16))}) for n in range(20)
    ]
    verdicts = judge.run(windows)
    assert verdicts
    assert {v["evidence"]["moved_share"] for v in verdicts} == {1.0}
    assert verdicts[0]["onset"] == from_us(START_US + 16 * WINDOW_US)
    assert verdicts[0]["detected"] - verdicts[0]["onset"] >= timedelta(microseconds=WINDOW_US)


@pytest.mark.parametrize("hop_samples", [1, 2, 5])
def test_windows_that_come_more_often_leave_fewer_devices_behind_as_many_of_them(hop_samples):
    """Of 100 windows in 5 s a device sends one a hop: how many devices that can be bounds the sum of two."""
    judge = Judged()
    sampling = judge.profile.sampling.model_copy(update={"rate_hz": 1.25, "hop_samples": hop_samples})
    judge.profile = judge.profile.model_copy(update={"sampling": sampling})
    full = 5.0 / sampling.hop_s
    verdicts = judge.run(
        (k, {(f"m@{m}", "temperature_mean"): share(wobble(k) + 9.0 * (k >= 10), 20, 50) for m in (1, 2)})
        for k in range(13)
    )
    assert {v["devices"] for v in verdicts} == {min(40, max(20, math.ceil(100 / max(full, 1.0))))}
