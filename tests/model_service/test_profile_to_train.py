"""Which profile's data a person's training run learns."""

import pytest

from model_service.service.fleet_writes import profile_to_train
from schemas.errors import RegistryError
from schemas.profile_file import find_profile

MACHINE = find_profile("machine")
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
    with pytest.raises(RegistryError, match="name one"):
        profile_to_train(BOTH, (), "machine")
    assert profile_to_train(BOTH, (), "machine", "pump") is PUMP
