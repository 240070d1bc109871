"""What the gate predicts for the rollout's guard: shares of windows and recall, the device as unit."""

import numpy as np
import pytest

from model_service.gates.holdout import Holdout, HoldoutRows, PairedScores
from model_service.gates.prediction import prediction
from model_service.models.fault_bank import FaultBank
from model_service.rollout.predicted_alarms import read_prediction

BANK = FaultBank("pump", ("a", "b"), np.zeros(2, bool), "0" * 64, {"wear": {1.0: np.array([[1.0, 0.0]])}})


def rows(features, device, weights=None):
    features = np.asarray(features, dtype=float)
    given = np.ones(len(features)) if weights is None else np.asarray(weights, dtype=float)
    return HoldoutRows(features, given, np.asarray(device))


def predicted(healthy, bank=None, devices=5):
    """The candidate scores by feature b alone, the champion by a or b."""
    none = rows(np.zeros((0, 2)), np.zeros(0, int))
    holdout = Holdout(healthy, none, tuple(f"d{i}" for i in range(devices)), {})
    pair = PairedScores(lambda x: x[:, 1], lambda x: x.max(axis=1), holdout, bank, 0.5)
    return prediction(pair)


def test_gained_and_lost_are_shares_of_windows_by_weight():
    found = predicted(rows([[1, 0], [1, 1], [0, 0], [0, 0]] * 5, np.repeat(range(5), 4), [1, 1, 1, 7] * 5))
    assert {k: found[k]["value"] for k in ("old", "new", "gained", "lost")} == pytest.approx(
        {"old": 0.2, "new": 0.1, "gained": 0.0, "lost": 0.1}
    )
    assert read_prediction(found).lost.value == pytest.approx(0.1)


def test_alarms_of_one_device_are_worth_fewer_windows_than_those_of_all():
    everywhere = predicted(rows([[1, 0], [0, 0]] * 50, np.tile(np.repeat(range(5), 2), 10)))
    at_one = [[1, 0] if i % 5 == 0 else [0, 0] for i in range(100)]
    alone = predicted(rows(at_one, np.arange(100) % 5))
    assert alone["lost"]["windows"] < everywhere["lost"]["windows"]
    assert alone["lost"]["low"] < alone["lost"]["value"] < alone["lost"]["high"]


def test_recall_is_lost_where_the_candidate_does_not_see_the_fault():
    healthy = rows([[0, 0]] * 10, np.repeat(range(5), 2))
    found = predicted(healthy, BANK)["recall"]
    assert found == {"value": 1.0, "spread": 0.0, "devices": 5}
    assert predicted(healthy)["recall"] is None


def test_without_a_healthy_row_nothing_is_predicted():
    assert predicted(rows(np.zeros((0, 2)), np.zeros(0, int))) is None


def test_scores_are_predicted_in_tenths_with_the_device_as_unit():
    found = predicted(rows([[1, 0.33], [0.52, 0.38], [0, 0]] * 5, np.repeat(range(5), 3), [1, 1, 2] * 5))
    assert found["score"] == {"value": pytest.approx((0.35 * 2 + 0.05 * 2) / 4), "spread": 0.0, "devices": 5}
    assert found["rise"]["value"] == pytest.approx((0.35 * 2 - 0.95 - 0.55) / 4)
    assert read_prediction(found).rise.devices == 5
