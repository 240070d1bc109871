"""When lines of the books are stated, how many at once, and how lines that were never stated are added up."""

import numpy as np
import pytest

from edge_producer.books import BookChange, BookKey, CoMoments
from tests.edge_producer.spool_rig import bench_profile

PERIOD_US = 10_000_000


def line(rig, period, boot_id=0, stratum="sample", **counts):
    """One closed line of the rig's device; its id."""
    key = BookKey(boot_id, period * PERIOD_US, "m", stratum)
    with rig.spool.transaction():
        id_ = rig.spool.books.change(1, key, BookChange(**(counts or {"sensed": 1, "filtered": 1})), rig.now)
        rig.spool.books.close(1, [key])
    return id_


def due(rig, by_s=0.0, **given):
    asked = {"interval_s": 15.0, "settled_only": False, **given}
    return [one.id for one in rig.spool.books.due(1, rig.now + by_s, **asked)]


def state(rig):
    """State whatever is due, without a message."""
    with rig.spool.transaction():
        rig.spool.books.stated(rig.spool.books.due(1, rig.now, 0.0, settled_only=False), 1, rig.now)


def test_a_line_is_stated_again_no_sooner_than_the_interval(rigs, tmp_path):
    rig = rigs(tmp_path)
    first = line(rig, 0)
    assert due(rig) == [first]
    state(rig)
    assert due(rig, 1000.0) == []
    line(rig, 0)
    assert due(rig, 14.9) == []
    assert due(rig, 15.0) == [first]


def test_a_line_of_which_rows_wait_is_stated_the_interval_after_its_first_change(rigs, tmp_path):
    rig = rigs(tmp_path)
    first = line(rig, 0, sensed=3)
    assert due(rig, 14.9) == []
    assert due(rig, 15.0) == [first]
    assert due(rig, 15.0, settled_only=True) == []


@pytest.mark.parametrize("gather_s", [0.0, 40.0])
def test_lines_wait_for_later_ones_so_long_after_their_first_change(rigs, tmp_path, gather_s):
    rig = rigs(tmp_path)
    line(rig, 0)

    def devices(by_s):
        return rig.spool.books.devices_due(rig.now + by_s, 0.0, settled_only=False, gather_s=gather_s)

    assert devices(gather_s - 0.1) == []
    assert devices(gather_s) == [1]


def test_settled_lines_come_first_and_no_more_than_asked_for(rigs, tmp_path):
    rig = rigs(tmp_path)
    waiting = [line(rig, period, sensed=3) for period in range(3)]
    settled = [line(rig, period) for period in range(3, 6)]
    for limit in range(1, 8):
        assert due(rig, 15.0, limit=limit) == [*settled, *waiting][:limit]


def moments(values):
    return CoMoments.of(np.array(values, dtype=np.float32))


def test_moments_of_a_line_add_up_with_each_change(rigs, tmp_path):
    rig = rigs(tmp_path)
    first, second = [[1.0, 2.0], [3.0, 5.0]], [[8.0, 0.0]]
    for part in (first, second):
        line(rig, 0, sensed=len(part), filtered=len(part), moments=moments(part))
    [stated] = rig.spool.books.due(1, rig.now, 0.0, settled_only=False)
    kept = CoMoments.from_bytes(stated.line.moments)
    whole = moments(first + second)
    assert kept.n == 3
    assert np.allclose(kept.mean, whole.mean)
    assert np.allclose(kept.products, whole.products)


def test_all_moments_beyond_the_bound_go_unless_fewer_are_asked_for(rigs, tmp_path):
    rig = rigs(tmp_path)
    for period in range(6):
        line(rig, period, sensed=2, filtered=2, moments=moments([[1.0, 2.0], [3.0, 5.0]]))
    with rig.spool.transaction():
        assert rig.spool.books.strip_moments(0, 2) == 2
        assert rig.spool.books.strip_moments(0) == 4
        assert rig.spool.books.strip_moments(0) == 0


def fold(rig, limit):
    rig.spool._connection.execute("UPDATE devices SET newest_us = ?", (10**6 * PERIOD_US,))
    with rig.spool.transaction():
        return rig.spool.books.fold(limit, PERIOD_US)


def left(rig, column):
    query = f"SELECT {column}, count(*) FROM books GROUP BY 1 ORDER BY 1"
    return dict(rig.spool._connection.execute(query).fetchall())


def test_every_kind_of_lines_gives_its_share_and_no_more_go_than_wanted(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile())
    for period in range(20):
        for stratum in ("sample", "rule"):
            line(rig, period, stratum=stratum)
    assert fold(rig, 5) == 5
    assert sorted(left(rig, "stratum").values()) == [17, 18]


def test_boots_are_told_apart_as_long_as_lines_of_one_boot_can_be_added_up(rigs, tmp_path):
    rig = rigs(tmp_path)
    for boot in (1, 2):
        for period in range(3):
            line(rig, period, boot_id=boot)
    assert fold(rig, 1000) == 4
    assert left(rig, "boot_id") == {1: 1, 2: 1}
    assert fold(rig, 1000) == 1
    assert sum(left(rig, "boot_id").values()) == 1
