"""Which profile's data a person's training run learns."""

from contextlib import closing
from datetime import UTC, datetime

import pytest

from model_service.registry.database import Registry
from model_service.service.fleet_writes import decide_run, profile_to_train
from model_service.training import run_store
from model_service.training.run_states import RunState
from model_service.training.training_run import RunReason, TrainingRun
from schemas.errors import RegistryError
from tests.quick_machine_profile import quick_machine_profile

MACHINE = quick_machine_profile()
PUMP = MACHINE.model_copy(update={"name": "pump"})
BOTH = {"machine": MACHINE, "pump": PUMP}


def test_a_family_that_the_devices_of_several_profiles_run_is_refused_whoever_is_named():
    for profile in ("", "machine", "pump"):
        with pytest.raises(RegistryError, match="is run by the profiles machine, pump"):
            profile_to_train(BOTH, {"machine", "pump"}, "machine", profile)


def test_a_profile_that_no_device_runs_shares_no_family():
    assert profile_to_train(BOTH, {"pump"}, "machine") is PUMP
    assert profile_to_train(BOTH, {"pump"}, "", "pump") is PUMP


def test_the_only_profile_of_a_family_needs_no_device():
    assert profile_to_train({"machine": MACHINE}, (), "machine") is MACHINE


def test_where_nothing_tells_which_is_meant_the_profile_must_be_named():
    fan = PUMP.model_copy(update={"name": "fan"})
    with pytest.raises(RegistryError, match="name one"):
        profile_to_train({"pump": PUMP, "fan": fan}, (), "machine")
    assert profile_to_train({"pump": PUMP, "fan": fan}, (), "machine", "pump") is PUMP


def test_where_no_device_runs_any_the_profile_of_the_familys_name_is_meant():
    assert profile_to_train(BOTH, (), "machine") is MACHINE


@pytest.mark.parametrize("family", ["robust", "of-my-own"])
def test_a_family_whose_model_has_learnt_nothing_cannot_be_trained(family):
    """A run was accepted, and failed later."""
    own = PUMP.model_copy(update={"model": PUMP.model.model_copy(update={"name": family})})
    with pytest.raises(RegistryError, match=f"nothing to train in model family '{family}'"):
        profile_to_train({"pump": own}, {"pump"}, "", "pump")


@pytest.mark.parametrize(("family", "retrained"), [("robust", False), ("machine", True)])
def test_a_waiting_run_is_only_trained_where_there_is_something_to_train_and_always_dismissed(
    tmp_path, family, retrained
):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    waiting = TrainingRun("r", family, "pump", RunState.WAITING, RunReason.DRIFT, "trainer", at, at)
    with closing(Registry.open(f"sqlite:///{tmp_path / 'r.sqlite'}", tmp_path)) as registry:
        with registry.transaction() as connection:
            run_store.insert(connection, waiting)
        if not retrained:
            with registry.transaction() as connection, pytest.raises(RegistryError, match="nothing to train"):
                decide_run(connection, waiting, "anna", "", 1.0, retrain=True)
        with registry.transaction() as connection:
            decide_run(connection, waiting, "anna", "", 1.0, retrain=retrained)
            state = run_store.get(connection, "r").state
    assert state is (RunState.REQUESTED if retrained else RunState.DISMISSED)
