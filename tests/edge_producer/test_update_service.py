"""Laws of a device at the real service: the serving process, its issuer, its registry."""

from __future__ import annotations

import pytest

from edge_producer.updates.updater import Updater
from model_service.fleet.device_reports import statuses
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, quick_machine
from tests.simulators.model_service import ModelService
from tests.simulators.update_service import ModelPublisher, candidate

PROFILE = quick_machine()


@pytest.fixture
def service(tmp_path):
    running = ModelService(tmp_path)
    ModelPublisher(running.settings)  # the repository comes before whoever serves it
    with running:
        yield running


def join(service, settings) -> None:
    settings.join_dir.mkdir(exist_ok=True)
    for name in settings.devices:
        (settings.join_dir / f"{name}.json").write_text(service.invite(name).model_dump_json())


def test_a_device_joins_updates_reports_and_goes_back_at_the_real_service(service, tmp_path):
    publisher, settings = ModelPublisher(service.settings), edge_settings(tmp_path, ("m-1", "m-2"))
    join(service, settings)
    release = publisher.sign(candidate(1))
    with UpdaterRig(settings, PROFILE) as rig:
        publisher.instruct(release)
        rig.settle(release.version, 60.0)
        publisher.instruct(publisher.factory, reason="rollback")
        rig.settle(publisher.factory.version, 60.0)
    with service.registry.transaction() as connection:
        found = {row["device_id"]: row for row in statuses(connection, "default")}
    assert set(found) == {"m-1", "m-2"}
    assert {(row["state"], row["channel_seq"]) for row in found.values()} == {("idle", 2)}


def test_a_device_gets_over_the_death_of_the_service_in_the_middle_of_an_update(service, tmp_path):
    publisher, settings = ModelPublisher(service.settings), edge_settings(tmp_path)
    join(service, settings)
    release = publisher.sign(candidate(1))
    with UpdaterRig(settings, quick_machine(trial_windows=20)) as rig:
        publisher.instruct(release)
        rig.drive(lambda: rig.state == "trial", 60.0)
        service.child.kill()
        rig.drive(lambda: rig.version == release.version)
        service.start()
        join(service, settings)
        rig.settle(release.version, 60.0)


def test_an_updater_says_who_has_joined(service, tmp_path):
    settings = edge_settings(tmp_path)
    join(service, settings)
    with UpdaterRig(settings, PROFILE) as rig:
        subject: Updater = rig.updater
        assert not subject.has_joined("m-1")
        rig.drive(rig.agent.checked.is_set, 60.0)
        assert subject.has_joined("m-1")
