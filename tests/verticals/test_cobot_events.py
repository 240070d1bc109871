"""Events of a slow robot: what meets what, and labelled trees that an import takes; made-up windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.detection.cobot_events import read_cobot, without_outputs, without_temperatures
from benchmarks.detection.event_score import (
    alarms_of,
    best_always,
    block_counts,
    f1_interval,
    met,
    spans_of,
)
from model_service import imported_model
from model_service.detectors.imported_score import ImportedScore
from model_service.verticals.robot_slow.labelled_trees import bent, fit_labelled_trees
from schemas.profile_file import builtin_profiles, find_profile, parse_profile

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "ur3_cobotops" / "dataset_02052023.csv"
SECONDS = np.arange(600.0)


def labelled(*spans: tuple[int, int]) -> np.ndarray:
    flags = np.zeros(len(SECONDS), dtype=bool)
    for first, last in spans:
        flags[first : last + 1] = True
    return flags


def test_rows_near_each_other_are_one_event_and_each_alarm_counts_once():
    truth = labelled((100, 101), (106, 106), (200, 203), (300, 340))
    spans = spans_of(SECONDS, truth)
    assert spans.tolist() == [[100, 106], [200, 203], [300, 340]]
    found = met(spans, np.array([98.0, 104.0, 206.0, 299.0, 335.0, 500.0]))
    assert found.delay[[0, 2]].tolist() == [-2, -1]
    assert np.isnan(found.delay[1]), "six seconds after the onset is too late"
    assert found.false.tolist() == [206, 500]
    assert found.counts == (2, 2, 1)
    assert found.f1 == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))


def test_an_alarm_of_another_kinds_event_is_not_false_and_finds_nothing():
    own, others = np.array([[100.0, 103.0]]), np.array([[102.0, 110.0], [300.0, 300.0]])
    found = met(own, np.array([101.0, 109.0, 301.0, 500.0]), others)
    assert (found.counts, found.false.tolist()) == ((1, 1, 0), [500.0])
    assert met(own, np.array([301.0]), others).counts == (0, 0, 1)


def test_who_alarms_always_pays_for_it_and_nobody_alarms_better_by_never_ending():
    spans = spans_of(SECONDS, labelled((100, 102), (400, 404)))
    every = np.ones(len(SECONDS), dtype=bool)
    steady = met(spans, alarms_of(SECONDS, every))
    period, best = best_always(SECONDS, spans)
    assert steady.f1 <= best.f1 < 0.5
    assert met(spans, alarms_of(SECONDS, every, period)).f1 == best.f1
    assert met(spans, alarms_of(SECONDS, spans_flags(spans))).f1 == 1.0


def spans_flags(spans: np.ndarray) -> np.ndarray:
    return np.logical_or.reduce([(first <= SECONDS) & (last >= SECONDS) for first, last in spans])


def test_blocks_add_up_and_intervals_hold_the_figure_and_its_difference():
    rng = np.random.default_rng(3)
    truth = labelled(*[(at, at + 2) for at in range(20, 590, 30)])
    spans = spans_of(SECONDS, truth)
    good = met(spans, spans[rng.random(len(spans)) < 0.8, 0])
    poor = met(spans, alarms_of(SECONDS, np.ones(len(SECONDS), dtype=bool)))
    ours, theirs = (block_counts(found, 0.0, 599.0, 60.0) for found in (good, poor))
    assert tuple(ours.sum(axis=0)) == good.counts
    assert tuple(theirs.sum(axis=0)) == poor.counts
    low, high = f1_interval(ours)
    assert low < good.f1 < high
    least, most = f1_interval(ours, theirs)
    assert 0 < least < good.f1 - poor.f1 < most
    assert f1_interval(ours, ours) == (0.0, 0.0)


def made_up(n: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Windows of the profile in which one current tells one kind, and stillness with another the other."""
    profile, rng = find_profile("robot_slow"), np.random.default_rng(4)
    windows = rng.normal(0.0, 0.3, (n, 8, len(profile.channels)))
    grip, stop = (np.arange(n) % 40 < 4), (np.arange(n) % 40 >= 36)
    windows[grip, :, profile.channel_names.index("current_1")] += 2.0
    windows[stop, :, profile.channel_names.index("current_2")] -= 2.0
    return windows, {"grip_lost": grip, "protective_stop": stop}


@pytest.mark.long
def test_an_import_takes_the_trees_and_scores_as_they_were_fitted():
    profile = find_profile("robot_slow")
    windows, labels = made_up(480)
    names = profile.channel_names
    judged = [n for n in names if not n.startswith("temperature")]
    moving = [n for n in names if n.startswith("speed")]
    found = fit_labelled_trees(windows, labels, names, judged, moving)
    again = fit_labelled_trees(windows, labels, names, judged, moving)
    assert found.data == again.data
    graph = imported_model.check_import(found.data, profile, "")
    assert (graph.reads, graph.further) == ("window", ("score_grip_lost", "score_protective_stop"))
    scores = ImportedScore(graph, profile).all_of_windows(windows, np.arange(len(windows)) * 10**6)
    assert scores[:, 0] == pytest.approx(scores[:, 1:].max(axis=1))
    for column, kind in enumerate(labels, start=1):
        assert ((scores[:, column] >= 0.5) == labels[kind]).mean() > 0.99
        assert ((found.unseen[kind] >= 0.5) == labels[kind]).mean() > 0.97
    hot = windows.copy()
    hot[:, :, [at for at, n in enumerate(names) if n.startswith("temperature")]] += 50.0
    session = onnxruntime.InferenceSession(found.data)
    [warm], [usual] = (session.run(["score"], {"window": w.astype(np.float32)}) for w in (hot, windows))
    assert np.array_equal(warm, usual), "temperatures tell the time of day, and must not count"


def test_a_score_is_a_half_at_the_threshold_and_keeps_the_order():
    shares = np.linspace(0.0, 1.0, 11)
    assert bent(np.array([0.0, 0.3, 1.0]), 0.3).tolist() == [0.0, 0.5, 1.0]
    assert (np.diff(bent(shares, 0.3)) > 0).all()


def test_labels_in_one_half_alone_are_refused():
    windows, labels = made_up(120)
    labels["grip_lost"][60:] = False
    names = find_profile("robot_slow").channel_names
    with pytest.raises(ValueError, match="grip_lost: labelled windows are needed in both halves"):
        fit_labelled_trees(windows, labels, names, names[:3], names[6:9])


def test_what_is_compared_is_the_profile_less_what_labels_teach():
    text = builtin_profiles()["robot_slow"].read_text(encoding="utf-8")
    shipped = parse_profile(text, "shipped")
    plain = parse_profile(without_outputs(text), "plain")
    cool = parse_profile(without_temperatures(text), "cool")
    assert [r.action for r in plain.decision.rules] == ["inspect"]
    assert plain.model.outputs == ()
    assert plain.feature_names == shipped.feature_names
    assert set(shipped.feature_names) - set(cool.feature_names) == {
        n for n in shipped.feature_names if n.startswith("temperature")
    }


@pytest.mark.recordings
@pytest.mark.skipif(not RECORDING.is_file(), reason="the recording is not beside the checkout")
def test_the_recording_has_the_rows_and_labels_that_the_page_tells():
    file = read_cobot(RECORDING)
    assert (len(file.seconds), file.first) == (7409, 4445)
    assert {kind: int(flags.sum()) for kind, flags in file.labels.items()} == {
        "grip_lost": 243,
        "protective_stop": 278,
    }
    rest = slice(file.first, None)
    assert len(spans_of(file.seconds[rest], file.either[rest])) == 91
