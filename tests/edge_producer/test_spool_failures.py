"""Laws of a process whose spool fails: it senses, decides and acts on, and accounts for every row."""

import sqlite3
import threading
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from edge_producer.runner import ProcessParts, Runner
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool import read_books
from edge_producer.spool.spool_reading import read_counters
from edge_producer.spool.spool_recovery import SpoolRecovery, SpoolStep
from edge_producer.spool.update_backlog import BacklogLimits, UpdateBacklog
from edge_producer.status_file import read_status
from schemas.errors import (
    SpoolDamagedError,
    SpoolError,
    SpoolInUseError,
    SpoolOwnerError,
    SpoolUnavailableError,
)
from tests.edge_producer.spool_rig import FirstSample, GivenWindows, SpoolRig, bench_profile, window
from tests.simulators.faulty_sqlite import CODES, FaultySqlite
from tests.simulators.full_disk import FullDisk
from tests.waiting import wait_until

DEVICES = ("d-1", "d-2")
UNAVAILABLE = ("full", "read-only", "broken", "away")


def settings(folder, **given):
    return EdgeSettings(
        **{
            "state_dir": folder,
            "profile": "bench",
            "devices": DEVICES,
            "bootstrap_servers": "127.0.0.1:1",
            "commit_interval_s": 0.05,
            "drain_timeout_s": 0.1,
            "stop_timeout_s": 0.1,
            **given,
        }
    )


class Scripted(GivenWindows):
    """Paced windows, 200 a second and device, with something done before some of them."""

    def __init__(self, n, script, first=0):
        self.counts = {}
        self._n, self._script, self._first = n, script, first

    def windows(self):
        for k in range(self._n):
            self._script.get(k, lambda: None)()
            for name in DEVICES:
                score = 0.95 if k % 20 in (0, 1) else 0.1
                yield window(score, self._first + k, name, due_s=k / 200)


def run(folder, source, disk=None, sqlite=None, **given):
    parts = ProcessParts(connect=None if sqlite is None else sqlite.connect)
    if disk is not None:
        parts = ProcessParts(connect=parts.connect, disk=disk)
    runner = Runner(settings(folder, **given), bench_profile(p=1.0), source, FirstSample(), parts=parts)
    return runner, runner.run(threading.Event())


def rows_kept(folder):
    """(device, boot, seq) of each row in the spool, sealed ones left out."""
    query = "SELECT r.device, b.boot_id, r.seq FROM rows r JOIN books b ON b.id = r.book"
    with closing(sqlite3.connect(folder / "spool.db")) as connection:
        return connection.execute(query).fetchall()


def all_accounted_for(folder, windows):
    for name, books in read_books(folder / "spool.db").items():
        assert books.balanced, (name, books)
        assert books.sensed == windows, (name, books)


def decided(runner, windows):
    """Every window of every device was decided on, and its action begun."""
    totals = runner._actions.totals()
    changes = sum(totals.values())
    return changes >= 2 * len(DEVICES) * (windows // 20)


def heal(sqlite):
    sqlite.fault = None


def fail(sqlite, fault):
    sqlite.fault = fault


@pytest.mark.parametrize("fault", UNAVAILABLE)
def test_a_spool_that_fails_while_sensing_costs_no_decision_and_no_row(tmp_path, fault):
    sqlite = FaultySqlite()
    script = {60: lambda: fail(sqlite, fault), 200: lambda: heal(sqlite)}
    runner, result = run(tmp_path, Scripted(500, script), sqlite=sqlite)
    assert sqlite.refused > 0
    assert decided(runner, 500)
    assert result.unkept == 0
    all_accounted_for(tmp_path, 500)
    assert len(set(rows_kept(tmp_path))) == len(rows_kept(tmp_path)) == 2 * 500


@pytest.mark.parametrize("fault", UNAVAILABLE)
def test_a_process_starts_without_its_spool_and_has_it_later(tmp_path, fault):
    sqlite = FaultySqlite()
    fail(sqlite, fault)
    runner, result = run(tmp_path, Scripted(500, {200: lambda: heal(sqlite)}), sqlite=sqlite)
    assert decided(runner, 500)
    assert result.unkept == 0
    all_accounted_for(tmp_path, 500)


def test_what_an_earlier_start_held_back_is_released_once_by_a_spool_that_is_opened_late(tmp_path):
    sqlite = FaultySqlite()
    run(tmp_path, Scripted(3, {}), sqlite=sqlite)
    fail(sqlite, "away")
    # The file cannot even be read at the start: the state in it is found later.
    (tmp_path / "spool.db").rename(tmp_path / "hidden")

    def back():
        (tmp_path / "hidden").rename(tmp_path / "spool.db")
        heal(sqlite)

    run(tmp_path, Scripted(400, {100: back}, first=100), sqlite=sqlite)
    all_accounted_for(tmp_path, 403)
    assert len(set(rows_kept(tmp_path))) == len(rows_kept(tmp_path)) == 2 * 403


def test_a_commit_that_holds_although_it_failed_is_not_written_twice(tmp_path):
    sqlite = FaultySqlite()

    def doubt():
        sqlite.in_doubt = True

    run(tmp_path, Scripted(500, {60: doubt, 200: doubt}), sqlite=sqlite)
    assert sqlite.refused == 2
    all_accounted_for(tmp_path, 500)
    assert len(set(rows_kept(tmp_path))) == len(rows_kept(tmp_path)) == 2 * 500


def test_a_commit_that_failed_and_does_not_hold_is_written_again(tmp_path):
    """What opening the spool again commits is no sign that the updates hold: they were lost under load."""
    sqlite = FaultySqlite()

    def refuse():
        sqlite.uncommitted = True

    run(tmp_path, Scripted(500, {60: refuse, 200: refuse}), sqlite=sqlite)
    assert sqlite.refused == 2
    all_accounted_for(tmp_path, 500)
    assert len(set(rows_kept(tmp_path))) == len(rows_kept(tmp_path)) == 2 * 500


@pytest.mark.parametrize("fault", ["damaged", "odd"])
def test_errors_that_no_disk_explains_end_with_another_spool_and_no_row_lost(tmp_path, fault):
    sqlite = FaultySqlite()
    begun = threading.Event()

    def only_the_first(_path):
        return not list(tmp_path.glob("spool-aside-*.db"))

    sqlite.only = only_the_first
    script = {60: lambda: (fail(sqlite, fault), begun.set())}
    runner, result = run(tmp_path, Scripted(1600, script), sqlite=sqlite)
    assert decided(runner, 1600)
    assert list(tmp_path.glob("spool-aside-*.db"))
    assert result.unkept == 0
    for books in read_books(tmp_path / "spool.db").values():
        assert books.balanced
        assert books.sensed >= 1600  # never less; a commit in doubt may be counted once more, as lost
    assert len(set(rows_kept(tmp_path))) == len(rows_kept(tmp_path))


def test_without_a_spool_to_the_end_the_loss_is_told(tmp_path):
    sqlite = FaultySqlite()
    fail(sqlite, "full")
    runner, result = run(tmp_path, Scripted(100, {}), sqlite=sqlite)
    assert decided(runner, 100)
    assert result.unkept == 200
    status = read_status(tmp_path / "status.json")
    assert status["spool"]["state"] == "failing"
    assert "full" in status["spool"]["error"]
    assert status["in_memory"]["rows"] == 200


def test_a_status_file_that_cannot_be_written_is_counted_and_harms_nothing(tmp_path):
    disk = FullDisk()
    disk.fill(lambda path, _data: path.name == "status.json", times=3)
    _, result = run(tmp_path, Scripted(800, {}), disk=disk, commit_interval_s=0.02)
    assert disk.refused > 0
    assert result.unkept == 0
    all_accounted_for(tmp_path, 800)
    assert read_counters(tmp_path / "spool.db").get("status_unwritten", 0) >= disk.refused - 1


def test_a_missing_key_keeps_rows_and_seals_nothing_until_it_is_back(tmp_path):
    run(tmp_path, Scripted(30, {}))
    with closing(sqlite3.connect(tmp_path / "spool.db", isolation_level=None)) as connection:
        connection.execute("INSERT OR REPLACE INTO lanes VALUES (1, 'live', 5)")
    pem = tmp_path / "keys" / "d-1.pem"
    kept = pem.read_bytes()
    for damage in (pem.unlink, lambda: pem.write_bytes(kept[:40]), lambda: pem.write_bytes(b"")):
        damage()
        before = pem.read_bytes() if pem.exists() else None
        runner, _ = run(tmp_path, Scripted(30, {}, first=1000))
        assert "d-1" in read_status(tmp_path / "status.json")["keys"]
        assert not runner._may_send("d-1")
        assert runner._may_send("d-2")
        assert (pem.read_bytes() if pem.exists() else None) == before  # never replaced
        pem.write_bytes(kept)
    all_accounted_for(tmp_path, 120)
    runner, _ = run(tmp_path, Scripted(1, {}, first=5000))
    assert runner._keys.signers["d-1"].key_id == runner._keys.identities["d-1"].key_id
    assert read_status(tmp_path / "status.json")["keys"] == {}


def test_no_key_is_made_where_another_spool_was_before(tmp_path):
    run(tmp_path, Scripted(30, {}))
    (tmp_path / "spool.db").write_bytes(b"garbage" * 10_000)
    run(tmp_path, Scripted(0, {}))  # what this start has not sealed, the one before may have
    for copy in tmp_path.glob("spool-aside-*"):
        copy.unlink()
    pem = tmp_path / "keys" / "d-1.pem"
    pem.unlink()
    runner, _ = run(tmp_path, Scripted(30, {}, first=2000))
    assert not pem.exists()
    assert not runner._may_send("d-1")


@pytest.mark.parametrize("secret", [b"", b"short", b"x" * 64])
def test_a_damaged_secret_costs_no_row(tmp_path, secret):
    run(tmp_path, Scripted(30, {}))
    (tmp_path / "keys" / "d-1.secret").write_bytes(secret)
    runner, _ = run(tmp_path, Scripted(30, {}, first=1000))
    assert runner._may_send("d-1")
    assert (tmp_path / "keys" / "d-1.secret").read_bytes() == secret
    all_accounted_for(tmp_path, 60)


def test_a_state_that_cannot_be_read_loses_what_it_held_and_counts_it(tmp_path):
    run(tmp_path, Scripted(30, {}))
    with closing(sqlite3.connect(tmp_path / "spool.db", isolation_level=None)) as connection:
        connection.execute("UPDATE devices SET state = '{\"decider\": 5', held = 3 WHERE device_id = 'd-1'")
        # Held rows count as sensed, so that the books of this start balance.
    before = read_books(tmp_path / "spool.db")["d-1"].sensed
    run(tmp_path, Scripted(30, {}, first=1000))
    books = read_books(tmp_path / "spool.db")["d-1"]
    assert books.balanced
    assert (books.sensed, books.evicted) == (before + 30, 3)
    assert read_counters(tmp_path / "spool.db")["rows_damaged"] == 3


def test_a_source_that_can_wait_waits_for_a_slow_spool_and_loses_nothing(tmp_path):
    windows = [window(0.1, k, d) for k in range(2000) for d in DEVICES]
    run(tmp_path, GivenWindows(windows), pace="flat_out")
    all_accounted_for(tmp_path, 2000)


# What waits in memory ------------------------------------------------------------------------------------


class Sensing(SpoolRig):
    """A rig whose updates go through a backlog."""

    def updates(self):
        return [device.take_update() for device in self.devices.values()]


steps_st = st.lists(
    st.one_of(
        st.tuples(st.just("sense"), st.integers(1, 12)),
        st.tuples(st.sampled_from(["add", "bound", "put_back", "commit"]), st.just(0)),
    ),
    min_size=1,
    max_size=40,
)


@given(
    steps_st,
    st.builds(
        BacklogLimits,
        rows=st.integers(0, 20),
        lines=st.integers(2, 6),
        summaries=st.integers(0, 3),
        alerts=st.integers(0, 3),
    ),
)
@examples(max_examples=60, deadline=None)
def test_whatever_waits_and_is_bounded_each_window_is_counted_once(tmp_path_factory, steps, limits):
    rig = Sensing(tmp_path_factory.mktemp("rig"), bench_profile(p=0.5), DEVICES)
    backlog, taken, sensed = UpdateBacklog(limits), [], 0
    for step, n in [*steps, ("add", 0), ("commit", 0)]:
        if step == "sense":
            for name in DEVICES:
                rig.sense([0.1, 0.95, 0.95, 0.3] * n, name)
            sensed += 4 * n
        elif step == "add":
            backlog.add(rig.updates())
            backlog._bound(limits)
            assert backlog.rows <= limits.rows
        elif step == "bound":
            backlog.drop_rows()
            assert backlog.rows == 0
        elif step == "put_back":
            taken = backlog.take()
            backlog.put_back(taken)
        else:
            with rig.spool.transaction():
                for update in backlog.take():
                    rig.spool.apply(update, rig.now)
            for name in DEVICES:
                assert rig.books(name).balanced
    assert {rig.books(name).sensed for name in DEVICES} == {sensed}
    rows = [(r.boot_id, r.seq) for r in rig.spool.rows.read(1, -1.0, float("inf"), 10**6)]
    assert len(set(rows)) == len(rows)
    lost = sum(rig.books(name).evicted for name in DEVICES)
    assert rig.spool.counters().get("rows_unkept", 0) == lost
    rig.close()


def test_rows_that_were_not_kept_are_a_gap_in_the_books_that_the_cloud_gets(tmp_path, rigs):
    rig = Sensing(tmp_path, bench_profile(p=1.0))
    rig.sense([0.1] * 30)
    backlog = UpdateBacklog()
    backlog.add(rig.updates())
    backlog.drop_rows()
    rig.devices["d-1"].flush()
    backlog.add(rig.updates())
    with rig.spool.transaction():
        for update in backlog.take():
            rig.spool.apply(update, rig.now)
        due = rig.spool.books.due(1, rig.now, 0.0, settled_only=False)
    lost = [d.line for d in due if d.line.evicted]
    assert sum(line.evicted for line in lost) == 30  # each had left the filter at once
    assert all(line.gap for line in lost)
    rig.close()


# Decisions -----------------------------------------------------------------------------------------------


def failed(recovery, error, at_s):
    recovery.failed(error, at_s)
    return recovery.step(max(recovery.due_s, at_s))


def test_a_disk_that_refuses_is_asked_ever_more_rarely_and_the_file_suspected_only_after_a_minute():
    recovery, now, waits = SpoolRecovery(), 0.0, []
    for _ in range(12):
        step = failed(recovery, SpoolUnavailableError("full"), now)
        assert (step is SpoolStep.SET_ASIDE_IF_DISK_WORKS) == (now >= 60.0)
        waits.append(recovery.due_s - now)
        now = recovery.due_s
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.5, 30.0)
    recovery.worked()
    assert failed(recovery, SpoolUnavailableError("full"), now) is SpoolStep.OPEN


def test_damage_is_checked_once_and_then_set_aside_but_not_for_ever():
    recovery, now = SpoolRecovery(), 0.0
    for _ in range(3):
        assert failed(recovery, SpoolDamagedError("x"), now) is SpoolStep.CHECK
        assert failed(recovery, SpoolDamagedError("x"), now) is SpoolStep.SET_ASIDE
        recovery.set_aside(now)
        now += 1.0
    failed(recovery, SpoolDamagedError("x"), now)
    assert failed(recovery, SpoolDamagedError("x"), now) is SpoolStep.OPEN
    assert recovery.due_s == now + 30.0
    assert failed(recovery, SpoolDamagedError("x"), now + 3600.0) is SpoolStep.SET_ASIDE


def test_damage_that_comes_back_within_a_minute_is_set_aside_whatever_was_written_in_between():
    recovery = SpoolRecovery()
    assert failed(recovery, SpoolDamagedError("x"), 0.0) is SpoolStep.CHECK
    recovery.worked()
    assert failed(recovery, SpoolDamagedError("x"), 59.0) is SpoolStep.SET_ASIDE
    recovery.set_aside(59.0)
    recovery.worked()
    assert failed(recovery, SpoolDamagedError("x"), 60.0) is SpoolStep.CHECK
    recovery.worked()
    assert failed(recovery, SpoolDamagedError("x"), 120.0) is SpoolStep.CHECK


def test_a_fault_that_nobody_foresaw_is_tried_again_then_without_rows_then_with_another_spool():
    recovery = SpoolRecovery()
    steps = [failed(recovery, ValueError("?"), float(k)) for k in range(4)]
    assert steps == [
        SpoolStep.OPEN,
        SpoolStep.OPEN,
        SpoolStep.OPEN_WITHOUT_ROWS,
        SpoolStep.SET_ASIDE,
    ]


@pytest.mark.parametrize("error", [SpoolInUseError("x"), SpoolOwnerError("x")])
def test_another_s_spool_is_never_set_aside(error):
    recovery = SpoolRecovery()
    assert {failed(recovery, error, 100.0 * k) for k in range(20)} == {SpoolStep.OPEN}


def test_every_fault_of_the_simulator_is_an_error_of_the_spool(tmp_path):
    for fault in CODES:
        sqlite = FaultySqlite()
        rig = SpoolRig(tmp_path / fault)
        rig.close()
        from edge_producer.spool.spool import Spool, SpoolAccess

        spool = Spool.open(rig.path, ("d-1",), rig.profile, 0.0, SpoolAccess(connect=sqlite.connect))
        fail(sqlite, fault)
        with pytest.raises(SpoolError), spool.transaction():
            pass
        spool.close()


def test_the_spool_is_opened_again_when_a_foreign_program_lets_go_of_it(tmp_path):
    """A real lock: no fault is simulated."""
    holder = []

    def hold():
        connection = sqlite3.connect(tmp_path / "spool.db", isolation_level=None, check_same_thread=False)
        connection.execute("BEGIN IMMEDIATE")
        holder.append(connection)

    def let_go():
        holder[0].execute("ROLLBACK")
        holder[0].close()

    run(tmp_path, Scripted(500, {60: hold, 300: let_go}))
    all_accounted_for(tmp_path, 500)


def test_sensing_goes_on_while_a_write_hangs(tmp_path):
    """The writer's thread waits for a disk that does not answer; windows do not."""
    sqlite, released = FaultySqlite(), threading.Event()
    check = sqlite.check

    def hang(path, sql):
        if sql == "COMMIT" and sqlite.fault == "hang":
            sqlite.fault = None
            released.wait(60)
        check(path, sql) if sqlite.fault != "hang" else None

    sqlite.check = hang
    seen = []
    script = {60: lambda: fail(sqlite, "hang"), 499: lambda: (seen.append(1), released.set())}
    _, result = run(tmp_path, Scripted(500, script), sqlite=sqlite)
    assert seen
    wait_until(lambda: result.unkept == 0)
    all_accounted_for(tmp_path, 500)
