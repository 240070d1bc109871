"""Laws of a full disk: a failed write holds a device up, and leaves it neither stuck nor with a bad model."""

from __future__ import annotations

import orjson
import pytest

from schemas.self_digest import checked, with_digest
from tests.edge_producer.bundles import blind_when_hot, hot
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, one_child, quick_machine
from tests.simulators.full_disk import FullDisk
from tests.simulators.update_service import candidate

PROFILE = quick_machine()


@pytest.fixture(scope="module")
def resources():
    with one_child() as found:
        yield found


@pytest.fixture
def settings(tmp_path, service):
    service.join(tmp_path / "join", "m-1")
    return edge_settings(tmp_path)


def holding(name: str, *marks: str):
    """Writes of a file that hold all of the marks."""
    return lambda path, data: path.name == name and all(mark.encode() in data for mark in marks)


def a_report(path, _data) -> bool:
    return path.parent.name == "reports"


WRITES = {
    "begin": holding("state.json", '"state":"fetching"'),
    "verified": holding("state.json", '"state":"verified"'),
    "staged": holding("state.json", '"state":"staged"'),
    "trial": holding("state.json", '"state":"trial"'),
    "committed": holding("state.json", '"state":"committed"'),
    "the switch": holding("current.json", '"proven":false'),
    "watch": holding("state.json", '"state":"watch"'),
    "proven": holding("current.json", '"proven":true'),
    "idle": holding("state.json", '"state":"idle"', '"result":"committed"'),
    "a report": a_report,
}


@pytest.mark.sliced(one_of=4)
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_fails_only_holds_an_update_up(service, settings, resources, write, times):
    release = service.sign(candidate(1))
    disk = FullDisk()
    with UpdaterRig(settings, PROFILE, disk, resources) as rig:
        rig.drive(rig.agent.checked.is_set)
        disk.fill(WRITES[write], times)
        service.instruct(release)
        rig.drive(lambda: disk.refused == times)
        rig.settle(release.version)
        rig.drive(lambda: service.results("m-1")[-1:] == ["committed"])
        assert rig.agent.status["unreported"] == 0
        service.instruct(service.factory, reason="rollback")
        rig.settle(service.factory.version)


def test_the_report_of_the_end_is_told_once_the_disk_has_room(service, settings, resources):
    release = service.sign(candidate(1))
    disk = FullDisk()
    with UpdaterRig(settings, PROFILE, disk, resources) as rig:
        service.instruct(release)
        rig.drive(lambda: rig.state == "watch" and not rig.agent.status["unreported"])
        disk.fill(a_report, 5)
        rig.settle(release.version)
        rig.drive(lambda: service.reports["m-1"][-1].state == "idle")
        assert service.results("m-1")[-1] == "committed"
        assert disk.refused == 5


def turned_bad(rig, service) -> None:
    """A model in force that a watch is about to fail."""
    service.instruct(service.sign(blind_when_hot(1)))
    rig.drive(lambda: rig.state == "watch")
    source = rig.sources["m-1"]
    rig.sources["m-1"] = (hot(window) for window in source)


RESTORING = {
    "restoring": holding("state.json", '"state":"restoring"'),
    "the pointer": holding("current.json", '"proven":true'),
    "restored": holding("state.json", '"state":"restored"'),
}


@pytest.mark.parametrize("write", RESTORING)
def test_a_bad_model_leaves_although_the_disk_is_full(service, settings, write):
    disk = FullDisk()
    with UpdaterRig(settings, quick_machine(watch_windows=10_000), disk) as rig:
        turned_bad(rig, service)
        disk.fill(RESTORING[write], 10**9)
        rig.drive(lambda: disk.refused > 2)
        assert rig.version == service.factory.version, "it decides no window while the disk is full"
        disk.fill(RESTORING[write], 0)
        rig.drive(lambda: rig.state == "restored" and "restored" in service.results("m-1"))
        pointer = rig.agent.installer.pointer
        assert (pointer.proven, rig.version) == (True, service.factory.version)


def everything(_path, _data) -> bool:
    return True


@pytest.mark.parametrize("state", ["trial", "committed", "watch", "restoring"])
def test_sensing_starts_although_the_disk_is_full(service, settings, resources, state):
    """The process dies in a state, and starts again with a disk that takes nothing; later there is room."""
    release = service.sign(candidate(1))
    service.instruct(release)
    record = settings.updates_dir / "m-1" / "state.json"
    with UpdaterRig(settings, quick_machine(watch_windows=10_000), resources=resources) as rig:
        rig.drive(lambda: rig.state == ("trial" if state == "trial" else "watch"))
        kept = checked(record.read_bytes(), "the record")
    if kept["state"] == "watch":
        kept["state"] = state
    record.write_bytes(with_digest(orjson.dumps(kept)))
    disk = FullDisk()
    disk.fill(everything, 10**9)
    with UpdaterRig(settings, PROFILE, disk, resources) as rig:
        rig.sense()
        rig.agent.step()
        new = state in ("committed", "watch")
        assert rig.version == (release.version if new else service.factory.version)
        disk.fill(everything, 0)
        rig.settle(release.version)
