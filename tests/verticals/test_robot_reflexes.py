"""Laws of the robot's model as it ships: what its outputs say, what it learns, and what it must not learn."""

from __future__ import annotations

from datetime import timedelta
from functools import cache

import numpy as np
import pytest

from edge_producer.bundle import load_bundle
from edge_producer.decider import Decider
from edge_producer.inference import OnnxPredictor
from infra.verticals.robot.robot_factory import (
    FAULTS,
    START,
    build_bundle,
    build_fault_bank,
    cycle_features,
    cycle_windows,
    injected,
)
from model_service import compute_features
from model_service.detectors.bank_store import choosing_bank, required_bank
from model_service.detectors.healthy_reference import healthy_reference
from model_service.detectors.trainer_interface import TrainerInput
from model_service.detectors.user_trainer import calibrated_graph
from model_service.gates.holdout import Holdout, HoldoutRows, PairedScores
from model_service.gates.recall import judge_learnt
from model_service.models.fault_bank import shipped_bank
from model_service.models.features import logged_features
from model_service.models.imported_graph import imported_graph
from model_service.models.score_stage import ScoreStage
from model_service.registry.bundle_store import learnable_families
from model_service.training.examine import fault_directions
from model_service.training.movement import similarity
from model_service.training.shifts import ReferenceScale
from model_service.verticals.robot.arm_regression import EXPLAINED, fit_motion
from model_service.verticals.robot.residual_trainer import ResidualTrainer
from schemas.profile_file import find_profile

PROFILE = find_profile("robot")
NAMES = list(PROFILE.feature_names)
ENTER = 0.5
CONTACT = 243
"""Sample of a cycle at which the arm strikes."""


@cache
def shipped():
    return load_bundle(PROFILE)


@cache
def stage():
    return ScoreStage(shipped().model, len(NAMES), "robot", PROFILE.model.output_columns)


def outputs(*items, hop=None, device="law-1", cycle=5):
    """Collision, slip and degradation of the windows of one cycle, by name."""
    windows = cycle_windows(PROFILE, device, cycle, *items, hop=hop)
    found = stage().further(compute_features(windows, PROFILE.feature_specs(), PROFILE.channel_names))
    return dict(zip(PROFILE.model.outputs, found.T, strict=True))


def rows(*items, devices=6, cycles=2, worn=()):
    made = [
        cycle_features(PROFILE, f"law-{d}", c, *items, *(worn if d % 2 else ()))
        for d in range(devices)
        for c in range(cycles)
    ]
    return np.concatenate(made), np.repeat(np.arange(devices), cycles * len(made[0]))


def test_healthy_work_and_another_tool_start_no_reflex():
    """One that is half as heavy again as a usual load, too, before any model has learnt it."""
    for items in ((), (injected("payload", 0.7),), (injected("payload", 1.5),)):
        for name, values in outputs(*items).items():
            assert values.max() < ENTER, name


def test_each_event_has_its_output_and_no_other():
    expected = {
        "collision": injected("collision"),
        "slip": injected("slip"),
        "degradation": injected("joint_wear", 1.0, "current_1"),
    }
    for name, item in expected.items():
        found = outputs(item)
        assert found[name].max() > ENTER, name
        if name != "collision":  # the vehicle under a struck arm is pushed, and slips as well
            assert all(found[other].max() < ENTER for other in expected if other != name), name


@pytest.mark.parametrize("payload", [0.0, 1.0])
@pytest.mark.parametrize("severity", [0.1, 0.3, 1.0, 3.0])
def test_a_strike_is_noticed_within_a_window_of_its_beginning(severity, payload):
    """With a load that no model has learnt as well as without."""
    struck = outputs(injected("collision", severity), injected("payload", payload), hop=1)["collision"]
    ends = np.arange(len(struck)) + PROFILE.sampling.window_samples - 1
    first = ends[np.flatnonzero(struck >= ENTER)[0]]
    assert 0 <= first - CONTACT <= PROFILE.sampling.window_samples


def test_the_device_stops_by_itself_and_retreats_from_what_does_not_give_way():
    predictor, decider = OnnxPredictor(shipped(), PROFILE), Decider(PROFILE.decision)
    windows = cycle_windows(PROFILE, "law-1", 5, injected("collision"), hop=PROFILE.sampling.hop_samples)
    actions = []
    for k, window in enumerate(windows):
        numbers, score = predictor.score("law-1", window)
        further = dict(zip(PROFILE.model.outputs, map(float, numbers[-3:]), strict=True))
        at = START + timedelta(seconds=k * PROFILE.sampling.hop_s)
        actions.append(decider.decide(at, score, further=further).action)
    first = actions.index("stop")
    end = first * PROFILE.sampling.hop_samples + PROFILE.sampling.window_samples - 1
    assert set(actions[:first]) == {"none"}
    assert end - CONTACT <= 2 * PROFILE.sampling.hop_samples
    assert "retreat" in actions[first : first + 10]


def test_a_fit_explains_the_currents_of_whatever_tool_it_has_seen():
    tool = (injected("payload", 1.0),)
    (usual, _), (heavy, _) = rows(), rows(*tool)
    before, after = fit_motion(usual, NAMES), fit_motion(heavy, NAMES)
    spread = before.residuals(usual, NAMES).std(axis=0)
    assert spread[0] < 0.1 * usual[:, NAMES.index(EXPLAINED[0])].std()
    assert np.abs(before.residuals(heavy, NAMES)[:, :2]).mean() > 5 * spread[:2].max()
    assert after.residuals(heavy, NAMES).std(axis=0) == pytest.approx(spread, rel=0.5)


def test_the_trainer_gives_the_same_bytes_and_refuses_a_profile_without_its_features():
    given = TrainerInput(rows(devices=2)[0].astype(np.float32), tuple(NAMES), 1)
    assert ResidualTrainer().fit(given) == ResidualTrainer().fit(given)
    with pytest.raises(ValueError, match="current_1_mean"):
        ResidualTrainer().fit(TrainerInput(given.features, tuple(f"x{n}" for n in NAMES), 1))


def test_a_tool_shifts_features_as_no_known_fault_and_wear_as_a_known_one():
    scale = ReferenceScale.of(shipped().manifest, PROFILE)
    directions = fault_directions(shipped_bank(PROFILE), scale)
    usual = scale.scaled(rows()[0].mean(axis=0))

    def likeness(*items):
        return similarity(scale.scaled(rows(*items)[0].mean(axis=0)) - usual, directions)

    least = PROFILE.training.fault_similarity
    assert likeness(injected("payload", 0.7)) < 0.3 * least
    for channel in FAULTS.values():
        assert likeness(injected("joint_wear", 1.0, channel)) > least


def test_a_model_that_learnt_worn_gears_is_refused_and_one_that_learnt_a_tool_is_not():
    bank, tool = shipped_bank(PROFILE), injected("payload", 0.7)
    reference = healthy_reference(shipped().manifest, PROFILE)
    policy = PROFILE.gates
    verdicts = {}
    for worn in ((), (injected("joint_wear", 1.0, "current_1"),)):
        features, device = rows(tool, worn=worn)
        graph = ResidualTrainer().fit(TrainerInput(features.astype(np.float32), tuple(NAMES), 1))
        candidate = _calibrated(graph, features)
        held = HoldoutRows(features, np.ones(len(features)), device)
        nothing = HoldoutRows(features[:0], np.ones(0), device[:0])
        holdout = Holdout(held, nothing, tuple(f"d{n}" for n in range(6)), {})
        paired = PairedScores(candidate.score, stage().score, holdout, bank, ENTER)
        verdicts[bool(worn)] = judge_learnt(
            paired, bank, reference, policy.min_recall, policy.max_recall_loss
        ).passed
    assert verdicts == {False: True, True: False}


def _calibrated(graph, features):
    made = calibrated_graph(imported_graph(graph, PROFILE), features, logged_features(PROFILE))
    healthy = made.calibration.healthy_p999
    return made.calibrated_by(made.calibration.model_copy(update={"middle": 1.15 * healthy}))


def test_a_factory_model_of_a_trainer_can_be_trained_again_and_is_chosen_by_the_bank_that_ships(tmp_path):
    assert PROFILE.model.family in learnable_families()
    digest = required_bank(tmp_path, PROFILE)
    assert choosing_bank(tmp_path, PROFILE, digest).kinds == tuple(FAULTS)


def test_both_profiles_run_the_shipped_model():
    assert load_bundle(find_profile("robot_demo")).manifest.version == shipped().manifest.version


@pytest.mark.long
def test_the_recipe_builds_the_same_bytes_twice():
    first, second = build_bundle(2), build_bundle(2)
    assert first.manifest.version == second.manifest.version
    assert build_fault_bank(2).to_bytes() == build_fault_bank(2).to_bytes()
