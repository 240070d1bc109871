"""Candidates: quiet where the fleet is now, as sharp as before, and the same bytes from the same rows."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from edge_producer.bundle import BUNDLES, Bundle
from edge_producer.inference import OnnxPredictor
from model_service.models.adapt import RegimeRows, adapt
from model_service.models.bundle_files import BundleFiles
from model_service.models.candidate import build_candidate, moved_features
from model_service.models.mahalanobis import Mahalanobis, logarithms
from model_service.models.score_stage import ScoreStage
from model_service.models.training_rows import training_part
from schemas.errors import BundleError, DatasetError
from schemas.manifest import SCORE_EDGES
from tests.model_service.regimes import (
    BANK,
    CHAMPION,
    HOLDOUT,
    LINEAGE,
    MACHINE,
    OLD,
    TRAIN,
    candidate,
    features,
    healthy,
    rows,
    table,
    warmer,
)

CHAMPION_FOLDER = BUNDLES / "machine"
USUAL = CHAMPION.manifest.baselines["score"].mean
TEMPERATURE = MACHINE.feature_names.index("temperature_mean")


def flat(story, spans=HOLDOUT):
    return features(story, spans).reshape(-1, len(MACHINE.feature_names))


def model(bundle):
    return Mahalanobis.of(bundle.manifest)


def test_the_order_of_the_rows_does_not_reach_the_bytes():
    taken = rows(warmer())
    shuffled = taken.take(pa.array(np.random.default_rng(0).permutation(taken.num_rows)))
    assert candidate(taken).files == candidate(shuffled).files


def test_another_process_with_other_hashes_builds_the_same_bytes():
    """No set, dictionary or time may decide an order."""
    code = (
        "from tests.model_service.regimes import *; import hashlib;"
        "print(hashlib.sha256(candidate(rows(warmer())).files['model.onnx']).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert done.stdout.decode().strip() == hashlib.sha256(candidate(rows(warmer())).model).hexdigest()


def test_the_same_rows_give_the_bytes_that_release_0_2_0_gave():
    """Its candidates may still be in front of the gate, which builds them again and compares the bytes."""
    assert candidate(rows(warmer())).manifest.version == "machine-1.51b9c7f3"


@pytest.mark.parametrize("offset", [6.0, 8.0, -5.0])
def test_a_healthy_fleet_is_as_quiet_as_before_the_drift(offset):
    shifted, new = flat(warmer(offset)), model(candidate(rows(warmer(offset))))
    assert OLD.score(shifted).mean() > 1.2 * USUAL
    assert new.score(shifted).mean() == pytest.approx(USUAL, abs=0.025)
    assert (new.score(shifted) < MACHINE.decision.rules[0].enter).all()


@pytest.mark.parametrize(
    ("kind", "severity"), [("bearing_wear", 0.2), ("bearing_wear", 0.4), ("imbalance", 0.3)]
)
def test_faults_keep_their_scores(kind, severity):
    before = OLD.score(BANK.inject(flat(healthy), kind, severity)).mean()
    after = model(candidate(rows(warmer()))).score(BANK.inject(flat(warmer()), kind, severity)).mean()
    assert after == pytest.approx(before, abs=0.04)


def test_where_half_of_the_fleet_moved_both_halves_are_quiet():
    story = warmer(8.0, every=2)
    new, found = model(candidate(rows(story))), features(story, HOLDOUT)
    for half in (found[::2], found[1::2]):
        assert new.score(half.reshape(-1, found.shape[2])).mean() < USUAL + 0.04


def test_a_candidate_is_a_champion_in_turn():
    first = candidate(rows(warmer()))
    second = build_candidate(MACHINE, rows(warmer(-4.0)), first, ["temperature"], LINEAGE, 2, 2)
    assert second.manifest.version.startswith("machine-2.")
    assert model(first).score(flat(warmer(-4.0))).mean() > 2 * USUAL
    assert model(second).score(flat(warmer(-4.0))).mean() == pytest.approx(USUAL, abs=0.025)


def test_what_did_not_move_stays_near_the_champion():
    new = model(candidate(rows(warmer())))
    still = ~moved_features(MACHINE, ["temperature"])
    np.testing.assert_array_equal(new.std[still], OLD.std[still])
    assert (np.abs(new.mean - OLD.mean)[still] < 0.25 * OLD.std[still]).all()
    assert new.mean[TEMPERATURE] - OLD.mean[TEMPERATURE] == pytest.approx(8.0, abs=2.5)


def test_a_spread_that_grew_keeps_covariances_and_weakens_correlations():
    """D R D + I - D² against what adding independent spread does to a simulated population."""
    rng, story = np.random.default_rng(1), warmer(30.0, every=2)
    new, at = model(candidate(rows(story))), TEMPERATURE
    old_values = rng.multivariate_normal(np.zeros(10), OLD.correlation(), 200_000)
    extra = np.sqrt(max((new.std[at] / OLD.std[at]) ** 2 - 1, 0))
    grown = old_values.copy()
    grown[:, at] += rng.normal(0, extra, len(grown))
    assert extra > 1
    np.testing.assert_allclose(np.corrcoef(grown.T), new.correlation(), atol=0.01)


def test_each_device_counts_the_same_however_many_rows_it_has():
    found = RegimeRows(np.ones((4, 1)), np.array([1.0, 1.0, 8.0, 20.0]), np.array([0, 0, 0, 1]), 2)
    np.testing.assert_allclose(found.balanced(), [0.05, 0.05, 0.4, 0.5])


def test_moved_place_and_spread_are_those_of_the_rows():
    """Against numpy, every row alike; the champion's spread counts as ten devices'."""
    taken = training_part(rows(warmer()), MACHINE)
    new = adapt(OLD, taken.rows, moved_features(MACHINE, ["temperature_mean"]), USUAL)
    x = logarithms(taken.rows.features, OLD.logged)[:, TEMPERATURE]
    spread = np.sqrt((10 * OLD.std[TEMPERATURE] ** 2 + 20 * x.var() * 20 / 19) / 30)
    assert new.mean[TEMPERATURE] == pytest.approx(x.mean(), rel=1e-5)
    assert new.std[TEMPERATURE] == pytest.approx(spread, rel=1e-5)


def test_rows_full_of_faults_do_not_make_the_model_deaf():
    """The calibration may follow the rows by a quarter at most."""
    wild = BANK.inject(flat(healthy, TRAIN), "imbalance", 1.0)
    taken = RegimeRows(wild, np.ones(len(wild)), np.repeat(np.arange(20), len(TRAIN)), 20)
    new = adapt(OLD, taken, np.zeros(10, dtype=bool), USUAL)
    assert OLD.calibration.middle < new.calibration.middle <= 1.25 * OLD.calibration.middle


def test_baselines_and_edges_of_what_moved_follow_and_score_edges_stay():
    old, new = CHAMPION.manifest, candidate(rows(warmer())).manifest
    assert new.bin_edges["score"] == SCORE_EDGES
    assert new.bin_edges["current_mean"] == old.bin_edges["current_mean"]
    middle = np.median(flat(warmer())[:, TEMPERATURE])
    assert new.bin_edges["temperature_mean"][0] < middle < new.bin_edges["temperature_mean"][-1]
    assert new.baselines["temperature_mean"].mean == pytest.approx(middle, abs=2)
    assert new.baselines["vibration_rms"] == old.baselines["vibration_rms"]
    assert new.lineage == LINEAGE
    assert new.version.startswith("machine-1.")


def test_a_device_runs_a_candidate_and_agrees_with_its_golden_vectors():
    bundle = candidate(rows(warmer()))
    predictor = OnnxPredictor(Bundle(bundle.manifest, bundle.model, bundle.golden), MACHINE)
    assert predictor.version == bundle.manifest.version


def test_the_score_stage_is_the_graph_behind_its_features():
    bundle = candidate(rows(warmer()))
    found = np.concatenate([flat(warmer()), BANK.inject(flat(warmer()), "bearing_wear", 0.3)])
    found = found.astype(np.float32).astype(np.float64)
    stage = ScoreStage(bundle.model, 10, "x")
    np.testing.assert_allclose(stage.score(found), model(bundle).score(found), atol=1e-5)
    found[0, 3] = np.nan
    assert np.isnan(stage.score(found)[0])


def test_a_score_that_does_not_follow_from_features_is_refused():
    robust = BundleFiles.read(CHAMPION_FOLDER.parent / "robust")
    with pytest.raises(BundleError, match="not on features alone"):
        ScoreStage(robust.model, 10, "robust")


def test_rows_of_one_device_or_without_a_feature_train_nothing():
    one = table(features(warmer(), TRAIN)[:1], TRAIN)
    with pytest.raises(DatasetError, match="1 devices"):
        candidate(one)
    gone = features(warmer(), TRAIN).copy()
    gone[:, :, 2] = np.nan
    with pytest.raises(DatasetError, match="0 complete rows"):
        candidate(table(gone, TRAIN))


def test_a_champion_without_parameters_starts_nothing():
    bare = BundleFiles(CHAMPION.manifest.model_copy(update={"parameters": {}}), CHAMPION.files)
    with pytest.raises(BundleError, match="no parameters"):
        build_candidate(MACHINE, rows(warmer()), bare, (), LINEAGE, 1, 1)
