"""Laws of what could make a spool grow: a new boot, a long failure, books, alerts; and what gives way."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.books import BookChange, BookKey, CoMoments, LedgerChanges
from edge_producer.device_update import DeviceUpdate
from edge_producer.runner import Runner
from edge_producer.spool.spool import Spool, SpoolAccess, read_books
from edge_producer.spool.spool_books import FORGET_PERIODS
from edge_producer.spool.spool_file import PAGE
from edge_producer.spool.spool_reading import read_counters
from edge_producer.spool.spool_rows import ThinnedBlock
from edge_producer.spool.update_backlog import LEAST_ENTRY, UpdateBacklog, fitted, line_of, spool_bytes
from edge_producer.summaries import Summary
from tests.edge_producer.spool_rig import FirstSample, GivenWindows, bench_profile, row, window
from tests.edge_producer.test_spool_failures import DEVICES, all_accounted_for, run, settings
from tests.waiting import wait_until

PERIOD_US = 10_000_000
PAGES = 25


def log_bytes(rig):
    return rig.path.with_name("spool.db-wal").stat().st_size


def test_the_first_start_after_a_new_boot_changes_all_times_within_the_same_log(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=1.0))
    rig.sense([0.1] * 3000)
    rig.flush()
    file_bytes = rig.spool.file_bytes
    rig.close()
    again = Spool.open(rig.path, rig.names, rig.profile, 5.0, SpoolAccess(wal_pages=PAGES))
    query = "SELECT (SELECT max(sensed_s) FROM rows), (SELECT max(changed_s) FROM books)"
    assert again._connection.execute(query).fetchone() == (5.0, 5.0)
    assert log_bytes(rig) <= 2 * PAGES * PAGE < file_bytes / 2
    again.close()


# Updates ---------------------------------------------------------------------------------------------------


def update(first, n_rows, device="d-1", summaries=0, alerts=0, moments=True):
    """What a device did: every second window was selected, ten rows to a line."""
    rows = [row(first + k) for k in range(n_rows)]
    of = CoMoments.of(np.zeros((1, 2), np.float32)) if moments else None
    per_line = Counter(map(line_of, rows))
    lines = {key: BookChange(sensed=2 * n, filtered=n, moments=of) for key, n in per_line.items()}
    closed = [Summary(1, "m", k, 10.0, 0, bytes(300), 300) for k in range(summaries)]
    return DeviceUpdate(
        device_id=device,
        boot_id=1,
        next_seq=first,
        newest_us=0,
        state="{}",
        held=0,
        rows=rows,
        books=LedgerChanges(lines, []),
        closed=closed,
        open_summary=None,
        alerts=[b"{}"] * alerts,
        meters={},
        decision="none",
        model_version="m",
    )


def kept(updates):
    """Rows, what the lines say of them, and of the rest; in all and in order."""
    lines = [change for one in updates for change in one.books.lines.values()]
    meters = [one.meters for one in updates]
    return {
        "sensed": sum(line.sensed for line in lines),
        "rows": sum(len(one.rows) for one in updates) + sum(line.lost for line in lines),
        "summaries": sum(len(u.closed) + u.meters.get("summaries_unkept", 0) for u in updates),
        "alerts": sum(len(u.alerts) + u.meters.get("alerts_unkept", 0) for u in updates),
        "moments": sum(line.moments is not None for line in lines)
        + sum(m.get("moments_dropped", 0) for m in meters),
    }


updates = st.builds(
    update,
    st.integers(0, 10**6),
    st.integers(0, 60),
    st.sampled_from(["d-1", "d-2", "d-3"]),
    st.integers(0, 20),
    st.integers(0, 20),
    st.booleans(),
)


@given(st.lists(updates, max_size=8), st.integers(0, 60_000), st.integers(0, 60_000))
def test_an_update_is_taken_once_in_order_and_what_finds_no_room_is_counted(given_updates, room, at_once):
    backlog = UpdateBacklog()
    backlog.add(given_updates)
    taken = []
    while backlog.updates:
        turn = backlog.take(room, at_once)
        assert turn
        assert len(turn) == 1 or sum(map(spool_bytes, turn)) <= max(min(room, at_once), LEAST_ENTRY)
        taken += turn
    assert kept(taken) == kept(given_updates)
    fitting = [u for u in given_updates if spool_bytes(u) <= room]
    assert {id(u) for u in fitting} <= {id(u) for u in taken}
    for device in ("d-1", "d-2", "d-3"):
        order = [u.next_seq for u in given_updates if u.device_id == device]
        assert [u.next_seq for u in taken if u.device_id == device] == order


@given(updates, st.integers(0, 60_000))
def test_an_update_fits_or_has_its_counts_alone(one, room):
    fit = fitted(one, room)
    if spool_bytes(one) <= room:
        assert fit == one
    elif spool_bytes(fit) > room:
        assert (fit.rows, fit.closed, fit.alerts) == ([], [], [])
        assert all(change.moments is None for change in fit.books.lines.values())


def test_only_the_oldest_rows_give_way_where_the_others_fit():
    one = replace(update(0, 100), alerts=[b"{}"])
    fit = fitted(one, spool_bytes(one) - 20 * 168)
    assert 60 <= len(fit.rows) <= 80
    assert fit.books.lines.keys() == one.books.lines.keys()
    assert [r.seq for r in fit.rows] == [r.seq for r in one.rows][-len(fit.rows) :]
    assert fit.alerts == one.alerts


# Books -----------------------------------------------------------------------------------------------------


def line(rig, key, **counts):
    """One settled line of the rig's device."""
    with rig.spool.transaction():
        id_ = rig.spool.books.change(1, key, BookChange(**counts), rig.now)
        rig.spool.books.close(1, [key])
    return id_


def newest(rig, period):
    rig.spool._connection.execute("UPDATE devices SET newest_us = ?", (period * PERIOD_US,))


def fold(rig, limit=1000):
    with rig.spool.transaction():
        return rig.spool.books.fold(limit, PERIOD_US)


def lines_left(rig):
    query = "SELECT boot_id, period_us, sensed, filtered, lost FROM books ORDER BY boot_id, period_us"
    return rig.spool._connection.execute(query).fetchall()


def key(period, boot_id=0, stratum="sample"):
    return BookKey(boot_id, period * PERIOD_US, "m", stratum)


def test_lines_are_added_up_up_to_those_for_which_a_row_may_still_come(rigs, tmp_path):
    rig = rigs(tmp_path)
    for period in range(40):
        line(rig, key(period), sensed=3, filtered=3)
    newest(rig, 39)
    assert fold(rig) == 39 - FORGET_PERIODS - 1
    left = lines_left(rig)
    assert len(left) == FORGET_PERIODS + 2
    assert left[0] == (0, 0, 3 * (39 - FORGET_PERIODS), 3 * (39 - FORGET_PERIODS), 0)


def test_no_more_lines_go_than_wanted_and_the_oldest_first(rigs, tmp_path):
    rig = rigs(tmp_path)
    for period in range(40):
        line(rig, key(period), sensed=1, filtered=1)
    newest(rig, 10**6)
    assert fold(rig, limit=5) == 5
    assert lines_left(rig)[0] == (0, 0, 6, 6, 0)
    assert lines_left(rig)[1][1] == 6 * PERIOD_US


@pytest.mark.parametrize("limit", [1, 3, 10**6])
def test_however_few_lines_may_go_at_once_all_kinds_end_as_one_line(rigs, tmp_path, limit):
    rig = rigs(tmp_path)
    for period in range(8):
        for stratum in ("sample", "rule"):
            line(rig, key(period, stratum=stratum), sensed=1, filtered=1)
    newest(rig, 10**6)
    while fold(rig, limit):
        pass
    assert [one[2] for one in lines_left(rig)] == [8, 8]


def test_lines_of_many_boots_are_added_up_too(rigs, tmp_path):
    rig = rigs(tmp_path)
    for boot in range(1, 31):
        line(rig, key(boot, boot_id=boot), sensed=2, filtered=2)
    newest(rig, 10**6)
    assert fold(rig) == 29
    assert lines_left(rig) == [(1, PERIOD_US, 60, 60, 0)]


def test_a_gap_stays_a_gap_when_lines_are_added_up(rigs, tmp_path):
    rig = rigs(tmp_path)
    for period in range(5):
        line(rig, key(period), sensed=1, filtered=1)
    with rig.spool.transaction():
        rig.spool.rows.thin(ThinnedBlock(1, 3 * PERIOD_US, "sample"), 0.0, rig.now)
    newest(rig, 10**6)
    assert fold(rig) == 4
    (due,) = rig.spool.books.due(1, rig.now, 0.0, settled_only=True)
    assert (due.line.gap, due.line.sensed) == (True, 5)


@pytest.mark.parametrize("outcome", ["acked", "refused"])
def test_a_line_of_which_the_cloud_has_rows_is_not_added_up(rigs, tmp_path, outcome):
    rig = rigs(tmp_path)
    for period in range(3):
        id_ = line(rig, key(period), sensed=2, filtered=1)
        with rig.spool.transaction():
            rig.spool.books.settle(id_, 1, outcome, rig.now)
    newest(rig, 10**6)
    assert fold(rig) == 0


def test_what_is_known_of_a_block_goes_with_its_last_line(rigs, tmp_path):
    rig = rigs(tmp_path)
    block = ThinnedBlock(1, 0, "sample")
    for period in range(2):
        line(rig, key(period), sensed=1, filtered=1)
    with rig.spool.transaction():
        rig.spool.rows.thin(block, 0.5, rig.now)
        rig.spool.rows.forget_blocks()
    assert rig.spool.rows.tau(block) == 0.5
    with rig.spool.transaction():
        rig.spool._connection.execute("DELETE FROM books WHERE period_us = 0")
        rig.spool.rows.forget_blocks()
    assert rig.spool.rows.tau(block) == 1.0


# A whole process -------------------------------------------------------------------------------------------


class Alarming(GivenWindows):
    """An alert every third window, 500 windows a second."""

    def __init__(self, n, each):
        self.counts = {}
        self._n, self._each = n, each

    def windows(self):
        for k in range(self._n):
            self._each()
            for name in DEVICES:
                yield window(0.95 if k % 3 else 0.1, k, name, due_s=k / 500)


def test_alerts_that_nobody_takes_do_not_make_the_spool_larger_than_it_may_be(tmp_path):
    limit, most = 800_000, []

    def measure():
        most.append(sum(file.stat().st_size for file in tmp_path.glob("spool.db*")))

    _, result = run(tmp_path, Alarming(1500, measure), spool_max_bytes=limit)
    assert max(most) <= limit
    assert result.unkept == 0
    all_accounted_for(tmp_path, 1500)
    counters = read_counters(tmp_path / "spool.db")
    assert counters["alerts_unkept"] > 0


class Endless(GivenWindows):
    """Windows as fast as they are taken."""

    def __init__(self):
        self.counts = {}

    def windows(self):
        for k in range(100_000):
            for name in DEVICES:
                yield window(0.1, k, name)


def test_a_source_that_can_wait_does_so_before_anything_gives_way(tmp_path):
    given = settings(tmp_path, spool_max_bytes=4_000_000, pace="flat_out", commit_interval_s=0.02)
    runner = Runner(given, bench_profile(p=1.0), Endless(), FirstSample())
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(runner.run, stop)
        try:
            wait_until(lambda: runner._writer.crowded and runner._writer.unkept == 0, timeout_s=60.0)
        finally:
            stop.set()
        running.result(60.0)
    books = read_books(tmp_path / "spool.db")
    assert sum(one.sensed for one in books.values()) > 300
    assert [one.evicted for one in books.values()] == [0, 0]
