"""How much gives way in one step, what the next step goes on with, and when there is nothing to look for."""

import pytest

from edge_producer.books import BookChange, BookKey
from edge_producer.spool.eviction import (
    BOOKS_EVERY_S,
    LEAST_AT_ONCE,
    LINES_RELIEF,
    LINES_SHARE,
    RELIEF,
    Eviction,
)
from edge_producer.spool.spool_books import FORGET_PERIODS, LINE_BYTES
from tests.edge_producer.spool_rig import bench_profile, rich_profile

PERIOD_US = 10_000_000
ROOMY = 10**9
INF = float("inf")


def relieve(rig, eviction, at_s=0.0, **given):
    with rig.spool.transaction():
        return eviction.relieve(rig.now + at_s, **given)


def waiting(rig):
    return [s for no in rig.spool.names for s in rig.spool.summaries(no, 1000)]


def counted(rig, name):
    return rig.spool.counters().get(name, 0)


def unmergeable(rigs, tmp_path, count=100):
    """A spool of summaries as long as a drift window, and no rows."""
    profile = rich_profile(p=0.05)
    whole = profile.drift.model_copy(update={"window_s": profile.summaries.period_s})
    rig = rigs(tmp_path, profile.model_copy(update={"drift": whole}))
    rig.sense([0.1] * (count * 10))
    rig.flush()
    with rig.spool.transaction():
        for block in rig.spool.rows.blocks():
            rig.spool.rows.thin(block, 0.0, rig.now)
    return rig


@pytest.mark.parametrize(("limits", "dropped"), [({}, 40), ({"allowed": 1.0, "room": 1.0}, 20)])
def test_no_more_summaries_go_at_once_than_asked_for_and_half_of_that_where_the_disk_is_full(
    rigs, tmp_path, limits, dropped
):
    rig = unmergeable(rigs, tmp_path)
    assert relieve(rig, Eviction(rig.spool, rig.profile, 1), at_once=40, **limits)
    assert counted(rig, "summaries_dropped") == dropped


def test_however_few_may_go_at_once_a_step_is_a_step(rigs, tmp_path):
    rig = unmergeable(rigs, tmp_path)
    relieve(rig, Eviction(rig.spool, rig.profile, 1), at_once=1)
    assert counted(rig, "summaries_dropped") == LEAST_AT_ONCE


def test_the_next_step_goes_on_and_each_block_is_thinned_once_before_any_a_second_time(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=1.0, thinning_floor=0.01))
    rig.sense([0.1] * 400)
    rig.flush()
    with rig.spool.transaction():
        rig.spool.remove_summaries(waiting(rig))
    rows, eviction = len(rig.unsealed()), Eviction(rig.spool, rig.profile, 1)
    for _ in range(12):
        before = len(rig.unsealed())
        assert relieve(rig, eviction, at_once=LEAST_AT_ONCE)
        largest = 10  # rows of a block
        assert before - len(rig.unsealed()) <= LEAST_AT_ONCE + largest
        taus = {rig.spool.rows.tau(block) for block in rig.spool.rows.blocks()}
        assert max(taus) <= 2 * min(taus)
    assert len(rig.unsealed()) < rows


def test_summaries_of_every_device_are_merged_before_a_row_gives_way(rigs, tmp_path):
    names = ("d-1", "d-2", "d-3")
    rig = rigs(tmp_path, bench_profile(p=0.1), names)
    for name in names:
        rig.sense([0.1] * 300, name)
    rig.flush()
    rows = rig.spool.rows.bytes
    needs_all = (rows + 0.3 * rig.spool.summary_bytes) / RELIEF
    relieve(rig, Eviction(rig.spool, rig.profile, ROOMY), allowed=needs_all)
    assert rig.spool.rows.bytes == rows
    assert counted(rig, "summaries_dropped") == 0
    for no in rig.spool.names:
        assert {s.period_s for _, s in rig.spool.summaries(no, 1000)} == {60.0}


def test_no_more_summaries_are_merged_at_once_than_asked_for(rigs, tmp_path):
    names = ("d-1", "d-2", "d-3", "d-4")
    rig = rigs(tmp_path, bench_profile(p=0.1), names)
    for name in names:
        rig.sense([0.1] * 120, name)
    rig.flush()
    relieve(rig, Eviction(rig.spool, rig.profile, 1), at_once=24)
    assert counted(rig, "summaries_merged") == 24


def test_a_summary_that_is_alone_in_its_window_is_left_as_it_is(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=0.1))
    rig.sense([0.1] * 180)
    rig.flush()
    with rig.spool.transaction():
        rig.spool.remove_summaries([s for s in waiting(rig) if s[1].period_us // PERIOD_US % 6 != 2])
    alone = waiting(rig)
    with rig.spool.transaction():
        assert not Eviction(rig.spool, rig.profile, ROOMY).merge()
    assert waiting(rig) == alone
    assert counted(rig, "summaries_merged") == 0


def test_windows_of_an_earlier_boot_are_over_and_the_newest_boots_last_is_not(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=0.1))
    for seconds in (30, 20):
        rig.sense([0.1] * seconds)
        rig.flush()
        rig.crash()
    with rig.spool.transaction():
        assert Eviction(rig.spool, rig.profile, ROOMY).merge()
        assert not Eviction(rig.spool, rig.profile, ROOMY).merge()
    found = [(s.boot_id, s.period_s) for _, s in waiting(rig)]
    assert [one for one in found if one[0] == 1] == [(1, 60.0)]
    assert {one[1] for one in found if one[0] == 2} == {10.0}


def test_a_look_is_due_once_a_minute_and_at_once_where_there_is_no_room(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=1.0))
    rig.sense([0.1] * 50)
    rig.flush()
    eviction = Eviction(rig.spool, rig.profile, rig.spool.bytes)
    assert eviction.is_due(rig.now), "it has never looked"
    assert not relieve(rig, eviction)
    assert not eviction.is_due(rig.now + BOOKS_EVERY_S - 0.01)
    assert eviction.is_due(rig.now + BOOKS_EVERY_S)
    assert eviction.is_due(rig.now, allowed=ROOMY)
    tight = Eviction(rig.spool, rig.profile, rig.spool.bytes - 1)
    relieve(rig, tight, allowed=INF)
    rig.sense([0.1] * 50)
    rig.flush()
    assert tight.is_due(rig.now - 50)


def test_rows_that_are_given_up_are_said_with_their_number_and_blocks_without_rows_are_not(
    rigs, tmp_path, caplog
):
    rig = rigs(tmp_path, bench_profile(p=1.0, thinning_floor=0.9))
    rig.sense([0.1] * 100)
    rig.flush()
    rows = len(rig.unsealed())
    relieve(rig, Eviction(rig.spool, rig.profile, 1))
    relieve(rig, Eviction(rig.spool, rig.profile, 1))
    said = [r.args[0] for r in caplog.records if "rows of one block given up" in r.msg]
    assert said == [10] * (rows // 10)
    assert rig.unsealed() == []


# Books -----------------------------------------------------------------------------------------------------


def with_lines(rigs, tmp_path, count=40, newest=10**6):
    """A spool of settled lines that were never stated."""
    rig = rigs(tmp_path)
    add_lines(rig, range(count))
    rig.spool._connection.execute("UPDATE devices SET newest_us = ?", (newest * PERIOD_US,))
    return rig


def add_lines(rig, periods):
    for period in periods:
        key = BookKey(0, period * PERIOD_US, "m", "sample")
        with rig.spool.transaction():
            rig.spool.books.change(1, key, BookChange(sensed=1, filtered=1), rig.now)
            rig.spool.books.close(1, [key])


def room_for(lines):
    """Bytes of which so many lines are the books' share."""
    return -int(-lines * LINE_BYTES // LINES_SHARE)


@pytest.mark.parametrize("crowded", [False, True])
def test_lines_are_added_up_down_to_nine_tenths_of_their_share(rigs, tmp_path, crowded):
    rig = with_lines(rigs, tmp_path)
    if crowded:
        assert relieve(rig, Eviction(rig.spool, rig.profile, ROOMY), allowed=ROOMY, room=room_for(30))
    else:
        assert relieve(rig, Eviction(rig.spool, rig.profile, room_for(30)))
    assert rig.spool.books.count() == 30 * LINES_RELIEF
    assert counted(rig, "lines_folded") == 13


def test_books_that_grow_are_added_up_at_the_next_look_and_at_once_where_nothing_else_can_give_way(
    rigs, tmp_path
):
    for crowded in (False, True):
        rig = with_lines(rigs, tmp_path / str(crowded), count=10)
        given = {"allowed": ROOMY, "room": room_for(20)} if crowded else {}
        eviction = Eviction(rig.spool, rig.profile, ROOMY if crowded else room_for(20))
        assert not relieve(rig, eviction, **given)
        add_lines(rig, range(10, 40))
        assert relieve(rig, eviction, 1.0, **given) is crowded
        assert (rig.spool.books.count() == 20 * LINES_RELIEF) is crowded
        assert relieve(rig, eviction, BOOKS_EVERY_S, **given) is not crowded
        assert rig.spool.books.count() == 20 * LINES_RELIEF


def test_books_that_take_just_their_share_are_left_alone(rigs, tmp_path):
    rig = with_lines(rigs, tmp_path)
    assert not relieve(rig, Eviction(rig.spool, rig.profile, ROOMY), allowed=ROOMY, room=room_for(40))
    assert rig.spool.books.count() == 40


def test_half_of_what_may_change_at_once_are_lines_and_the_next_step_goes_on(rigs, tmp_path):
    rig = with_lines(rigs, tmp_path)
    eviction = Eviction(rig.spool, rig.profile, room_for(4))
    for left in (30, 20, 10):
        assert relieve(rig, eviction, at_once=20)
        assert rig.spool.books.count() == left
        assert eviction.is_due(rig.now)
    while relieve(rig, eviction, at_once=20):
        pass
    assert not eviction.is_due(rig.now)
    assert rig.spool.books.count() <= 4


def test_lines_to_which_a_row_may_still_come_are_not_added_up(rigs, tmp_path):
    rig = with_lines(rigs, tmp_path, newest=39)
    relieve(rig, Eviction(rig.spool, rig.profile, room_for(1)))
    assert rig.spool.books.count() == FORGET_PERIODS + 2


def test_moments_go_half_of_what_may_change_at_once_and_the_next_step_goes_on(rigs, tmp_path):
    rig = rigs(tmp_path, rich_profile(p=0.5))
    rig.sense([0.1] * 400)
    rig.flush()
    eviction, gone = Eviction(rig.spool, rig.profile, ROOMY), []
    for minute in range(3):
        assert relieve(rig, eviction, 60.0 * minute, allowed=ROOMY, room=40.0, at_once=20)
        gone.append(counted(rig, "moments_dropped"))
    assert gone == [10, 20, 30]


def waiting_rows(rigs, tmp_path):
    """A spool of rows that were never stated: their lines cannot be added up."""
    rig = rigs(tmp_path, bench_profile(p=1.0))
    rig.sense([0.1] * 400)
    rig.flush()
    with rig.spool.transaction():
        rig.spool.remove_summaries(waiting(rig))
    return rig


def test_where_lines_cannot_be_added_up_their_oldest_rows_give_way_and_no_more_than_needed(rigs, tmp_path):
    rig = waiting_rows(rigs, tmp_path)
    first = [r.seq for r in rig.unsealed()]
    assert relieve(rig, Eviction(rig.spool, rig.profile, ROOMY), allowed=ROOMY, room=room_for(20))
    left = [r.seq for r in rig.unsealed()]
    assert left == first[-len(left) :], "the oldest first"
    assert (
        20 <= len(first) - len(left) < 20 + 10 + 1
    )  # as many as there are lines too many, and a whole block


def test_rows_stay_where_the_disk_has_room_or_lines_can_be_added_up(rigs, tmp_path):
    rig = waiting_rows(rigs, tmp_path / "room")
    rows = len(rig.unsealed())
    assert rig.spool.bytes < room_for(30)
    relieve(rig, Eviction(rig.spool, rig.profile, room_for(30)))
    assert len(rig.unsealed()) == rows
    both = with_lines(rigs, tmp_path / "lines", count=60)
    both.sense([0.1] * 50)
    both.flush()
    kept = len(both.unsealed())
    assert relieve(both, Eviction(both.spool, both.profile, ROOMY), allowed=ROOMY, room=room_for(30))
    assert len(both.unsealed()) == kept > 0
