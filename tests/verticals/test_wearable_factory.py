"""Laws of the wearables' profile, their model and their fault bank as they ship."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_producer.bundle import load_bundle
from infra.verticals.wearable.wearable_factory import (
    FAULTS,
    RUN_WINDOWS,
    build_bundle,
    build_fault_bank,
    healthy_runs,
)
from model_service.detectors.kinds import detector_of
from model_service.models.fault_bank import shipped_bank
from model_service.training.sensor_change import sensor_changed
from model_service.verticals.wearable.rhythm_model import LEVEL, LEVEL_SCORE, RhythmModel
from schemas.profile_file import find_profile

PROFILE = find_profile("wearable")
NAMES = PROFILE.feature_names


@pytest.fixture(scope="module")
def healthy() -> np.ndarray:
    """Windows of a wearer that the factory has not seen, at rest."""
    quality = NAMES.index("ecg_motion_signal_quality")
    runs = (next(healthy_runs(PROFILE, number)) for number in range(1001, 1020))
    return next(run for run in runs if run[:, quality].min() > 0.9)


@pytest.fixture(scope="module")
def model() -> RhythmModel:
    found = detector_of(load_bundle(PROFILE).manifest)
    assert isinstance(found, RhythmModel)
    return found


def test_both_profiles_run_the_shipped_model():
    versions = {load_bundle(find_profile(n)).manifest.version for n in ("wearable", "wearable_demo")}
    assert len(versions) == 1


def test_the_model_alarms_known_faults_and_no_healthy_window(model, healthy):
    bank = shipped_bank(PROFILE)
    assert bank.kinds == tuple(sorted(FAULTS))
    assert healthy.shape == (RUN_WINDOWS, len(NAMES))
    enter = PROFILE.decision.alarm
    assert (model.score(healthy) < enter).all()
    for kind in bank.kinds:
        worst = bank.inject(healthy, kind, 1.0)
        found = (model.score(worst) >= enter).mean()
        assert found > (0.1 if kind == "irregular_rhythm" else 0.8), kind


def test_height_alone_never_alarms_and_is_all_that_is_learnt(model, healthy):
    at = [NAMES.index(n) for n in LEVEL]
    odd = healthy.copy()
    odd[:, at] *= 0.1
    assert model.score(odd).max() <= LEVEL_SCORE + 1e-9 < PROFILE.decision.alarm
    moved = model.moved_to(model.mean + 1.0, 2 * model.std)
    kept = [k for k in range(len(NAMES)) if k not in at]
    np.testing.assert_array_equal(moved.mean[kept], model.mean[kept])
    np.testing.assert_array_equal(moved.std[kept], model.std[kept])
    assert (moved.mean[at] == model.mean[at] + 1.0).all()


def test_a_window_without_a_feature_has_no_score(model, healthy):
    blind = healthy[:2].copy()
    blind[0, 3] = np.nan
    assert np.isnan(model.score(blind)).tolist() == [True, False]
    assert np.isnan(model.further(blind)).all(axis=1).tolist() == [True, False]


def test_a_poor_signal_scales_every_alarm_down(model, healthy):
    worst = healthy[:1].copy()
    worst[0, NAMES.index("ecg_rr_irregularity")] = 0.5
    worst[0, NAMES.index("ecg_motion_signal_quality")] = 1.0
    poor = worst.copy()
    poor[0, NAMES.index("ecg_motion_signal_quality")] = 0.0
    assert model.score(worst)[0] > PROFILE.decision.alarm > 0.01 > model.score(poor)[0]
    assert replace(model).further(poor)[0, PROFILE.model.outputs.index("quality")] == 1.0


@pytest.mark.long
def test_the_recipe_builds_the_same_bytes_twice():
    first, second = build_bundle(2), build_bundle(2)
    assert first.manifest.version == second.manifest.version
    assert build_fault_bank(1).to_bytes() == build_fault_bank(1).to_bytes()


def test_electrodes_of_another_batch_are_told_as_a_recalibration_and_a_change_of_rhythm_is_not(model):
    shift = np.zeros(len(NAMES))
    unit = np.where(model.logged, model.std, np.nan)
    for name in LEVEL:
        shift[NAMES.index(name)] = np.log(0.5) / model.std[NAMES.index(name)]
    for name in ("ecg_line_activity", "ecg_mains_amplitude"):
        at = NAMES.index(name)
        shift[at] = -0.5 * model.mean[at] / model.std[at]
    least = np.full(len(NAMES), 0.5)
    assert sensor_changed(shift, shift, least, unit, PROFILE)
    shift[NAMES.index("ecg_rr_irregularity")] = 3.0
    assert not sensor_changed(shift, shift, least, unit, PROFILE)
