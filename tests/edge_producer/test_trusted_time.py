"""Trusted time at its bounds: what moves it, what does not, and what of it is written when."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from edge_producer.trust import SERVER, TrustedTime
from schemas.durable import Disk
from schemas.self_digest import checked

BUILD = datetime(2026, 5, 1, tzinfo=UTC)
MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


class CountingDisk(Disk):
    """Counts what is written."""

    writes = 0

    def write(self, path, data, **given):
        self.writes += 1
        super().write(path, data, **given)


class Rig:
    """A device's trusted time, over restarts."""

    def __init__(self, folder) -> None:
        self.path, self.passed, self.disk = folder / "time.json", 500.0, CountingDisk()

    def start(self, build=BUILD) -> TrustedTime:
        return TrustedTime(self.path, build, lambda: self.passed, self.disk)


@pytest.fixture
def rig(tmp_path) -> Rig:
    return Rig(tmp_path)


def test_it_runs_on_with_the_monotonic_clock(rig):
    time = rig.start()
    rig.passed += 90
    assert time.now() == BUILD + timedelta(seconds=90)
    time.learn(BUILD + timedelta(days=1), "timestamp")
    rig.passed += 30
    assert time.now() == BUILD + timedelta(days=1, seconds=30)


@pytest.mark.parametrize("earlier", [timedelta(0), SECOND, timedelta(days=9)])
def test_an_instant_that_is_not_newer_moves_nothing(rig, earlier):
    time = rig.start()
    rig.passed += 90
    time.learn(BUILD + timedelta(seconds=90) - earlier, "timestamp")
    assert time.now() == BUILD + timedelta(seconds=90)


def test_the_services_time_replaces_the_one_before_but_never_what_was_verified(rig):
    time = rig.start()
    time.learn(BUILD + timedelta(days=9), SERVER)
    assert time.now() == BUILD + timedelta(days=9)
    time.learn(BUILD + timedelta(days=2), SERVER)
    assert time.now() == BUILD + timedelta(days=2)
    time.learn(BUILD - timedelta(days=2), SERVER)
    assert time.now() == BUILD
    rig.passed += 60
    assert time.now() == BUILD + MINUTE


def test_no_instant_is_so_far_that_the_clock_cannot_run_on(rig):
    time = rig.start()
    time.learn(datetime.max.replace(tzinfo=UTC), "timestamp")
    rig.passed += 1e9
    assert time.now().year < 9999
    assert rig.start().now() > BUILD


@pytest.mark.parametrize("source", ["timestamp", SERVER])
def test_what_was_learnt_is_kept_over_a_restart_and_stands_still_meanwhile(rig, source):
    rig.start().learn(BUILD + timedelta(days=3), source)
    rig.passed = 7.0
    assert rig.start().now() == BUILD + timedelta(days=3)
    assert rig.start(BUILD + timedelta(days=8)).now() == BUILD + timedelta(days=8)
    assert rig.start(BUILD + timedelta(days=1)).now() == BUILD + timedelta(days=3)


def test_the_first_instant_of_the_service_is_written_whatever_it_is(rig):
    rig.start().learn(BUILD, "timestamp")
    written = rig.disk.writes
    rig.start().learn(BUILD, SERVER)
    assert rig.disk.writes == written + 1
    assert checked(rig.path.read_bytes(), "time") == {
        "verified": BUILD.isoformat(),
        "told": BUILD.isoformat(),
    }


@pytest.mark.parametrize(("by_s", "writes"), [(59.9, 0), (60.0, 1), (-59.9, 0), (-60.0, 1)])
def test_only_what_differs_by_a_minute_is_written_again(rig, by_s, writes):
    time = rig.start()
    time.learn(BUILD + timedelta(days=1), SERVER)
    before = rig.disk.writes
    time.learn(BUILD + timedelta(days=1, seconds=by_s), SERVER)
    assert rig.disk.writes - before == writes


def test_the_same_time_again_is_not_written_again_after_a_restart(rig):
    rig.start().learn(BUILD + timedelta(days=1), "timestamp")
    before = rig.disk.writes
    rig.start().learn(BUILD + timedelta(days=1), "timestamp")
    assert rig.disk.writes == before


def test_any_zone_names_the_same_instant(rig):
    time = rig.start(BUILD.astimezone(timezone(timedelta(hours=9))))
    assert (time.now(), time.now().tzinfo) == (BUILD, UTC)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'{"verified": 5, "told": null}',
        b'{"verified": null}',
        b'{"verified": "9001-01-01T00:00:00+00:00", "told": null}',
        b'{"verified": null, "told": "9999-12-31T23:59:59+00:00"}',
    ],
)
def test_a_file_that_is_no_time_counts_for_nothing(rig, damage):
    rig.path.write_bytes(damage)
    assert rig.start().now() == BUILD


def test_the_last_year_that_is_believed_is(rig):
    rig.path.write_text('{"verified": "9000-12-31T00:00:00+00:00", "told": null}')
    assert rig.start().now().year == 9000


@pytest.mark.parametrize(("newer_s", "told"), [(60.0, False), (60.1, True)])
def test_a_move_of_more_than_a_minute_is_told(rig, caplog, newer_s, told):
    caplog.set_level("INFO")
    rig.start().learn(BUILD + timedelta(seconds=newer_s), "timestamp")
    assert ("trusted time moves" in caplog.text) is told
