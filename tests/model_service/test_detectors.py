"""Laws of detectors: numpy, manifest and graph agree; what is healthy is near, what is not is far."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from model_service.detectors.detector import AnomalyDetector, DetectorKind
from model_service.detectors.kinds import KINDS, detector_of
from model_service.detectors.symmetric_eigen import eigen
from model_service.models.adapt import RegimeRows, adapt
from model_service.models.factory_models import anomaly_graph
from model_service.models.features import compute, logged_features
from model_service.models.recent_rows import RECENT_WEIGHT, weight_read, weight_set
from model_service.models.runtime import OrtGraph
from model_service.models.score_stage import ScoreStage
from schemas.errors import BundleError
from schemas.manifest import Manifest, Tolerance
from schemas.profile import Profile
from schemas.recent_level import RECENT

PUMP = Profile.model_validate(
    {
        "name": "pump",
        "channels": [
            {"name": "pressure", "unit": "bar", "min": -100.0, "max": 100.0},
            {"name": "flow", "unit": "m3/h", "min": -100.0, "max": 100.0},
        ],
        "sampling": {"rate_hz": 1.0, "window_samples": 8, "hop_samples": 8},
        "features": {
            "set": "pump",
            "compute": [
                {"channel": "pressure", "kinds": ["mean", "std"]},
                {"channel": "flow", "kinds": ["mean", "std"]},
            ],
        },
    }
)
LOGGED = logged_features(PUMP)
EVERY = [pytest.param(k, s, id=f"{k.name}-{i}") for k in KINDS for i, s in enumerate(k.settings)]


def windows(count: int, seed: int = 0) -> np.ndarray:
    """Two channels that go together, shape (count, 8, 2)."""
    rng = np.random.default_rng(seed)
    load = rng.normal(0, 1, (count, 1, 1))
    return (5 + load * [1.0, 2.0] + 0.2 * rng.normal(size=(count, 8, 2))).astype(np.float32)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return compute(windows(count, seed), PUMP.feature_specs(), PUMP.channel_names)


def read(features: np.ndarray, settings: Mapping[str, float]) -> np.ndarray:
    """Features as a detector of these settings reads them: with the row before as recent level, or alone."""
    if not weight_set(settings):
        return features
    recent = np.vstack([np.full((1, features.shape[1]), np.nan), features[:-1]])
    return np.hstack([features, recent])


def fitted(kind: DetectorKind, settings: Mapping[str, float], count: int = 200) -> AnomalyDetector:
    return kind.fit(read(rows(count), settings), LOGGED, settings)


@pytest.mark.parametrize(("kind", "settings"), EVERY)
def test_the_graph_gives_the_scores_of_the_reference_implementation(kind, settings):
    detector = fitted(kind, settings)
    given = windows(40, seed=1)
    given[3, :, 0] += 30
    given[4, :, 1] = given[4, 0, 1]
    given[5, :, 0] = np.nan
    graph = OrtGraph(anomaly_graph(PUMP, detector), kind.name)
    wanted = read(compute(given, PUMP.feature_specs(), PUMP.channel_names), settings)
    extra = {RECENT: wanted[:, 4:].astype(np.float32)} if weight_read(detector) else {}
    features, score = graph.run(("features", "score"), {"window": given, **extra})
    expected = detector.score(wanted)
    np.testing.assert_allclose(score, expected, atol=1e-5)
    assert np.isnan(score[5])
    assert features.shape == (40, 4)


@pytest.mark.parametrize(("kind", "settings"), EVERY)
def test_rows_of_the_lake_are_scored_by_the_part_behind_the_features(kind, settings):
    detector = fitted(kind, settings)
    stage = ScoreStage(anomaly_graph(PUMP, detector), 4, kind.name)
    for given in (rows(30, 2), read(rows(30, 2), settings), read(rows(30, 2), {RECENT_WEIGHT: 1.0})):
        own = given if weight_read(detector) else given[:, :4]
        np.testing.assert_allclose(stage.score(given), detector.score(own), atol=1e-5)


@pytest.mark.parametrize(("kind", "settings"), EVERY)
def test_a_manifest_holds_the_whole_detector(kind, settings):
    detector = fitted(kind, settings)
    manifest = Manifest(
        name="pump",
        version="",
        featureset=PUMP.featureset,
        features=PUMP.feature_names,
        opset=17,
        calibration=detector.calibration,
        parameters=detector.parameters(),
        detector=kind.name,
        recent=weight_read(detector),
        tolerance=Tolerance(absolute=1e-4, relative=1e-4),
        files={},
    )
    again = detector_of(Manifest.model_validate_json(manifest.to_json()))
    given = read(rows(20, 3), settings)
    np.testing.assert_array_equal(again.score(given), detector.score(given))


@pytest.mark.parametrize(("kind", "settings"), EVERY)
def test_noise_in_the_last_bits_reaches_no_parameter(kind, settings):
    healthy = read(rows(200), settings)
    noisy = healthy * (1 + np.random.default_rng(1).uniform(-1e-15, 1e-15, healthy.shape))
    assert kind.fit(healthy, LOGGED, settings).parameters() == kind.fit(noisy, LOGGED, settings).parameters()


@pytest.mark.parametrize(("kind", "settings"), EVERY)
def test_a_feature_that_never_moved_neither_divides_by_zero_nor_goes_unseen(kind, settings):
    healthy = rows(200)
    healthy[:, 2] = 7.0
    detector = kind.fit(read(healthy, settings), LOGGED, settings)
    moved = healthy[:5].copy()
    moved[:, 2] = 8.0
    assert np.isfinite(detector.distance(healthy)).all()
    assert detector.distance(moved).min() > 3 * detector.distance(healthy).max()


def test_pca_sees_a_broken_relation_that_single_features_do_not_show():
    pca = next(k for k in KINDS if k.name == "pca")
    robust = next(k for k in KINDS if k.name == "robust_reference")
    healthy = rows(400)
    apart = np.median(healthy, axis=0, keepdims=True)
    apart[0, 0] += 1.5
    apart[0, 2] -= 3.0  # each is usual by itself; together they never were
    relative = {
        k.name: float(d.distance(apart)[0] / np.quantile(d.distance(healthy), 0.99))
        for k, d in ((k, k.fit(healthy, LOGGED, k.settings[0])) for k in (pca, robust))
    }
    assert relative["pca"] > 2 > relative["robust_reference"]


def test_eigenvalues_are_those_of_numpy():
    rng = np.random.default_rng(4)
    matrix = np.corrcoef(rng.normal(size=(50, 12)).T)
    values, vectors = eigen(matrix)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1], atol=1e-10)
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, matrix, atol=1e-10)


def test_a_detector_that_this_release_does_not_know_is_refused():
    manifest = Manifest(
        name="pump",
        version="",
        featureset="pump@1",
        opset=17,
        calibration=KINDS[0].fit(rows(50), LOGGED, KINDS[0].settings[0]).calibration,
        detector="oracle",
        tolerance=Tolerance(absolute=1e-4, relative=1e-4),
        files={},
    )
    with pytest.raises(BundleError, match="no detector 'oracle'"):
        detector_of(manifest)


@pytest.mark.parametrize(("kind", "settings"), EVERY)
def test_every_detector_moves_to_another_regime_and_judges_there_as_before(kind, settings):
    before = fitted(kind, settings, 400)
    shifted = rows(300, seed=5)
    shifted[:, 0] += 6
    regime = RegimeRows(shifted, np.ones(300), np.arange(300) % 10, 10)
    usual = float(before.score(rows(400)).mean())
    after = adapt(before, regime, np.array([True, True, False, False]), usual)
    assert before.score(shifted).mean() > 0.5
    assert after.score(shifted).mean() == pytest.approx(usual, abs=0.1)
    broken = shifted[:20].copy()
    broken[:, 2] -= 12
    assert after.score(broken).min() > after.score(shifted).mean()
