"""Laws of detectors that follow: chosen where a level wanders, and left out where rows are single."""

from __future__ import annotations

import numpy as np
import pytest

from model_service.detectors.alarm_budget import AlarmRule, threshold_for
from model_service.detectors.choosing import MANY_DEVICES, bank_recall, choose, margin_of
from model_service.detectors.forecast_residual import FORECAST
from model_service.detectors.generic_bank import generic_bank
from model_service.detectors.history import FeatureHistory
from model_service.detectors.mahalanobis_kind import fit_mahalanobis
from model_service.models.adapt import RegimeRows, adapt
from model_service.models.fault_bank import parse_bank
from model_service.models.recent_rows import LASTED, with_fault
from schemas.recent_level import WindowTiming
from tests.model_service.test_detectors import LOGGED, PUMP, rows, windows

RULE = AlarmRule(per_device_day=1.0, hop_s=8.0)
TIMING = WindowTiming.of(PUMP.sampling)
COUNT = 300


@pytest.fixture(scope="module")
def bank():
    return parse_bank(generic_bank(PUMP, windows(200).astype(float), seed=1).to_bytes())


def history(devices: int, wander: float, every: int = 1) -> FeatureHistory:
    """Healthy rows whose levels are random walks of this step; only every so many of them are there."""
    found = []
    for number in range(devices):
        walks = np.cumsum(np.random.default_rng([7, number]).normal(0, wander, (COUNT, 2)), axis=0)
        given = rows(COUNT, number)
        given[:, [0, 2]] += walks
        found.append(given[::every])
    size = len(found[0])
    ends = TIMING.hop_us * np.arange(0, COUNT, every, dtype=np.int64)
    nothing = np.zeros(devices * size, dtype=bool)
    device = np.repeat(np.arange(devices), size)
    return FeatureHistory(np.concatenate(found), device, nothing, nothing, np.tile(ends, devices), TIMING)


@pytest.mark.parametrize("devices", [1, MANY_DEVICES])
def test_a_history_that_wanders_is_followed_and_one_that_does_not_is_not(bank, devices):
    assert choose(history(devices, 1.0), LOGGED, bank, RULE).kind.name == FORECAST.name
    assert choose(history(devices, 0.0), LOGGED, bank, RULE).kind.name != FORECAST.name


def test_rows_that_do_not_follow_one_another_leave_it_out_with_the_reason(bank):
    sampled = history(12, 1.0, every=60)
    chosen = choose(sampled, LOGGED, bank, RULE)
    [trial] = [t for t in chosen.trials if t.kind == FORECAST.name]
    assert "windows follow another without a gap" in trial.failed
    assert chosen.kind.name != FORECAST.name


def test_a_level_that_wanders_for_ever_costs_no_false_alarms_once_it_is_followed(bank):
    whole = history(1, 0.3)
    early = np.arange(COUNT) < COUNT // 3
    found = choose(whole.part(early), LOGGED, bank, RULE)
    assert found.kind.name == FORECAST.name
    later = found.detector.distance(whole.rows(found.detector.recent))[~early]
    still = fit_mahalanobis(whole.features[early], LOGGED, {"shrinkage": 0.2})
    limit = threshold_for([still.distance(whole.features[early])], RULE).distance
    high = (later >= found.threshold.distance).mean()
    assert (still.distance(whole.features[~early]) >= limit).mean() > max(0.2, 3 * high)


def test_a_fault_is_tried_as_it_begins_and_after_it_has_lasted(bank):
    given = history(1, 0.0)
    every = given.rows(0.03)[10:60]
    kind = bank.kinds[0]
    found = with_fault(bank, every, kind, bank.severities(kind)[-1], 0.03)
    begun, lasted = found[:50], found[50:]
    np.testing.assert_array_equal(begun[:, :4], lasted[:, :4])
    np.testing.assert_array_equal(begun[:, 4:], every[:, 4:])
    share = 1 - 0.97**LASTED
    largest, levels = bank.severities(kind)[-1], every[:, 4:]
    wanted = levels + share * (bank.inject(levels, kind, largest) - levels)
    np.testing.assert_allclose(lasted[:, 4:], wanted)
    detector = FORECAST.fit(given.rows(0.03), LOGGED, FORECAST.settings[0])
    recalls = bank_recall(detector, every, bank, detector.calibration.middle)
    assert all(0 <= share <= 1 for shares in recalls.values() for share in shares)


def test_recent_levels_of_a_fit_are_of_healthy_windows_alone():
    given = history(1, 0.0)
    faulty = np.zeros(COUNT, dtype=bool)
    faulty[50:60] = True
    features = given.features.copy()
    features[50:60] += 100
    marked = FeatureHistory(features, given.device, faulty, given.excluded, given.end_us, TIMING)
    assert np.nanmax(marked.rows(0.5, healthy_only=True)[60:, 4:]) < 30
    assert np.nanmax(marked.rows(0.5)[60:, 4:]) > 50


def test_a_new_normal_moves_the_centre_and_leaves_the_calibration():
    given = history(6, 0.0)
    before = FORECAST.fit(given.rows(0.03), LOGGED, FORECAST.settings[0])
    shifted = given.features + np.array([6.0, 0.0, 0.0, 0.0])
    regime = RegimeRows(shifted, np.ones(len(shifted)), given.device, 6)
    after = adapt(before, regime, np.array([True, True, False, False]), 0.1)
    assert after.calibration == before.calibration
    assert before.distance(shifted).mean() > 3 * after.distance(shifted).mean()


def test_fewer_windows_ask_for_more_of_a_later_candidate():
    assert margin_of(25) == pytest.approx(0.1)
    assert margin_of(10_000) == 0.02
