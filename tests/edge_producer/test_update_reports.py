"""Laws of reports: none holds up those after it, and none of them holds up the orders."""

from __future__ import annotations

from datetime import UTC, datetime

import grpc
import pytest

from edge_producer.updates.report_queue import ReportQueue
from schemas.durable import Disk
from schemas.errors import AccessError, RegistryError, RetryableError
from schemas.proto import delivery_pb2 as pb
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, quick_machine
from tests.simulators.update_service import candidate

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def queue(folder) -> ReportQueue:
    return ReportQueue(folder, Disk(), "m-1")


def add(reports: ReportQueue, device_id: str = "m-1") -> int:
    return reports.add(pb.ReportRequest(device_id=device_id, state="idle")).report_no


class Receiver:
    """Takes reports, or raises a given error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.numbers: list[int] = []
        self.error = error

    def take(self, report: pb.ReportRequest) -> datetime:
        if self.error is not None:
            raise self.error
        self.numbers.append(report.report_no)
        return NOW


FOREIGN = {
    "empty": b"",
    "garbage": b"\xff\xff\xff",
    "another device's": pb.ReportRequest(device_id="m-2", report_no=1).SerializeToString(),
    "another number's": pb.ReportRequest(device_id="m-1", report_no=7).SerializeToString(),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_damaged_or_foreign_report_is_given_up_and_counted_and_the_next_goes_out(tmp_path, kind):
    (tmp_path / "000000000001.pb").write_bytes(FOREIGN[kind])
    subject, receiver = queue(tmp_path), Receiver()
    number = add(subject)
    assert subject.flush(receiver.take) == NOW
    assert (receiver.numbers, len(subject), subject.given_up) == ([number], 0, 1)


def test_a_folder_in_the_place_of_a_report_holds_up_nothing(tmp_path):
    (tmp_path / "000000000001.pb").mkdir()
    subject, receiver = queue(tmp_path), Receiver()
    assert subject.flush(receiver.take) is None
    assert (len(subject), subject.given_up) == (0, 1)


def test_a_file_that_has_no_number_is_no_report(tmp_path):
    for name in ("x.pb", "1.pb", "9999999999999999999999999.pb"):
        (tmp_path / name).write_bytes(b"")
    subject, receiver = queue(tmp_path), Receiver()
    assert add(subject) == 1
    subject.flush(receiver.take)
    assert receiver.numbers == [1]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"\xff", b'{"last": 1e999}', b'{"last": 1e300}', b'{"last": -5}', b"[" * 100_000],
)
def test_a_damaged_count_goes_on_behind_what_waits(tmp_path, raw):
    assert add(queue(tmp_path)) == 1
    (tmp_path / "last.json").write_bytes(raw)
    assert add(queue(tmp_path)) == 2


def test_what_is_refused_for_good_goes_and_what_is_refused_for_now_stays(tmp_path):
    subject = queue(tmp_path)
    add(subject)
    for error in (AccessError("no"), RetryableError("later")):
        with pytest.raises(type(error)):
            subject.flush(Receiver(error).take)
        assert len(subject) == 1
    subject.flush(Receiver(RegistryError("never heard of it")).take)
    assert (len(subject), subject.given_up) == (0, 1)


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "NOT_FOUND", "INTERNAL"])
def test_a_service_that_takes_no_reports_is_followed_all_the_same(service, tmp_path, code):
    service.join(tmp_path / "join", "m-1")
    service.refuses_reports = grpc.StatusCode[code]
    release = service.sign(candidate(1))
    service.instruct(release)
    with UpdaterRig(edge_settings(tmp_path), quick_machine()) as rig:
        rig.drive(lambda: rig.version == release.version, 20.0, "the instruction to be followed")
        assert rig.agent.checked.is_set()
