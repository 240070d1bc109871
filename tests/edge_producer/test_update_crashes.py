"""Laws of crashes: wherever the power goes, one whole set runs, and the next start ends what was begun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from edge_producer.updates.slots import ModelSlots
from schemas.durable import Disk
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, one_child, quick_machine
from tests.simulators.lossy_disk import LossyDisk, PowerCut
from tests.simulators.update_service import candidate

PROFILE = quick_machine()


@pytest.fixture(scope="module")
def resources():
    with one_child() as found:
        yield found


def whole_set(settings, disk) -> str:
    """Version of the set that a start without network would run; fails if it is not whole."""
    slots = ModelSlots(settings.updates_dir / "m-1", PROFILE, disk)
    return slots.bundle(slots.pointer().active).manifest.version


@pytest.mark.long
def test_the_power_may_go_after_any_write(service, tmp_path, resources):
    """The same update again and again, cut one write later each time; the trial's child goes on living."""
    release = service.sign(candidate(1))
    service.instruct(release)
    factory = service.factory.version
    cut, versions = 0, set()
    while True:
        cut += 1
        folder = tmp_path / f"run-{cut}"
        service.join(folder / "join", "m-1")
        settings = edge_settings(folder)
        disk = LossyDisk(settings.updates_dir, cut)
        try:
            with UpdaterRig(settings, PROFILE, disk, resources) as rig:
                rig.settle(release.version)
                whole = disk.renames < cut
        except PowerCut:
            whole = False
        if whole:
            break
        disk.power_cut()
        versions.add(whole_set(settings, disk))
        service.reports.clear()
        with UpdaterRig(settings, PROFILE, disk, resources) as again:
            again.settle(release.version)
        disk.close()
        assert service.results("m-1")[-1] == "committed"
    assert cut > 25
    assert versions == {factory, release.version}


STEPS = (
    'state.json="state":"fetching"',
    'state.json="state":"verified"',
    "slot",
    'state.json="state":"staged"',
    'state.json="state":"trial"',
    'state.json="state":"committed"',
    'current.json="proven":false',
    'state.json="state":"watch"',
    'current.json="proven":true',
)


@pytest.mark.sliced(one_of=5)
@pytest.mark.faults
@pytest.mark.parametrize("step", STEPS)
def test_a_device_killed_at_any_persisted_transition_ends_with_the_new_model_in_force(
    service, tmp_path, step
):
    """Once: a second end of the process in a trial or watch counts against the model."""
    release = service.sign(candidate(1))
    service.join(tmp_path / "join", "m-1")
    service.instruct(release)
    settings = edge_settings(tmp_path)
    for what, ends in ((step, -signal.SIGKILL), ("nothing", 0)):
        command = [sys.executable, "-m", "tests.simulators.dying_device", tmp_path, release.version, what]
        quiet = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
        run = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=100, check=False)
        assert run.returncode == ends, (what, run.stderr[-2000:])
        assert whole_set(settings, Disk()) in (service.factory.version, release.version)
    assert run.stdout == release.version
    assert service.results("m-1")[-1] == "committed"
    assert {r.installed[0].version for r in service.reports["m-1"][-2:]} == {release.version}


def test_a_start_sweeps_what_earlier_crashes_left_and_nothing_else(service, settings, resources):
    version = updated(service, settings, resources, 1)
    device = settings.updates_dir / "m-1"
    before = {p for p in device.rglob("*") if p.is_file()}
    (device / "slots" / "0123.new").mkdir()
    names = [
        "state.json.new",
        "reports/1.pb.new",
        "slots/0123.new/half",
        ".part-time.json",
        "download/ab.part",
    ]
    names += [f".tmp-current.json.{32 * 'a'}", f"metadata/documents/.tmp-policy.json.{32 * 'a'}"]
    for name in names:
        (device / name).write_bytes(b"half a rec")
    service.down = True
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        assert rig.version == version
        assert {p for p in device.rglob("*") if p.is_file()} == before | {device / "download" / "ab.part"}


def test_a_device_whose_id_ends_like_a_temporary_name_keeps_its_folder(tmp_path, resources):
    settings = edge_settings(tmp_path, ("pump.new", "part-7"))
    kept = [settings.updates_dir / device / "joined.json" for device in settings.devices]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"{}")
    with UpdaterRig(settings, PROFILE, resources=resources):
        assert all(path.exists() for path in kept)


def damaged(settings, name: str, data: bytes = b"{half a rec") -> None:
    (settings.updates_dir / "m-1" / name).write_bytes(data)


@pytest.fixture
def settings(tmp_path, service):
    service.join(tmp_path / "join", "m-1")
    return edge_settings(tmp_path)


def updated(service, settings, resources, number: int) -> str:
    """A device that runs candidate ``number``, proven."""
    release = service.sign(candidate(number))
    service.instruct(release)
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        rig.settle(release.version)
    return release.version


def test_a_damaged_record_means_restore_and_keeps_what_had_proved_itself(service, settings, resources):
    version = updated(service, settings, resources, 1)
    damaged(settings, "state.json")
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        assert (rig.state, rig.version) == ("restored", version)
        rig.drive(lambda: "restored" in service.results("m-1"))
        assert rig.agent.installer.record.seq == 1, "a replayed channel must not get in through a damage"


def test_a_damaged_record_under_watch_brings_the_earlier_model_back_offline(service, settings, resources):
    first = updated(service, settings, resources, 1)
    release = service.sign(candidate(2))
    service.instruct(release)
    with UpdaterRig(settings, quick_machine(watch_windows=10_000), resources=resources) as rig:
        rig.drive(lambda: rig.state == "watch")
    damaged(settings, "state.json")
    service.down = True
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        assert (rig.state, rig.version) == ("restored", first)


def test_a_damaged_pointer_means_the_factory_set(service, settings, resources):
    updated(service, settings, resources, 1)
    damaged(settings, "current.json")
    service.down = True
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        assert rig.version == service.factory.version


DEEP = b"[" * 100_000
STRANGER = b'{"active":{"releases":{"cell":{"version":"cell-1.00000000","sha256":null}}}}'


@pytest.mark.parametrize("damage", [b'{"active":{"releases":{}}}', STRANGER, DEEP])
def test_a_pointer_without_our_family_means_the_factory_set(service, settings, resources, damage):
    version = updated(service, settings, resources, 1)
    damaged(settings, "current.json", damage)
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        assert rig.version == service.factory.version
        rig.settle(version)


@pytest.mark.parametrize(
    "damage",
    [
        b'{"state":"restoring","seq":99999999999999999999}',
        b'{"state":"committed","attempt":null}',
        b'{"state":"watch","attempt":null}',
        b'{"state":"trial","attempt":null}',
        DEEP,
    ],
)
def test_a_record_that_makes_no_sense_is_a_damaged_one(service, settings, resources, damage):
    version = updated(service, settings, resources, 1)
    damaged(settings, "state.json", damage)
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        assert (rig.state, rig.version) == ("restored", version)
        assert rig.agent.installer.record.seq == 1
        rig.drive(lambda: "restored" in service.results("m-1"))


@pytest.mark.parametrize(
    "damage", [b'{"seq":1e999}', b'{"seq":9223372036854775807}', b'{"seq":-5}', b'{"seq":null}', DEEP]
)
def test_a_damaged_count_of_channels_gives_way_to_the_record(service, settings, resources, damage):
    updated(service, settings, resources, 1)
    damaged(settings, "accepted.json", damage)
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        assert rig.agent.installer.record.seq == 1
        service.instruct(service.factory, reason="rollback")
        rig.settle(service.factory.version)
        assert rig.agent.installer.record.seq == 2


def test_both_counts_damaged_still_start(service, settings, resources):
    version = updated(service, settings, resources, 1)
    damaged(settings, "accepted.json", b'{"seq":-5}')
    damaged(settings, "state.json")
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        assert (rig.state, rig.version) == ("restored", version)


def test_a_watch_over_another_set_than_the_one_that_runs_proves_nothing(service, settings, resources):
    release = service.sign(candidate(1))
    service.instruct(release)
    with UpdaterRig(settings, quick_machine(watch_windows=10_000), resources=resources) as rig:
        rig.drive(lambda: rig.state == "watch")
    damaged(settings, "current.json")
    service.down = True
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        assert (rig.state, rig.version) == ("restored", service.factory.version)


def test_a_damaged_set_in_force_gives_way_to_the_earlier_one_offline(service, settings, resources):
    first = updated(service, settings, resources, 1)
    second = updated(service, settings, resources, 2)
    [model] = [
        p for p in settings.updates_dir.glob("m-1/slots/*/machine/manifest.json") if second in p.read_text()
    ]
    model.with_name("model.onnx").write_bytes(b"rot")
    service.down = True
    with UpdaterRig(settings, PROFILE) as rig:
        assert (rig.state, rig.version) == ("restored", first)


def test_two_crashes_under_watch_restore_the_earlier_model_offline(service, settings, resources):
    first = updated(service, settings, resources, 1)
    release = service.sign(candidate(2))
    service.instruct(release)
    slow = quick_machine(watch_windows=10_000)
    rig = UpdaterRig(settings, slow, resources=resources)
    rig.drive(lambda: rig.state == "watch")
    service.down = True
    versions = [rig.version]
    for _ in range(2):
        rig.updater.stop()  # the agents are not closed: to the record that is a crash
        rig = UpdaterRig(settings, slow, resources=resources)
        versions.append(rig.version)
    assert versions == [release.version, release.version, first]
    service.down = False
    rig.drive(lambda: "restored" in service.results("m-1"))
    report = [r for r in service.reports["m-1"] if r.result == "restored"][-1]
    assert (report.attempted.version, report.installed[0].version, report.crashes) == (
        release.version,
        first,
        1,
    )
    rig.drive(lambda: rig.state == "restored" and rig.agent.checked.is_set())
    assert rig.version == first, "what crashed is not tried again for the same channel"
    rig.close()


def test_a_process_that_is_killed_in_a_trial_tries_the_same_model_again_once(service, settings, resources):
    release = service.sign(candidate(1))
    service.instruct(release)
    endless = quick_machine(trial_windows=10_000)
    rig = UpdaterRig(settings, endless, resources=resources)
    rig.drive(lambda: rig.state == "trial")
    rig.updater.stop()  # the agents are not closed: to the record the process was killed
    again = UpdaterRig(settings, endless, resources=resources)
    again.drive(lambda: again.state == "trial", what="the same model on trial again")
    again.drive(lambda: service.reports["m-1"][-1].unclean_ends == 1, what="a report of the end")
    assert "restored" not in service.results("m-1")
    again.updater.stop()
    with UpdaterRig(settings, endless, resources=resources) as third:
        third.drive(lambda: "restored" in service.results("m-1"), what="a failure")
        report = service.reports["m-1"][-1]
        assert (report.restarts, report.unclean_ends, report.out_of_memory) == (2, 2, 0)
        assert report.runtime.startswith("onnxruntime ")
        assert "ended 2 times" in report.detail
        assert (third.version, third.state) == (service.factory.version, "restored")


def test_ends_in_order_are_no_crashes(service, settings, resources):
    release = service.sign(candidate(1))
    service.instruct(release)
    slow = quick_machine(watch_windows=10_000)
    for _ in range(4):
        with UpdaterRig(settings, slow, resources=resources) as rig:
            rig.drive(lambda: rig.state == "watch")
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        rig.settle(release.version)


def test_an_attempt_that_goes_round_in_circles_is_given_up(service, settings, resources):
    release = service.sign(candidate(1))
    service.instruct(release)
    record = settings.updates_dir / "m-1" / "state.json"
    with UpdaterRig(settings, quick_machine(trial_windows=10_000), resources=resources) as rig:
        rig.drive(lambda: rig.state == "trial")
    raw = json.loads(record.read_text())
    raw["attempt"]["transitions"] = 29
    record.write_text(json.dumps(raw))
    with UpdaterRig(settings, PROFILE, resources=resources) as rig:
        rig.drive(lambda: "no_change_failed" in service.results("m-1"))
        rig.agent.checked.clear()
        rig.drive(rig.agent.checked.is_set)
        assert rig.version == service.factory.version
        assert "given up" in service.reports["m-1"][-1].detail
