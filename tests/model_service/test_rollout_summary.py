"""What people are told of rollouts without asking for one by its id, and when they start one."""

from contextlib import closing

import pytest
from sqlalchemy import insert

from model_service.registry.database import Registry
from model_service.registry.registry_tables import devices
from model_service.rollout import rollout_store
from model_service.rollout.launch import draft
from model_service.rollout.rollout_summary import lacking_pool, newest
from schemas.channel_documents import FleetPolicy
from schemas.cohorts import SaltedShare


@pytest.fixture
def connection(tmp_path):
    with (
        closing(Registry.open(f"sqlite:///{tmp_path}/registry.db", tmp_path)) as registry,
        registry.transaction() as opened,
    ):
        yield opened


def started(connection, group: str, at: float) -> str:
    made = draft(group, "machine", "machine-1.0123abcd", "anna")
    return rollout_store.create(connection, made, at).rollout_id


def test_the_newest_rollout_is_the_fleets_and_not_a_probes(connection):
    """After a demo, `rollout status` showed the rollout that a scene had started for a probe."""
    fleet, probe = started(connection, "default", 100.0), started(connection, "probes", 200.0)
    assert newest(connection, last="probes") == fleet
    assert newest(connection, "probes", last="probes") == probe


def test_the_probes_rollout_is_the_newest_where_there_is_no_other(connection):
    probe = started(connection, "probes", 200.0)
    assert newest(connection, last="probes") == probe


def joined(connection, *names: str) -> None:
    plain = {"site": "s", "hardware": "h", "profile": "machine", "grp": "line", "active": True}
    empty = {c.name: 0 if c.type.python_type in (int, float) else "" for c in devices.c}
    for name in names:
        connection.execute(insert(devices).values(**{**empty, **plain, "device_id": name}))


def told(connection, **canary: SaltedShare) -> str:
    policy = FleetPolicy.model_construct(canary=canary)
    return lacking_pool(connection, "line", "machine", policy, lambda _: "machine")


def test_who_starts_a_rollout_is_told_that_the_group_has_no_canary_pool(connection):
    joined(connection, "m-1", "m-2")
    assert "group line has no canary pool" in told(connection)
    assert "--canary line=0.1" in told(connection)
    assert "none of the 2 devices" in told(connection, line=SaltedShare(devices=("other",)))
    assert told(connection, line=SaltedShare(devices=("m-2",))) == ""


def test_a_group_without_devices_lacks_none_in_its_pool(connection):
    assert told(connection, line=SaltedShare(devices=("m-2",))) == ""
