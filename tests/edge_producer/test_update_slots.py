"""Laws of slots: what returned survives a power cut, and whatever is damaged gives way to what is whole."""

from __future__ import annotations

import pytest

from edge_producer.updates.report_queue import MAX_WAITING, ReportQueue
from edge_producer.updates.slots import ModelSet, ModelSlots, SlotPointer
from schemas.channel_documents import Release
from schemas.durable import Disk
from schemas.errors import AccessError, BundleError, RejectedError, ServiceUnavailableError
from schemas.profile_file import find_profile
from schemas.proto import delivery_pb2 as pb
from tests.simulators.lossy_disk import LossyDisk, PowerCut
from tests.simulators.update_service import candidate

MACHINE = find_profile("machine")
BUNDLES = {number: candidate(number) for number in range(1, 5)}


def model_set(number: int) -> ModelSet:
    version = BUNDLES[number].manifest.version
    return ModelSet(releases={"machine": Release(version=version, sha256=f"{number:064x}")})


def installed(slots: ModelSlots, *numbers: int, proven: bool = True) -> None:
    for number in numbers:
        slots.stage(model_set(number), BUNDLES[number].files)
        slots.switch(model_set(number))
        if proven:
            slots.prove()


@pytest.fixture
def disk(tmp_path):
    with_disk = LossyDisk(tmp_path / "device")
    yield with_disk
    with_disk.close()


def opened(disk) -> ModelSlots:
    return ModelSlots(disk.root, MACHINE, disk)


def test_a_new_device_runs_the_factory_set(disk):
    assert opened(disk).pointer() == SlotPointer(active=opened(disk).factory)


def test_a_switch_that_returned_survives_a_power_cut(disk):
    installed(opened(disk), 1, proven=False)
    disk.power_cut()
    pointer = opened(disk).pointer()
    assert (pointer.active, pointer.proven) == (model_set(1), False)
    assert opened(disk).whole(model_set(1))


def test_a_staged_slot_survives_a_power_cut_whole(disk):
    opened(disk).stage(model_set(1), BUNDLES[1].files)
    disk.power_cut()
    assert opened(disk).whole(model_set(1))


def test_a_set_that_is_not_whole_cannot_be_switched_to(disk):
    with pytest.raises(BundleError):
        opened(disk).switch(model_set(1))
    assert opened(disk).pointer().active == opened(disk).factory


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_power_cut_during_a_switch_leaves_one_set_or_the_other(tmp_path, cut):
    disk = LossyDisk(tmp_path / "device")
    installed(opened(disk), 1)
    disk.die_after = disk.renames + cut
    try:
        installed(opened(disk), 2)
    except PowerCut:
        disk.power_cut()
    slots = opened(disk)
    assert slots.pointer().active in (model_set(1), model_set(2))
    assert slots.whole(slots.pointer().active)
    disk.close()


def test_an_unproven_set_is_nothing_to_go_back_to(disk):
    slots = opened(disk)
    installed(slots, 1)
    installed(slots, 2, proven=False)
    assert slots.candidates() == [model_set(1), slots.factory]
    installed(slots, 3)
    assert slots.pointer().previous == (model_set(1), slots.factory)


def test_two_earlier_sets_are_kept_and_nothing_else(disk):
    slots = opened(disk)
    installed(slots, 1, 2, 3, 4)
    slots.tidy()
    assert slots.pointer().previous == (model_set(3), model_set(2))
    assert {p.name for p in (disk.root / "slots").iterdir()} == {model_set(n).digest for n in (2, 3, 4)}
    slots.stage(model_set(1), BUNDLES[1].files)
    slots.tidy(model_set(1))
    assert slots.whole(model_set(1))


def test_going_back_and_forth_keeps_each_set_once(disk):
    slots = opened(disk)
    installed(slots, 1, 2, 1, 2)
    assert slots.pointer().previous == (model_set(1), slots.factory)
    assert slots.known(model_set(1))
    assert not slots.known(model_set(3))


def test_another_version_in_a_slot_is_not_that_set(disk):
    slots = opened(disk)
    slots.stage(model_set(1), BUNDLES[2].files)
    assert not slots.whole(model_set(1))


# Reports use the same disk.


def report(state: str = "idle") -> pb.ReportRequest:
    return pb.ReportRequest(device_id="m-1", state=state)


def test_reports_are_numbered_across_restarts_and_resent_with_the_same_nonce(disk):
    first = ReportQueue(disk.root / "reports", disk, "m-1").add(report("trial"))
    disk.power_cut()
    reports = ReportQueue(disk.root / "reports", disk, "m-1")
    second = reports.add(report("watch"))
    assert (first.report_no, second.report_no) == (1, 2)

    def away(_request):
        raise ServiceUnavailableError("nobody there")

    with pytest.raises(ServiceUnavailableError):
        reports.flush(away)
    sent = []
    reports.flush(sent.append)
    assert [(r.report_no, r.nonce, r.state) for r in sent] == [
        (1, first.nonce, "trial"),
        (2, second.nonce, "watch"),
    ]
    assert len(reports) == 0
    assert reports.add(report()).report_no == 3


def test_a_report_that_is_refused_does_not_hold_up_the_next(tmp_path):
    reports = ReportQueue(tmp_path, Disk(), "m-1")
    reports.add(report("bad"))
    reports.add(report("good"))
    sent = []

    def service(request):
        if request.state == "bad":
            raise RejectedError("a field cannot be what it is")
        sent.append(request.state)

    reports.flush(service)
    assert (sent, len(reports)) == (["good"], 0)
    reports.add(report())

    def denied(_request):
        raise AccessError("revoked")

    with pytest.raises(AccessError):
        reports.flush(denied)
    assert len(reports) == 1


def test_while_nobody_listens_the_newest_reports_are_kept(tmp_path):
    reports = ReportQueue(tmp_path, Disk(), "m-1")
    for _ in range(MAX_WAITING + 5):
        reports.add(report())
    assert len(reports) == MAX_WAITING
    sent = []
    reports.flush(sent.append)
    assert sent[-1].report_no == MAX_WAITING + 5
