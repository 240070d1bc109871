"""Laws of reports: each counts once, and the newest by the device's own count gives its status."""

import pytest
from sqlalchemy import func, select

from model_service.fleet.device_reports import record_report, reports_by, reports_of, statuses
from model_service.fleet.devices import devices_of
from model_service.registry.database import Registry
from model_service.registry.registry_tables import reports
from schemas.errors import ClonedIdentityError
from schemas.proto.delivery_pb2 import Installed, ReportRequest


@pytest.fixture
def registry(tmp_path):
    opened = Registry.open(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path)
    yield opened
    opened.close()


def report(number, nonce="n", device_id="m-1", **given):
    return ReportRequest(device_id=device_id, report_no=number, nonce=nonce, **{"state": "idle", **given})


def send(registry, request, at=1.0):
    with registry.transaction() as connection:
        return record_report(connection, request, at)


def read(registry, what, *args):
    with registry.reading() as connection:
        return what(connection, *args)


def test_a_repeated_report_changes_nothing(registry):
    assert send(registry, report(1, state="trial"), 1.0)
    before = read(registry, statuses)
    assert not send(registry, report(1, state="trial"), 2.0)
    assert read(registry, statuses) == before
    assert read(registry, lambda c: c.execute(select(func.count()).select_from(reports)).scalar()) == 1


def test_a_known_number_with_another_nonce_is_another_device(registry):
    send(registry, report(1))
    with pytest.raises(ClonedIdentityError, match="two devices share"):
        send(registry, report(1, nonce="other"))
    assert read(registry, statuses)[0]["report_id"] == 1


def test_a_late_report_is_kept_and_moves_nothing_back(registry):
    send(registry, report(7, state="committed", channel_seq=3), 1.0)
    send(registry, report(6, state="trial", channel_seq=3), 2.0)
    [status] = read(registry, statuses)
    assert (status["state"], status["report_id"], status["last_seen"]) == ("committed", 1, 2.0)
    assert [r["report_no"] for r in read(registry, reports_by, "m-1")] == [6, 7]


def test_the_newest_attack_stays_known(registry):
    send(registry, report(1, attack="freeze"))
    send(registry, report(2))
    assert read(registry, statuses)[0]["attack"] == "freeze"
    send(registry, report(3, attack="endless_data"))
    assert read(registry, statuses)[0]["attack"] == "endless_data"


def test_a_status_names_what_is_installed(registry):
    installed = [Installed(family="machine", version="machine-1.0123abcd", sha256="ff")]
    send(registry, report(1, installed=installed))
    assert read(registry, statuses)[0]["installed"] == {
        "machine": {"version": "machine-1.0123abcd", "sha256": "ff"}
    }


def test_reports_of_a_rollout_come_in_order_from_where_one_stopped(registry):
    for number in range(1, 5):
        send(registry, report(number, rollout_id="r" if number != 2 else "other", detail=str(number)))
    first, *rest = read(registry, reports_of, "r")
    assert [r["detail"] for r in (first, *rest)] == ["1", "3", "4"]
    assert read(registry, reports_of, "r", first["id"]) == rest
    assert ReportRequest.FromString(rest[-1]["body"]) == report(4, rollout_id="r", detail="4")


def test_an_empty_fleet_has_no_devices(registry):
    assert read(registry, devices_of) == []
    assert read(registry, statuses, "default") == []
