"""Files of a device's updater by damage: each cell of the table in docs/reliability.md is a test."""

import logging
import shutil
from pathlib import Path

import pytest

from edge_producer.updates.report_queue import ReportQueue
from schemas.durable import DISK
from schemas.proto import delivery_pb2 as pb
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, one_child, quick_machine
from tests.simulators.promises import DAMAGES, damaged, promises, word
from tests.simulators.update_service import UpdateService, candidate

PROFILE = quick_machine()
CELLS = promises("damage: device")
FILES = {
    "record of updates": "state.json",
    "number of the newest instruction": "accepted.json",
    "pointer to the set in force": "current.json",
    "model of the set in force": "slots/{second}/machine/model.onnx",
    "manifest of the set in force": "slots/{second}/machine/manifest.json",
    "digests of the set in force": "slots/{second}/digests.json",
    "trusted time": "time.json",
    "kept join bundle": "joined.json",
    "certificate": "certificate.pem",
    "trusted timestamp": "metadata/timestamp.json",
    "trusted root": "metadata/root.json",
    "trusted metadata of a role": "metadata/targets.json",
    "trusted document": "metadata/documents/policy%2Ffleet.json",
    "waiting report": "reports/*.pb",
    "digest of a waiting report": "reports/*.sha256",
    "number of the newest report": "reports/last.json",
}


@pytest.fixture(scope="module")
def resources():
    with one_child() as found:
        yield found


@pytest.fixture(scope="module")
def world(tmp_path_factory, resources):
    """A service, and a device that has had two models of it; what it was like after the first one."""
    folder = tmp_path_factory.mktemp("world")
    with UpdateService(folder / "service") as service:
        service.join(folder / "now" / "join", "m-1")
        settings = edge_settings(folder / "now")
        versions = []
        for number in (1, 2):
            release = service.sign(candidate(number))
            service.instruct(release)
            with UpdaterRig(settings, PROFILE, resources=resources) as rig:
                rig.settle(release.version)
            versions.append(release.version)
            if number == 1:
                shutil.copytree(folder / "now", folder / "then")
        queue = ReportQueue(settings.updates_dir / "m-1" / "reports", DISK, "m-1")
        for state in ("idle", "watch"):
            queue.add(pb.ReportRequest(device_id="m-1", state=state))
        yield service, folder, versions


def test_each_cell_of_the_table_has_its_case():
    assert {file for file, _, _ in CELLS} == set(FILES)
    assert len(CELLS) == len(FILES) * len(DAMAGES)


@pytest.mark.sliced(one_of=8)
@pytest.mark.parametrize(("file", "damage", "promise"), CELLS, ids=[f"{f}: {d}" for f, d, _ in CELLS])
def test_a_device_ends_with_the_wanted_model_and_never_runs_what_was_not_signed(
    world, resources, tmp_path, caplog, file, damage, promise
):
    service, folder, (first, second) = world
    assert word(promise) in ("healed", "harmless")
    shutil.copytree(folder / "now", tmp_path / "device")
    settings = edge_settings(tmp_path / "device")
    own = settings.updates_dir / "m-1"
    path = found(own, file, second)
    then = folder / "then" / path.relative_to(tmp_path / "device")
    older = then.read_bytes() if then.exists() else other(path)
    damaged(path, damage, older)
    caplog.set_level(logging.WARNING)
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        seen = {rig.version}
        rig.drive(lambda: seen.add(rig.version) or (rig.version == second and rig.agent.checked.is_set()))
        rig.settle(second)
        assert seen <= {service.factory.version, first, second}
        assert rig.agent.installer.record.seq == service.seq
    assert not [r for r in caplog.records if r.exc_info]


def found(own: Path, file: str, second: str) -> Path:
    [slot] = [p.parts[-3] for p in own.glob("slots/*/machine/manifest.json") if second in p.read_text()]
    return sorted(own.glob(FILES[file].format(second=slot)))[-1]


def other(path: Path) -> bytes:
    """What another file of the kind holds, where the file had no earlier content."""
    kinds = [p for p in sorted(path.parent.parent.parent.rglob(path.name)) if p != path]
    kinds += [p for p in sorted(path.parent.glob(f"*{path.suffix}")) if p != path]
    return kinds[0].read_bytes() if kinds else b"of another moment"


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d not in ("missing", "of another moment")])
def test_a_kept_join_bundle_that_is_damaged_is_named_once_no_other_is_there(
    world, resources, tmp_path, caplog, damage
):
    _, folder, (_, second) = world
    shutil.copytree(folder / "now", tmp_path / "device")
    shutil.rmtree(tmp_path / "device" / "join")
    settings = edge_settings(tmp_path / "device")
    damaged(settings.updates_dir / "m-1" / "joined.json", damage, b"")
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        rig.drive(lambda: rig.agent.last_error)
        assert "joined.json is no join bundle, or is damaged: ask for a new one" in rig.agent.last_error
        assert rig.version == second, "it goes on with what it runs"
    assert not [r for r in caplog.records if r.exc_info]
