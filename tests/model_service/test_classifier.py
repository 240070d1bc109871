"""The classifier: what scikit-learn says, from the raw window on, where people labelled enough."""

import numpy as np
import onnx
import pyarrow as pa
import pytest

from model_service.models.adapt import RegimeRows
from model_service.models.classifier import enough_labels, train_classifier
from model_service.models.features import compute
from model_service.models.golden import golden_windows
from model_service.models.mahalanobis import Mahalanobis
from model_service.models.runtime import OrtGraph
from model_service.models.score_stage import ScoreStage
from model_service.models.training_rows import training_part
from schemas.errors import DatasetError
from tests.model_service.regimes import (
    BANK,
    CHAMPION,
    HOLDOUT,
    MACHINE,
    TRAIN,
    candidate,
    features,
    healthy,
    table,
    worn,
)


def labelled(severities=(0.3, 0.6)):
    """Sixty healthy rows and as many of labelled faults, of other devices."""
    parts = [table(features(healthy, TRAIN), TRAIN)]
    for number, severity in enumerate(severities):
        found = features(worn(severity, ("bearing_wear", "imbalance")[number % 2]), TRAIN, 10)
        parts.append(table(found, TRAIN, label="worn", first=20 + 10 * number))
    return pa.concat_tables(parts)


def trained(taken=None):
    chosen = training_part(labelled() if taken is None else taken, MACHINE)
    return train_classifier(chosen.rows, chosen.labels, 1)


@pytest.fixture(scope="module")
def bundle():
    return candidate(labelled(), kind="classifier")


def test_the_graph_says_what_scikit_learn_says(bundle):
    """On rows, and from the raw window."""
    found = features(healthy, HOLDOUT).reshape(-1, 10)
    found = np.concatenate([found, *(BANK.inject(found, "imbalance", s) for s in (0.2, 0.4, 1.0))])
    wanted, stage = trained().score(found), ScoreStage(bundle.model, 10, "x")
    np.testing.assert_allclose(stage.score(found), wanted, atol=1e-5)
    assert wanted.min() < 0.1
    assert wanted.max() > 0.9
    windows = golden_windows(bundle.golden)
    _, score = OrtGraph(bundle.model, "x").run(("features", "score"), {"window": windows})
    expected = trained().score(compute(windows, MACHINE.feature_specs(), MACHINE.channel_names))
    np.testing.assert_allclose(score, expected, atol=1e-5)
    assert np.isnan(score).any()


def test_its_graph_clips_what_a_sum_of_trees_leaves_over(bundle):
    """Each tree says 1.0 and the sum says 1.0000001: seen with 20 trees, and lost as "no score"."""
    model = onnx.load_from_string(bundle.model)
    kinds = [node.op_type for node in model.graph.node if "score" in node.output or node.op_type == "Clip"]
    assert "Clip" in kinds
    [trees] = [node for node in model.graph.node if node.op_type == "TreeEnsembleClassifier"]
    [weights] = [a for a in trees.attribute if a.name == "class_weights"]
    weights.floats[:] = [w * 1.5 for w in weights.floats]
    rows = np.concatenate([BANK.inject(features(healthy, HOLDOUT).reshape(-1, 10), "bearing_wear", 1.0)])
    score = ScoreStage(model.SerializeToString(), 10, "x").score(rows)
    assert score.max() == 1.0


def test_the_same_rows_and_seed_give_the_same_bytes(bundle):
    taken = labelled()
    shuffled = taken.take(pa.array(np.random.default_rng(0).permutation(taken.num_rows)))
    assert candidate(shuffled, kind="classifier").files == bundle.files


def test_it_sees_faults_of_unlabelled_severity_and_leaves_healthy_machines_alone():
    found, model = features(healthy, HOLDOUT).reshape(-1, 10), trained()
    assert (model.score(found) < 0.5).mean() > 0.97
    assert (model.score(BANK.inject(found, "bearing_wear", 1.0)) >= 0.6).mean() > 0.95


def test_both_classes_weigh_the_same_and_rows_weigh_what_they_stand_for():
    """A forest on doubled rows is the forest on doubled weights; scaling one class changes nothing."""
    chosen = training_part(labelled(), MACHINE)
    fault = np.array([label is not None for label in chosen.labels])
    heavy = RegimeRows(
        chosen.rows.features, np.where(fault, 100.0, 1.0), chosen.rows.device, chosen.rows.devices
    )
    found = features(worn(0.2), HOLDOUT).reshape(-1, 10)
    np.testing.assert_allclose(
        train_classifier(heavy, chosen.labels, 1).score(found),
        train_classifier(chosen.rows, chosen.labels, 1).score(found),
    )


def test_too_few_labels_train_no_classifier():
    few = table(features(worn(0.5), TRAIN, 5), TRAIN, label="worn", first=20)
    with pytest.raises(DatasetError, match="15 of 75 rows are labelled as a fault"):
        candidate(pa.concat_tables([table(features(healthy, TRAIN), TRAIN), few]), kind="classifier")
    assert not enough_labels(["worn"] * 30 + [None] * 30, [1] * 30 + [2, 3] * 15)


def test_a_label_that_says_healthy_is_no_fault():
    labels = ["false_alarm"] * 30 + ["worn"] * 30
    assert enough_labels(labels, [1, 2] * 30)
    assert not enough_labels(["false_alarm"] * 60, [1, 2] * 30)


def test_the_next_anomaly_model_can_start_from_it(bundle):
    assert bundle.manifest.kind == "classifier"
    np.testing.assert_array_equal(
        Mahalanobis.of(bundle.manifest).mean, Mahalanobis.of(CHAMPION.manifest).mean
    )
