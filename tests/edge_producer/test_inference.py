"""Laws of inference: the graph is the reference, and no score is better than an unfounded one."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edge_producer.bin_edges import range_edges
from edge_producer.bundle import BUNDLES, open_bundle
from edge_producer.inference import OnnxPredictor, feature_columns, load_predictor
from edge_producer.reference import DeviceReference
from edge_producer.sources import Injection, Scenario, SimulateSource, truth
from edge_producer.window import Predictor
from model_service.models.features import compute
from model_service.models.golden import Golden, golden_outputs, golden_windows
from model_service.models.robust import robust_score
from schemas.errors import BundleError
from schemas.feature_set import FEATURE_KINDS
from schemas.profile import Channel, Profile
from schemas.profile_file import find_profile
from tests.edge_producer.bundles import factory_graph
from tests.simulators.update_service import candidate

START = datetime(2026, 3, 1, tzinfo=UTC)
MACHINE = find_profile("machine")
GENERIC = Profile.model_validate(
    {
        "name": "generic",
        "channels": [
            {"name": "a", "unit": "V", "min": -100, "max": 100},
            {"name": "b", "unit": "A", "min": -100, "max": 100},
        ],
        "sampling": {"rate_hz": 1.0, "window_samples": 8, "hop_samples": 8},
        "features": {
            "set": "generic",
            "compute": [{"channel": "b", "kinds": ["std", "last"]}, {"channel": "a", "kinds": ["mean"]}],
        },
        "model": {"name": "robust", "reference_windows": 64, "warmup_windows": 10},
    }
)
PROFILES = [MACHINE, GENERIC]


def windows(profile: Profile, count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (count, profile.sampling.window_samples, len(profile.channels))
    return list(rng.normal(5.0, 2.0, shape).astype(np.float32))


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_a_predictor_gives_the_profiles_features_and_a_score_or_none(profile):
    predictor: Predictor = load_predictor(profile)
    assert predictor.featureset == profile.featureset
    for window in windows(profile, 20):
        features, score = predictor.score("d1", window)
        assert (features.dtype, features.shape) == (np.dtype("float32"), (len(profile.feature_names),))
        assert score is None or 0 <= score <= 1


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_features_are_those_of_the_numpy_reference(profile):
    predictor, given = load_predictor(profile), windows(profile, 12)
    given[3][::5] = np.nan
    expected = compute(np.stack(given), profile.feature_specs(), profile.channel_names)
    got = np.stack([predictor.score("d1", w)[0] for w in given])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda p: p.name)
def test_bin_edges_ascend_and_name_every_feature_and_the_score(profile):
    edges = load_predictor(profile).bin_edges
    assert set(edges) == {*profile.feature_names, "score"}
    assert all((np.diff(e) > 0).all() and len(e) >= 5 for e in edges.values())


@pytest.mark.parametrize("kind", FEATURE_KINDS)
def test_edges_of_untrained_features_ascend_for_every_kind(kind):
    edges = range_edges(Channel(name="x", unit="V", min=-3, max=-1), kind)
    assert (np.diff(edges) > 0).all()


def test_more_missing_samples_than_allowed_give_no_score():
    predictor = load_predictor(MACHINE)
    healthy = next(iter(SimulateSource(MACHINE, ("m",), Scenario(start=START), START, 5.0).windows())).samples
    for share, scored in ((0.1, True), (0.19, True), (0.25, False), (1.0, False)):
        window = healthy.copy()
        window[: round(512 * share)] = np.nan
        assert (predictor.score("m", window)[1] is not None) == scored
    assert np.isnan(predictor.score("m", np.full_like(healthy, np.nan))[0]).all()


def test_a_missing_feature_that_the_model_needs_gives_no_score():
    raw = MACHINE.model_dump()
    raw["sampling"]["max_missing"] = 0.5
    predictor = load_predictor(Profile.model_validate(raw))
    window = windows(MACHINE, 1)[0]
    window[:, 1] = np.nan
    features, score = predictor.score("m", window)
    assert score is None
    assert np.isnan(features[MACHINE.feature_names.index("temperature_mean")])


def test_infinite_samples_are_missing():
    predictor, window = load_predictor(MACHINE), windows(MACHINE, 1)[0]
    window[10, 0] = np.inf
    blank = window.copy()
    blank[10, 0] = np.nan
    np.testing.assert_array_equal(predictor.score("m", window)[0], predictor.score("m", blank)[0])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_factory_model_tells_faults_from_health_and_forgives_a_recalibration(seed):
    fleet = tuple(f"f{i}" for i in range(8))
    items = (
        Injection(kind="bearing_wear", start_s=10, devices=("f0",)),
        Injection(kind="imbalance", start_s=10, devices=("f1",)),
        Injection(kind="recalibration", start_s=15, channel="temperature", offset=6, devices=fleet[2:]),
    )
    scenario = Scenario(seed=seed, start=START, devices=fleet, injections=items)
    faulty = {s.device_id: s.start for s in truth(scenario) if s.is_fault}
    predictor = load_predictor(MACHINE)
    high: dict[bool, list[bool]] = {True: [], False: []}
    for window in SimulateSource(MACHINE, fleet, scenario, START, 30.0).windows():
        _, score = predictor.score(window.device_id, window.samples)
        assert score is not None
        begun = window.device_id in faulty and (window.end - faulty[window.device_id]).total_seconds()
        if begun and begun > 3:
            high[True].append(score >= 0.6)
        elif not begun or begun < 0:
            high[False].append(score >= 0.6)
    assert np.mean(high[True]) > 0.95
    assert np.mean(high[False]) < 0.01


def test_the_generic_score_waits_for_its_warm_up_and_keeps_devices_apart():
    predictor = load_predictor(GENERIC)
    scores = [predictor.score("d1", w)[1] for w in windows(GENERIC, 12)]
    assert [s is None for s in scores] == [True] * 10 + [False] * 2
    assert predictor.score("d2", windows(GENERIC, 1)[0])[1] is None


def test_the_generic_score_is_that_of_the_numpy_reference():
    predictor = load_predictor(GENERIC)
    reference = DeviceReference(np.full(3, 0.2), memory=64, warmup=10)
    for window in windows(GENERIC, 100, seed=4):
        features, score = predictor.score("d1", window)
        expected = robust_score(features[None].astype(float), reference.center, reference.spread)[0]
        assert (score is None and np.isnan(expected)) or score == pytest.approx(expected, abs=1e-5)
        reference.learn(features, score)


def test_the_generic_score_rises_with_the_anomaly_and_falls_after_it():
    predictor = load_predictor(GENERIC)
    for window in windows(GENERIC, 40):
        predictor.score("d1", window)
    near, far = (predictor.score("d1", windows(GENERIC, 1)[0] + by)[1] for by in (5.0, 60.0))
    assert near is not None
    assert far is not None
    assert near < 0.6
    assert far > 0.9
    assert predictor.score("d1", windows(GENERIC, 1)[0])[1] < 0.3


def test_a_feature_is_not_compared_before_it_was_there_for_a_whole_warm_up():
    reference = DeviceReference(np.full(3, 0.1), memory=16, warmup=4)
    for number in range(10):
        rare = 2.0 if number >= 7 else np.nan
        reference.learn(np.array([1.0, np.nan, rare], np.float32), None)
    assert reference.center[0] == 1.0
    assert np.isnan(reference.center[1:]).all()
    assert reference.spread[0] == np.float32(0.1)
    reference.learn(np.array([1.0, np.nan, 2.0], np.float32), None)
    assert reference.center[2] == 2.0


def test_columns_point_at_channel_and_kind():
    kinds = list(FEATURE_KINDS)
    assert feature_columns(GENERIC).tolist() == [
        len(kinds) + kinds.index("std"),
        len(kinds) + kinds.index("last"),
        kinds.index("mean"),
    ]
    assert isinstance(load_predictor(GENERIC), OnnxPredictor)


def test_a_model_whose_golden_scores_leave_their_range_is_not_loaded(tmp_path):
    """It agrees with its golden vectors: these state 1.5 too."""
    model = factory_graph()
    for node in model.graph.node:
        node.output[:] = ["seen" if name == "score" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.5, np.float32), "constant"))
    model.graph.node.append(helper.make_node("Mul", ["seen", "nil"], ["none"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.0, np.float32), "nil"))
    model.graph.node.append(helper.make_node("Add", ["none", "constant"], ["score"]))
    factory = open_bundle(BUNDLES / "machine").golden
    outputs = golden_outputs(factory)
    score = np.where(np.isnan(outputs[:, -1]), np.nan, 1.5)
    golden = Golden(golden_windows(factory), outputs[:, :-1], score).to_arrow()
    candidate(1, model=model.SerializeToString(), golden=golden).write(tmp_path)
    with pytest.raises(BundleError, match=r"outside \[0, 1\]"):
        OnnxPredictor(open_bundle(tmp_path), MACHINE)
