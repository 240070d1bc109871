"""Laws of reports: each counts once, and the newest by the device's own count gives its status."""

import pytest
from sqlalchemy import func, insert, select, update

from model_service.fleet.device_reports import (
    KEPT,
    note_twin,
    record_report,
    reports_of,
    statuses,
    twin_reports,
)
from model_service.fleet.devices import devices_of
from model_service.registry.database import Registry, note
from model_service.registry.registry_tables import reports, rollouts
from model_service.rollout.device_progress import device_progress
from model_service.rollout.observing import RolloutReports
from model_service.rollout.report_retention import SLACK, forget_reports
from schemas.channel_documents import Release
from schemas.errors import ClonedIdentityError
from schemas.proto.delivery_pb2 import Installed, ReportRequest, Shadow


@pytest.fixture
def registry(tmp_path):
    opened = Registry.open(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path)
    yield opened
    opened.close()


def reports_by(connection, device_id):
    """Reports of a device, newest first."""
    query = select(reports).where(reports.c.device_id == device_id).order_by(reports.c.id.desc())
    return connection.execute(query).mappings().all()


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


def stored(registry):
    query = select(reports.c.report_no).order_by(reports.c.report_no)
    return read(registry, lambda c: list(c.execute(query).scalars()))


def fill(registry, numbers, **given):
    with registry.transaction() as connection:
        for number in numbers:
            record_report(connection, report(number, **given), float(number))


def forget(registry, device_id="m-1"):
    with registry.transaction() as connection:
        return forget_reports(connection, device_id)


def test_of_a_device_that_reports_without_end_the_newest_are_kept(registry):
    fill(registry, range(1, 401))
    assert forget(registry) == 400 - KEPT
    assert stored(registry) == list(range(401 - KEPT, 401))
    assert forget(registry) == 0
    assert read(registry, statuses)[0]["last_seen"] == 400.0


def test_a_device_with_few_reports_loses_none_and_neither_do_others(registry):
    fill(registry, range(1, KEPT + SLACK + 1))
    fill(registry, range(1, 10), device_id="m-2")
    assert forget(registry) == 0
    fill(registry, [1000])
    assert forget(registry) > 0
    assert len(read(registry, reports_by, "m-2")) == 9


def open_rollout(registry, state):
    with registry.transaction() as connection:
        connection.execute(insert(rollouts).values(
            rollout_id="r", grp="g", family="machine", version=VERSION, state=state, phase=0, security=False,
            record={}, created_by="t", created_at=1.0, updated_at=1.0,
        ))  # fmt: skip


VERSION = "machine-1.0123abcd"
TRIED = Installed(family="machine", version=VERSION)


@pytest.mark.parametrize(("state", "kept"), [("running", True), ("paused", True), ("completed", False)])
def test_what_an_open_rollout_is_judged_by_is_kept_however_much_follows(registry, state, kept):
    open_rollout(registry, state)
    about = {"rollout_id": "r", "attempted": TRIED}
    send(registry, report(1, state="trial", shadow=Shadow(shadow_version=VERSION, windows=9), **about))
    send(registry, report(2, state="idle", result="committed", crashes=2, **about))
    before = read(registry, of_rollout)
    fill(registry, range(3, 400))
    forget(registry)
    assert len(stored(registry)) <= KEPT + SLACK
    assert (progress_of(read(registry, of_rollout)) == progress_of(before)) is kept


def of_rollout(connection):
    return RolloutReports("r", frozenset({VERSION})).read(connection)["m-1"]


def progress_of(found):
    target = Release(version=VERSION, sha256="0" * 64)
    return device_progress(found, None, target, "machine", 2000.0, 3600.0)


def test_reading_on_a_rollout_holds_a_bounded_number_of_reports_of_a_device(registry):
    found = RolloutReports("r", frozenset({VERSION}))
    fill(registry, range(1, 600), rollout_id="r", attempted=TRIED, state="trial")
    assert len(read(registry, found.read)["m-1"]) <= 2 * KEPT
    fill(registry, [600], rollout_id="r", attempted=TRIED, state="idle", result="committed")
    assert progress_of(read(registry, found.read)["m-1"]).kind == "committed"


def test_the_report_that_arrived_last_is_never_forgotten(registry):
    fill(registry, range(100, 500))
    last = read(registry, lambda c: c.execute(select(func.max(reports.c.id))).scalar())
    with registry.transaction() as connection:  # as 0.2.0 took it: a late report below hundreds of others
        connection.execute(update(reports).where(reports.c.id == last).values(report_no=1))
    assert forget(registry) > 0
    fill(registry, [9000], device_id="m-2")
    newest = read(registry, lambda c: c.execute(select(func.max(reports.c.id))).scalar())
    assert newest > last  # an id that is given twice would hide the second report from those who read on


def test_a_number_below_all_that_are_kept_is_another_devices(registry):
    fill(registry, range(1, 401))
    forget(registry)
    with pytest.raises(ClonedIdentityError, match="set back"):
        send(registry, report(17))
    assert send(registry, report(401))


def test_events_of_0_2_0_about_a_twin_still_count(registry):
    with registry.transaction() as connection:
        for number in range(3):
            note(connection, f"cloned/m-1/{number}/n", "m-1", "identity_cloned", {"report_no": number})
        note_twin(connection, "m-1", 40, 1.0)
        note_twin(connection, "m-2", 2, 1.0)
    assert read(registry, twin_reports) == {"m-1": 43, "m-2": 2}
