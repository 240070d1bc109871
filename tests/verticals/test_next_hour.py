"""Laws of the shipped intersections' forecasts, on the device: the graph gives them from its own hours."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from edge_producer.bundle import check_fit, load_bundle
from edge_producer.inference import OnnxPredictor
from edge_producer.reference_keeper import ReferenceKeeper
from edge_producer.window import Window
from edge_producer.window_scoring import WindowScorer
from model_service.detectors.kinds import detector_of
from model_service.models.factory_models import anomaly_graph
from model_service.models.golden import golden_feeds
from model_service.models.runtime import OrtGraph
from model_service.models.score_stage import ScoreStage
from model_service.verticals.traffic.intersection_model import OUTPUTS, IntersectionModel
from schemas.errors import BundleError
from schemas.history_spec import HISTORY
from schemas.profile import Profile
from schemas.profile_file import find_profile
from schemas.row_schemas import TimeQuality, telemetry_layout

FULL = find_profile("traffic")
PROFILE = FULL.model_copy(update={"sampling": FULL.sampling.model_copy(update={"hop_samples": 60})})
"""A window a minute."""
NAMES = PROFILE.channel_names
TUESDAY = datetime(2026, 3, 3, 14, tzinfo=UTC)
FLOW, QUEUE = 0.5, 12.0
"""Vehicles a second, and vehicles that wait, of the whole intersection."""


def steady(busy: float) -> np.ndarray:
    """A window in which the same passes, and waits, all the time."""
    window = np.zeros((PROFILE.sampling.window_samples, len(NAMES)), dtype=np.float32)
    for phase in ("ns", "ns_left", "ew", "ew_left"):
        window[:, NAMES.index(f"flow_{phase}")] = busy * FLOW / 4
        window[:, NAMES.index(f"queue_{phase}")] = busy * QUEUE / 4
    return window


def outputs(predictor: OnnxPredictor, minutes: range, busy: float = 1.0) -> list[float]:
    """Both outputs of the last of these minutes."""
    window = steady(busy)
    for minute in minutes:
        numbers, _ = predictor.score("x", window, TUESDAY + timedelta(minutes=minute))
    return numbers[-2:].tolist()


@pytest.fixture
def predictor() -> OnnxPredictor:
    return OnnxPredictor(load_bundle(PROFILE), PROFILE)


@pytest.mark.parametrize("name", ["traffic", "traffic_demo"])
def test_both_profiles_name_the_outputs_and_rows_have_columns_that_say_what_they_stand_for(name):
    profile = find_profile(name)
    assert profile.model.outputs == tuple(OUTPUTS)
    docs = {c.name: c.doc for c in telemetry_layout(profile).columns}
    assert "share of 7200 veh/h" in docs["score_flow_next_hour"]
    assert "share of 200 veh" in docs["score_queue_next_hour"]
    assert Profile.model_validate(json.loads(profile.canonical_form())) == profile
    OnnxPredictor(load_bundle(profile), profile)


def test_there_is_a_forecast_from_three_quarters_of_an_hour_on_and_it_is_that_of_the_model(predictor):
    assert np.isnan(outputs(predictor, range(45))).all()
    assert np.isfinite(outputs(predictor, range(45, 60))).all()
    model, history = detector_of(predictor.manifest), predictor.kept.of("x", HISTORY)
    assert isinstance(model, IntersectionModel)
    flow, queue = outputs(predictor, range(60, 61))
    at_us = round((TUESDAY + timedelta(minutes=60)).timestamp() * 1e6)
    np.testing.assert_allclose([flow, queue], model.of_history(history.inputs(at_us))[0], rtol=1e-3)
    assert 0.5 * FLOW < flow * PROFILE.model.scales["flow_next_hour"].one / 3600 < 2 * FLOW
    assert 0.2 * QUEUE < queue * PROFILE.model.scales["queue_next_hour"].one < 4 * QUEUE


def test_a_busier_intersection_expects_more(predictor):
    quiet = outputs(predictor, range(121))
    busy = outputs(OnnxPredictor(load_bundle(PROFILE), PROFILE), range(121), 2.0)
    assert busy[0] > 1.5 * quiet[0]
    assert busy[1] > quiet[1]


def test_the_hours_outlast_restarts_and_models_and_belong_to_one_device(predictor):
    keeper = ReferenceKeeper("x", PROFILE, None)
    keeper.begin(predictor)
    outputs(predictor, range(75))
    kept = json.loads(json.dumps(keeper.export(predictor)))
    after = OnnxPredictor(load_bundle(PROFILE), PROFILE)
    again = ReferenceKeeper("x", PROFILE, kept)
    again.begin(after)
    candidate = OnnxPredictor(load_bundle(PROFILE), PROFILE)
    again.change(after, candidate)
    wanted = outputs(predictor, range(75, 91))
    assert np.isfinite(wanted).all()
    assert outputs(after, range(75, 91)) == outputs(candidate, range(75, 91)) == wanted
    assert candidate.kept.of("y", HISTORY) is None


def test_a_damaged_history_begins_anew_and_the_score_goes_on(predictor, caplog):
    outputs(predictor, range(75))
    kept = ReferenceKeeper("x", PROFILE, None).export(predictor)
    kept["history"]["quarters"] = "damaged"
    after = OnnxPredictor(load_bundle(PROFILE), PROFILE)
    ReferenceKeeper("x", PROFILE, kept).begin(after)
    assert "begun anew" in caplog.text
    numbers, score = after.score("x", steady(1.0), TUESDAY + timedelta(minutes=75))
    assert score is not None
    assert np.isnan(numbers[-2:]).all()


def test_without_a_detector_there_is_no_forecast_and_its_hours_alone_are_lost(predictor):
    outputs(predictor, range(60))
    blind, scorer = steady(1.0), WindowScorer("x", PROFILE)
    blind[:, NAMES.index("flow_ew")] = np.nan
    for minute in range(60, 106):
        end = TUESDAY + timedelta(minutes=minute)
        window = scorer.begin(Window("x", blind, end, 0, TimeQuality.SYNCHRONISED))
        numbers, score = scorer.score(predictor, window)
    assert score is None
    assert np.isnan(numbers[-2:]).all()
    flow, queue = outputs(predictor, range(106, 107))
    assert np.isnan(flow)
    assert np.isfinite(queue)


def test_a_model_of_other_sums_does_not_fit_and_keys_that_name_nothing_are_refused():
    manifest, raw = load_bundle(PROFILE).manifest, json.loads(PROFILE.canonical_form())
    other = manifest.model_copy(update={"history": {"flow": ("flow_ns_mean",)}})
    with pytest.raises(BundleError, match=r"model\.history"):
        check_fit(other, PROFILE)
    check_fit(manifest.model_copy(update={"history": {}}), PROFILE)  # it reads none
    wrong = {"history": {"sums": {"flow": ["speed_mean"]}}, "scales": {"speed": {"unit": "m/s", "one": 30.0}}}
    for key, value in wrong.items():
        with pytest.raises(ValueError, match=rf"model\.{key}"):
            Profile.model_validate({**raw, "model": {**raw["model"], key: value}})


def test_the_loop_moves_the_score_and_leaves_the_forecasts():
    bundle = load_bundle(PROFILE)
    manifest, feed = bundle.manifest, golden_feeds(bundle.golden, bundle.manifest)[0]
    model = detector_of(manifest)
    moved = model.moved_to(model.mean + 0.5, 2 * model.std)
    graph = anomaly_graph(PROFILE, moved)
    columns = ("score", *manifest.output_columns)
    before, after = (
        np.array([found[0] for found in OrtGraph(data, "x").run(columns, feed)])
        for data in (bundle.model, graph)
    )
    assert before[0] != after[0]
    np.testing.assert_array_equal(before[1:], after[1:])
    assert (after[1:] > 0.0).all()
    rows = np.ones((3, len(manifest.features)))
    stage = ScoreStage(graph, len(manifest.features), "x", manifest.output_columns)
    again = detector_of(manifest.model_copy(update={"parameters": moved.parameters()}))
    for further in (stage.further(rows), again.further(rows)):
        np.testing.assert_allclose(further, moved.further(rows), atol=1e-5)
