"""Laws of beats and signal state: against wearers whose beats are known, and of arrays against the graph."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from edge_producer.bundle import load_bundle
from edge_producer.inference import OnnxSession
from edge_producer.sources.scenario import Injection
from infra.verticals.wearable.wearable_factory import features_of, wearer
from model_service.verticals.wearable.beat_detector import MOST_BEATS, RATE_HZ, WINDOW, beats, intervals
from model_service.verticals.wearable.signal_ops import ArrayOps, ranked
from schemas.profile_file import find_profile

PROFILE = find_profile("wearable")
NAMES = list(PROFILE.feature_names)
OUTPUTS = ("score", *PROFILE.model.outputs)
SESSION = OnnxSession(load_bundle(PROFILE))


def at_rest(count: int) -> list[str]:
    """Wearers who do not move in the first 40 s: a movement holds every alarm back."""
    t = np.arange(0.0, 40.0, 0.1)
    names = (f"rest-{k}" for k in range(1000))
    return list(islice((n for n in names if wearer(n, seed=3).wearer.motion_g(t).max() < 0.02), count))


RESTING = at_rest(5)


def samples(name: str, *items: Injection, seconds: float = 40.0) -> np.ndarray:
    return wearer(name, *items, seed=3).block(0, round(seconds * RATE_HZ))


def ends(*seconds: float) -> list[int]:
    return [round(s * RATE_HZ) for s in seconds]


def scores(recorded: np.ndarray, *seconds: float) -> dict[str, np.ndarray]:
    """Score and outputs of the windows that end at these seconds, by the shipped graph."""
    windows = np.stack([recorded[end - WINDOW : end] for end in ends(*seconds)])
    _, *found = SESSION.run_all(windows, {})
    return dict(zip(OUTPUTS, found, strict=True))


def test_beats_are_found_where_they_are_and_nowhere_else():
    sensors = wearer(RESTING[0], seed=3)
    recorded = sensors.block(0, 40 * 250)
    for end in range(WINDOW, len(recorded), WINDOW):
        places = beats(ArrayOps(), recorded[None, end - WINDOW : end, 0].astype(float)).places[0]
        found = np.sort(places[places >= 0]) / RATE_HZ + (end - WINDOW) / RATE_HZ
        there = sensors.wearer.beats(end / RATE_HZ - 8.0 + 0.2, end / RATE_HZ - 0.2).at_s
        there = there[(there > end / RATE_HZ - 7.8) & (there < end / RATE_HZ - 0.2)]
        inside = found[(found > end / RATE_HZ - 7.8) & (found < end / RATE_HZ - 0.2)]
        assert len(inside) == len(there)
        np.testing.assert_allclose(inside, there, atol=0.02)


@pytest.mark.parametrize("gaps", [0.0, 0.1])
def test_arrays_and_graph_give_the_same_features(gaps):
    recorded = samples("w-2", Injection(kind="motion", start_s=14.0, duration_s=3.0, severity=0.4))
    recorded[np.random.default_rng(1).random(recorded.shape) < gaps] = np.nan
    at = (10.0, 13.0, 17.0, 26.0, 39.0)
    windows = np.stack([recorded[end - WINDOW : end] for end in ends(*at)])
    by_graph, *_ = SESSION.run_all(windows, {})
    np.testing.assert_allclose(by_graph, features_of(PROFILE, recorded, ends(*at)), rtol=1e-3, atol=1e-3)


def test_the_graph_does_not_care_about_the_rest_of_a_batch():
    recorded = samples("w-2")
    windows = np.stack([recorded[end - WINDOW : end] for end in ends(10.0, 20.0, 30.0)])
    together = SESSION.run_all(windows, {})[0]
    alone = [SESSION.run_all(window[None], {})[0][0] for window in windows]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_a_gain_moves_height_and_spread_and_no_feature_of_rhythm():
    recorded = samples(RESTING[1])
    half = recorded * np.array([0.5, 1.0, 1.0], dtype=np.float32)
    before, after = (features_of(PROFILE, r, ends(20.0)).ravel() for r in (recorded, half))
    level = [NAMES.index(n) for n in ("ecg_std", "ecg_peak", "ecg_line_activity", "ecg_mains_amplitude")]
    np.testing.assert_allclose(after[level], 0.5 * before[level], rtol=1e-4)
    others = [k for k in range(len(NAMES)) if k not in level]
    np.testing.assert_allclose(after[others], before[others], atol=0.01)


@pytest.mark.parametrize("name", RESTING[:4])
def test_a_racing_heart_alarms_within_two_beats_and_not_before(name):
    onset = Injection(kind="tachycardia", start_s=20.0)
    sensors = wearer(name, onset, seed=3)
    recorded = sensors.block(0, 24 * 250)
    # What was due still comes; the second short interval ends with the third beat after the onset.
    at = sensors.wearer.beats(20.0, 23.5).at_s
    at = at[at >= 20.0]
    before = scores(recorded, *np.arange(12.0, 20.0, 0.4))["score"]
    assert (before < PROFILE.decision.alarm).all()
    due = at[2] + 0.15 + PROFILE.sampling.hop_s
    found = scores(recorded, *np.arange(20.2, due + 0.01, 0.2))["score"]
    assert (found >= PROFILE.decision.alarm).any()


@pytest.mark.parametrize("severity", [0.3, 0.6, 1.0])
def test_a_lost_electrode_is_no_asystole(severity):
    lost = scores(
        samples(RESTING[2], Injection(kind="lost_electrode", start_s=20.0, severity=severity)), 23.0, 27.0
    )
    assert (lost["lost_electrode"] > 0.6).all()
    assert (lost["asystole"] < 0.1).all()
    assert (lost["score"] < PROFILE.decision.alarm).all()


def test_an_asystole_is_no_lost_electrode_and_comes_within_two_intervals_of_the_beat_that_was_due():
    sensors = wearer(RESTING[3], Injection(kind="asystole", start_s=20.0), seed=3)
    recorded = sensors.block(0, 40 * 250)
    last = sensors.wearer.beats(10.0, 20.0).at_s
    last = last[last < 20.0]
    due, usual = last[-1] + np.median(np.diff(last)), np.median(np.diff(last))
    found = scores(recorded, due, due + 2 * usual + 0.2, 26.0)
    assert found["asystole"][0] < 0.1
    assert (found["asystole"][1:] > 0.6).all()
    assert (found["lost_electrode"] < 0.1).all()


def test_a_pulse_at_the_wrist_tells_a_silent_electrode_from_an_asystole():
    recorded = samples(RESTING[4], Injection(kind="asystole", start_s=20.0))
    recorded[:, 1] = samples(RESTING[4])[:, 1]
    found = scores(recorded, 24.0)
    assert found["lost_electrode"][0] > 0.6 > found["asystole"][0]


def test_motion_raises_no_alarm_and_says_that_nothing_can_be_seen():
    for severity in (0.4, 1.0, 2.0):
        moving = samples(
            RESTING[0], Injection(kind="motion", start_s=15.0, duration_s=8.0, severity=severity)
        )
        found = scores(moving, *np.arange(15.0, 36.0, 0.6))
        for name in ("score", "asystole", "lost_electrode"):
            assert (found[name] < 0.6).all(), (severity, name, found[name].max())
        assert found["quality"][5] > 0.5 or severity < 1.0
        assert found["quality"][-1] < 0.1


def test_the_first_second_of_a_movement_is_no_race():
    """Its spikes look like fast beats before the signal's quality shows that the wearer moves."""
    push = Injection(kind="motion", start_s=15.0, duration_s=2.0, severity=0.35)
    recorded = wearer("judge-0", push, seed=424242).block(0, 20 * 250)
    found = scores(recorded, *np.arange(15.2, 19.0, 0.2))
    assert found["score"].max() < 0.4
    still = recorded.copy()
    still[:, 2] = 1.0  # as if no sensor had seen it
    assert scores(still, *np.arange(15.2, 19.0, 0.2))["score"].max() > PROFILE.decision.alarm


def irregularity(*lengths_s: float) -> float:
    """Of a window whose beats are so far apart, the oldest first."""
    at = np.concatenate([[30.0], 30.0 + np.cumsum(lengths_s) * RATE_HZ])
    places = np.full((1, MOST_BEATS), -1.0)
    places[0, : len(at)] = np.round(at)[::-1]
    return float(intervals(ArrayOps(), places).irregularity[0, 0])


@pytest.mark.parametrize("pause", [1.0, 1.15, 1.3])
@pytest.mark.parametrize("usual_between", [2, 3, 4])
def test_premature_beats_do_not_make_a_rhythm_irregular_however_often_they_come(usual_between, pause):
    steps = [*(0.62, pause), *(0.8 + 0.01 * (k % 2) for k in range(usual_between))] * 5
    for newest in range(7, 12):  # wherever the window ends, also right after a premature beat
        assert irregularity(*steps[newest - 7 : newest + 2]) < 0.03


def test_breathing_is_regular_and_fibrillation_is_not():
    breath = 0.85 + 0.08 * np.sin(2 * np.pi * np.arange(9) / 5.0)
    assert irregularity(*breath) < 0.12
    rng = np.random.default_rng(1)
    fibrillating = [irregularity(*rng.gamma(25.0, 0.7 / 25, 10)) for _ in range(200)]
    assert np.mean(np.array(fibrillating) > 0.18) > 0.15  # of single windows; one of the next shows it
    assert irregularity(0.6, 0.9, 0.6) == 0.0  # too few to say


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 3.0), (0.75, 2.0), (0.0, 4.0), (1.0, 1.0)])
def test_ranked_takes_the_value_that_a_share_of_the_others_exceeds(share, wanted):
    values = np.array([[3.0, 1.0, 9.0, 4.0, 2.0]])
    valid = np.array([[1.0, 1.0, 0.0, 1.0, 1.0]])
    assert ranked(ArrayOps(), values, valid, 5, share)[0, 0] == wanted
