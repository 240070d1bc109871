"""The gate on how far a healthy reference may go unexplained: steps add up over generations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import insert

from feature_store.point_in_time import RowSelection
from model_service.gates.evaluate import evaluate
from model_service.gates.reference_history import unexplained_of
from model_service.gates.unexplained_shift import (
    MOST_RESCALING,
    MOST_SHIFT,
    Unexplained,
    judge_unexplained_shift,
)
from model_service.models.bundle_files import build_bundle
from model_service.registry.database import Registry
from model_service.registry.registry_tables import candidates, runs
from model_service.training.lineage import stored_selection
from model_service.training.run_states import RunState
from model_service.training.training_run import TRAINER, RunReason, TrainingPlan, TrainingRun
from tests.model_service.regimes import BANK, CHAMPION, LINEAGE, MACHINE, OLD, gate_inputs, rows, warmer

FIRST = CHAMPION.manifest.version
NONE = Unexplained.none(FIRST, MACHINE.feature_names, OLD)
STEP = 0.3 * MOST_SHIFT
"""Of which three are allowed and four are not."""


def moved(model, shift, factor=1.0):
    """The model with each centre moved by so many of the first model's spreads, and another calibration."""
    calibration = model.calibration.model_copy(update={"middle": model.calibration.middle * factor})
    return model.moved_to(model.mean + np.asarray(shift) * OLD.std, model.std).calibrated_by(calibration)


def along(feature, size):
    shift = np.zeros(len(OLD.std))
    shift[MACHINE.feature_names.index(feature)] = size
    return shift


def test_steps_too_small_to_be_seen_one_by_one_are_refused_where_they_add_up():
    model, so_far, passed = OLD, NONE, []
    for _ in range(4):
        after = moved(model, along("temperature_mean", STEP))
        verdict = judge_unexplained_shift(so_far, so_far.after(model, after, None), BANK)
        passed.append(verdict.passed)
        model, so_far = (after, so_far.after(model, after, None)) if verdict.passed else (model, so_far)
    assert passed == [True, True, True, False]
    assert "temperature_mean" in verdict.text
    back = so_far.after(model, moved(model, along("temperature_mean", -STEP)), None)
    assert judge_unexplained_shift(so_far, back, BANK).passed


def test_a_shift_along_a_fault_is_refused_before_any_feature_has_gone_as_far():
    signature = BANK.signature("bearing_wear", OLD.std)
    worn_a_little, restored = (
        NONE.after(OLD, moved(OLD, s * signature), None) for s in (1.2 * MOST_SHIFT, -1.2 * MOST_SHIFT)
    )
    assert np.abs(worn_a_little.centre).max() < MOST_SHIFT
    verdict = judge_unexplained_shift(NONE, worn_a_little, BANK)
    assert not verdict.passed
    assert verdict.detail["along"] == "the fault bearing_wear"
    assert judge_unexplained_shift(NONE, restored, BANK).passed
    assert judge_unexplained_shift(NONE, worn_a_little, None).passed


def test_sensitivity_may_not_be_lost_in_small_steps_either():
    model, so_far, allowed = OLD, NONE, 0
    factor = MOST_RESCALING**0.4
    for _ in range(4):
        after = moved(model, 0 * OLD.std, factor)
        step = so_far.after(model, after, None)
        if judge_unexplained_shift(so_far, step, BANK).passed:
            model, so_far, allowed = after, step, allowed + 1
    assert allowed == 2


def test_what_a_drift_moved_is_explained_and_what_it_did_not_counts_for_the_next():
    explained = np.array([n.startswith("temperature") for n in MACHINE.feature_names])
    after = moved(OLD, along("temperature_mean", 5.0) + along("current_mean", STEP), 1.2)
    so_far = NONE.after(OLD, after, explained)
    assert so_far.centre[MACHINE.feature_names.index("temperature_mean")] == 0
    assert so_far.largest(None) == (pytest.approx(STEP), "current_mean")
    assert so_far.rescaling == 0


def test_a_model_that_went_far_under_an_older_release_may_only_come_nearer():
    far = NONE._replace(centre=along("current_mean", 3.0))
    for step, passes in ((0.1, False), (-0.1, True)):
        after = far._replace(centre=far.centre + along("current_mean", step))
        assert judge_unexplained_shift(far, after, BANK).passed is passes


def test_the_gate_refuses_a_run_by_the_clock_and_lets_a_person_explain_it():
    """The same candidate: temperature eight degrees up on all machines. A drift explains it in test_gates."""
    taken = rows(warmer())

    def verdict(**facts):
        inputs = gate_inputs(taken, **facts)
        return next(v for v in evaluate(inputs) if v.gate == "unexplained_shift")

    assert not verdict(shown=False).passed
    asked = verdict(shown=False, asked_by="alex")
    assert asked.passed
    assert "alex asked for it" in asked.text


@pytest.fixture
def registry(tmp_path):
    found = Registry.open(f"sqlite:///{tmp_path / 'r.db'}", tmp_path)
    yield found
    found.close()


def test_history_is_read_step_by_step_from_the_first_model_on(registry):
    """Four steps: by the clock, after a drift, by a person, by the clock. The first and the last count."""
    steps = [
        (along("current_mean", 0.1), TRAINER, None),
        (along("temperature_mean", 4.0), TRAINER, datetime(2026, 7, 1, tzinfo=UTC)),
        (along("vibration_rms", 2.0), "alex", None),
        (along("current_mean", 0.2), TRAINER, None),
    ]
    model, before = OLD, CHAMPION
    for major, (shift, by, onset) in enumerate(steps, 1):
        model = moved(model, shift)
        before = stored(registry, model, before, major, by, onset)
    with registry.reading() as connection:
        found = unexplained_of(connection, MACHINE, before.manifest)
    assert found.first == FIRST
    assert found.centre == pytest.approx(along("current_mean", 0.3), abs=1e-5)


def test_a_run_that_is_not_on_record_explains_nothing(registry):
    made = bundle_of(moved(OLD, along("current_mean", 0.2)), CHAMPION, 1)
    with registry.reading() as connection:
        found = unexplained_of(connection, MACHINE, made.manifest)
    assert found.centre == pytest.approx(along("current_mean", 0.2), abs=1e-5)


def test_a_champion_of_other_features_than_the_profile_has_now_has_no_history(registry):
    other = stored(registry, moved(OLD, along("current_mean", 0.1)), CHAMPION, 1, TRAINER, None).manifest
    other = other.model_copy(update={"features": MACHINE.feature_names[:-1]})
    with registry.reading() as connection:
        assert unexplained_of(connection, MACHINE, other) is None


def bundle_of(model, before, major):
    lineage = LINEAGE.model_copy(update={"run_id": f"run-{major}", "champion": before.manifest.version})
    manifest = before.manifest.model_copy(
        update={
            "version": "", "lineage": lineage, "calibration": model.calibration,
            "parameters": model.parameters(), "files": {},
        }
    )  # fmt: skip
    return build_bundle(manifest, before.model, before.golden, major)


def stored(registry, model, before, major, by, onset):
    """A candidate and its run, as trainer and gate leave them."""
    made = bundle_of(model, before, major)
    at = datetime.fromtimestamp(major, UTC)
    selection = stored_selection(
        RowSelection(MACHINE, at, at + timedelta(seconds=1), at + timedelta(seconds=1))
    )
    run = TrainingRun(
        run_id=f"run-{major}", family="machine", profile="machine", state=RunState.TRAINED,
        reason=RunReason.DRIFT if onset else RunReason.SCHEDULE, requested_by=by, created_at=at,
        updated_at=at, plan=TrainingPlan(selection=selection, moved=("temperature",)), onset=onset,
        version=made.manifest.version,
    )  # fmt: skip
    candidate = {
        "version": made.manifest.version, "family": "machine", "major": major, "kind": "anomaly",
        "run_id": f"run-{major}", "champion": before.manifest.version, "sha256": f"{major}", "length": 1,
        "manifest": made.manifest.model_dump(mode="json"), "state": "published", "detail": "",
        "created_at": 1.0 * major, "updated_at": 1.0 * major,
    }  # fmt: skip
    with registry.transaction() as connection:
        connection.execute(insert(runs).values(**run.row()))
        connection.execute(insert(candidates).values(**candidate))
    return made
