"""Laws of recent levels: a device scores its sequence as numpy does, over restarts, gaps and models."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from edge_producer.bundle import Bundle
from edge_producer.inference import OnnxPredictor
from edge_producer.reference_keeper import ReferenceKeeper
from edge_producer.updates.fault_trial import TrialModel, compare_on_faults
from edge_producer.window import Window
from edge_producer.window_scoring import WindowScorer
from model_service.detectors.forecast_residual import FORECAST, ForecastResidual
from model_service.detectors.kinds import KINDS, detector_of
from model_service.models.bundle_files import BundleFiles, build_bundle
from model_service.models.factory_models import anomaly_graph, learnt_bundle
from model_service.models.features import compute
from model_service.models.graph import FLOAT, GraphWriter, tensor
from model_service.models.recent_rows import RECENT_WEIGHT
from schemas.alarm_bounds import AlarmBounds
from schemas.errors import BundleError
from schemas.fault_effects import FaultEffects
from schemas.instants import to_us
from schemas.manifest import TrainingFacts
from schemas.recent_level import RecentLevel, WindowTiming, recent_levels
from schemas.row_schemas import TimeQuality
from tests.model_service.test_detectors import LOGGED, windows
from tests.model_service.test_detectors import PUMP as WHOLE

PUMP = WHOLE.model_copy(update={"sampling": WHOLE.sampling.model_copy(update={"hop_samples": 4})})
"""Windows of eight seconds, every four: two neighbours share samples."""
BEGIN = datetime(2026, 3, 2, 6, tzinfo=UTC)
TIMING = WindowTiming.of(PUMP.sampling)
WANDERS = np.cumsum(np.random.default_rng(3).normal(0, 2.0, 120))


def wandering(count: int, seed: int = 0) -> np.ndarray:
    """Windows whose pressure wanders, shape (count, 8, 2)."""
    given = windows(count, seed)
    given[:, :, 0] += WANDERS[:count, np.newaxis].astype(np.float32)
    return given


def features(given: np.ndarray) -> np.ndarray:
    return compute(given, PUMP.feature_specs(), PUMP.channel_names)


def ends(count: int) -> np.ndarray:
    return to_us(BEGIN) + TIMING.hop_us * np.arange(count, dtype=np.int64)


def levels(rows: np.ndarray, weight: float, at_us: np.ndarray | None = None) -> np.ndarray:
    times = ends(len(rows)) if at_us is None else at_us
    return recent_levels(rows, times, weight, TIMING, np.ones(len(rows), dtype=bool))


def bundle_of(weight: float, shrinkage: float = 0.2) -> BundleFiles:
    rows = features(wandering(120))
    settings = {RECENT_WEIGHT: weight, "shrinkage": shrinkage}
    detector = FORECAST.fit(np.hstack([rows, levels(rows, weight)]), LOGGED, settings)
    stretches = [[np.hstack([rows, levels(rows, weight)])[at : at + 15] for at in range(0, 120, 15)]]
    facts = TrainingFacts(script="", seed=0, devices=1, windows=120)
    return learnt_bundle(PUMP, "pump", detector, stretches, wandering(6, 5), facts, FORECAST.name, 1)


MADE = bundle_of(0.25)


def opened(made: BundleFiles) -> Bundle:
    return Bundle(made.manifest, made.model, made.golden)


def predictor(made: BundleFiles = MADE) -> OnnxPredictor:
    return OnnxPredictor(opened(made), PUMP)


def scores(model: OnnxPredictor, given: np.ndarray, first: int = 0, skipped: int = 0) -> list[float]:
    """Of windows from number ``first`` on; so many hops later than the sequence has them."""
    found = []
    for number, window in enumerate(given[first:], first):
        at = BEGIN + timedelta(microseconds=TIMING.hop_us * (number + skipped))
        found.append(model.score("p", window, at)[1])
    return found


def wanted(given: np.ndarray, at_us: np.ndarray | None = None) -> np.ndarray:
    """By numpy alone, from the manifest's parameters."""
    rows = features(given).astype(np.float32).astype(np.float64)
    return detector_of(MADE.manifest).score(np.hstack([rows, levels(rows, 0.25, at_us)]))


def test_the_level_is_the_running_mean_of_the_windows_that_ended_before_this_one_began():
    values = np.random.default_rng(1).normal(size=(30, 2))
    found = levels(values, 0.25)
    assert np.isnan(found[:2]).all()  # the second shares samples with the first
    np.testing.assert_allclose(found[2:6], [values[: n + 1].mean(axis=0) for n in range(4)])
    for at in range(6, 30):
        shares = 0.25 * 0.75 ** np.arange(at - 5)
        older = (1 - shares.sum()) * values[:4].mean(axis=0)
        np.testing.assert_allclose(found[at], shares @ values[at - 2 : 3 : -1] + older)
    np.testing.assert_allclose(levels(values, 1.0)[2:], values[:-2])


def test_what_was_not_measured_does_not_count_and_is_not_known_after_a_gap():
    values = np.random.default_rng(2).normal(size=(12, 2))
    values[5, 0] = np.nan
    found = levels(values, 1.0)
    assert np.isnan(found[7]).tolist() == [True, False]
    np.testing.assert_allclose(found[8], values[6])
    later = ends(12) + np.where(np.arange(12) >= 6, 10 * TIMING.hop_us, 0)
    assert np.isnan(levels(values, 1.0, later)[6:8]).all()
    assert np.isfinite(levels(values, 0.1, later)[6:]).all()  # its mean reaches farther back


def test_a_clock_that_is_set_back_begins_anew():
    level = RecentLevel(1, 0.5, TIMING)
    for at in range(4):
        level.add(np.array([1.0]), at * TIMING.window_us)
    assert level.before(5 * TIMING.window_us).tolist() == [1.0]
    assert np.isnan(level.before(0)).all()
    level.add(np.array([7.0]), 0)
    assert level.before(TIMING.window_us).tolist() == [7.0]


def test_the_device_scores_what_numpy_scores_over_a_restart_and_a_gap():
    given, model, keeper = wandering(60, 7), predictor(), ReferenceKeeper("p", PUMP, None)
    keeper.begin(model)
    begun = scores(model, given[:30])
    state = json.loads(json.dumps(keeper.export(model)))
    again = predictor()
    ReferenceKeeper("p", PUMP, state).begin(again)
    went_on = scores(again, given, 30)
    np.testing.assert_allclose(begun + went_on, wanted(given), atol=1e-4)
    assert scores(model, given, 30) == went_on
    far = predictor()
    ReferenceKeeper("p", PUMP, state).begin(far)
    at_us = ends(60) + np.where(np.arange(60) >= 30, 50 * TIMING.hop_us, 0)
    np.testing.assert_allclose(scores(far, given, 30, skipped=50), wanted(given, at_us)[30:], atol=1e-4)


def test_devices_of_one_host_keep_their_own_levels():
    one, two, model = wandering(12, 1), wandering(12, 2), predictor()
    found: dict[str, list[float | None]] = {"a": [], "b": []}
    for number in range(12):
        at = BEGIN + timedelta(microseconds=TIMING.hop_us * number)
        for name, given in (("a", one), ("b", two)):
            found[name].append(model.score(name, given[number], at)[1])
    assert found == {"a": scores(predictor(), one), "b": scores(predictor(), two)}
    states, after = [model.kept.export(name) for name in ("a", "b", "c")], predictor()
    assert states[0] != states[1]
    assert states[2] == {}
    after.go_on_from("b", model)
    assert [after.kept.export(name) for name in ("a", "b")] == [{}, states[1]]


def test_another_model_of_the_same_weight_goes_on_and_one_of_another_begins_anew():
    given, before, keeper = wandering(40, 8), predictor(), ReferenceKeeper("p", PUMP, None)
    keeper.begin(before)
    scores(before, given[:20])
    same, other = predictor(bundle_of(0.25, 0.4)), predictor(bundle_of(1.0))
    for after in (same, other):
        keeper.change(before, after)
    assert same.kept.export("p") == before.kept.export("p")
    assert other.kept.export("p")["recent"]["held"] == []
    assert scores(same, given, 20) == scores(predictor_after(bundle_of(0.25, 0.4), given, 20), given, 20)


def predictor_after(made: BundleFiles, given: np.ndarray, count: int) -> OnnxPredictor:
    found = predictor(made)
    scores(found, given[:count])
    return found


def test_what_a_model_has_kept_itself_is_not_replaced_by_what_is_older():
    given, keeper = wandering(40, 9), ReferenceKeeper("p", PUMP, None)
    old, shadow = predictor(), predictor(bundle_of(0.25, 0.4))
    keeper.begin(old)
    scores(old, given[:10])
    keeper.export(old)
    scores(shadow, given)
    kept = shadow.kept.export("p")
    keeper.change(old, shadow)
    assert shadow.kept.export("p") == kept


@pytest.mark.parametrize("damage", [{"held": 3}, {"level": [1.0]}, {"count": [-1, 1, 1, 1]}])
def test_a_damaged_level_begins_anew_and_the_device_goes_on(damage, caplog):
    model = predictor()
    scores(model, wandering(10, 1))
    kept = ReferenceKeeper("p", PUMP, None).export(model)
    after = predictor()
    ReferenceKeeper("p", PUMP, {**kept, "recent": {**kept["recent"], **damage}}).begin(after)
    assert "begun anew" in caplog.text
    assert scores(after, wandering(12, 1), 11)[0] is not None


def test_without_a_recent_level_what_wanders_is_not_judged_what_does_not_is_and_windows_are_counted():
    model = detector_of(MADE.manifest)
    assert isinstance(model, ForecastResidual)
    assert model.carried[0] > 0.8
    assert model.carried[2] < 0.5
    scorer, device = WindowScorer("p", PUMP), predictor()
    rose, steady = wandering(3, 4), wandering(3, 4)
    rose[0, :, 0] += 30
    steady[0, :, 1] += 30
    found = []
    for first, second in ((rose[0], rose[1]), (steady[0], rose[1])):
        fresh = predictor()
        found.append(scores(fresh, np.stack([first, second]))[0])
    assert found[0] < 0.5 < found[1]
    for number, samples in enumerate(wandering(8, 4)):
        at = BEGIN + timedelta(microseconds=TIMING.hop_us * number)
        window = scorer.begin(Window("p", samples, at, 0, TimeQuality.SYNCHRONISED))
        _, score = scorer.score(device, window)
        scorer.count_decided(score)
    assert scorer.take_counts()["windows_without_recent"] == 2


def test_a_trial_shows_a_fault_as_it_begins():
    trial, given = TrialModel(opened(MADE), PUMP, None), wandering(20, 6)
    rows = trial.features(given)
    faulty = rows.copy()
    faulty[:, 0] += 30
    bounds = AlarmBounds({"score": 0.6})
    assert trial.detects(faulty, bounds, rows).all()
    assert trial.detects(faulty, bounds).mean() < 0.2  # from a level that has the fault it is foretold


def test_a_trial_compares_two_models_on_faults_as_they_begin():
    effects = FaultEffects(("step",), LOGGED, np.array([[30.0, 0.0, 0.0, 0.0]]))
    trial = TrialModel(opened(MADE), PUMP, None)
    found = compare_on_faults(trial, trial, wandering(20, 6), effects, AlarmBounds({"score": 0.6}))
    assert (found.old_here, found.new_here) == (1.0, 1.0)


def test_a_graph_that_asks_for_what_a_device_does_not_keep_is_refused_with_what_to_do():
    unnamed = build_bundle(MADE.manifest.model_copy(update={"recent": 0.0}), MADE.model, MADE.golden, 1)
    with pytest.raises(BundleError, match=r"asks for recent, .* install a newer release"):
        predictor(unnamed)
    writer = GraphWriter()
    shape = ["batch", PUMP.sampling.window_samples, 2]
    moment = writer.op("ReduceSum", "tide", writer.ints(1), keepdims=0)
    writer.op("Identity", moment, output="score")
    writer.op("ReduceMean", "window", axes=[1], keepdims=0, output="features")
    inputs = [tensor("window", FLOAT, shape), tensor("tide", FLOAT, ["batch", 1])]
    outputs = [tensor("features", FLOAT, ["batch", 2]), tensor("score", FLOAT, ["batch"])]
    strange = build_bundle(MADE.manifest, writer.build("pump", inputs, outputs), MADE.golden, 1)
    with pytest.raises(BundleError, match="asks for tide"):
        predictor(strange)


def test_a_model_without_recent_levels_is_written_as_before():
    plain = KINDS[0].fit(features(wandering(120)), LOGGED, KINDS[0].settings[0])
    assert b"recent" not in anomaly_graph(PUMP, plain)
    assert b"recent" in anomaly_graph(PUMP, detector_of(MADE.manifest))
    assert "recent" in json.loads(MADE.manifest.to_json())
    assert "recent" not in json.loads(MADE.manifest.model_copy(update={"recent": 0.0}).to_json())
