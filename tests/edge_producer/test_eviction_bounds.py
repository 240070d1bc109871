"""What gives way first, how far, and when it ends: at each bound of a spool that is too large."""

from edge_producer.spool.eviction import MERGE_AT_ONCE, MOMENTS_SHARE, RELIEF, SUMMARY_SHARE, Eviction
from edge_producer.spool.spool_rows import ThinnedBlock
from edge_producer.summaries import MERGED_PART
from tests.edge_producer.spool_rig import bench_profile, rich_profile, statements


def sensed(rigs, tmp_path, count=300, keep_summaries=True, **policy):
    rig = rigs(tmp_path, rich_profile(p=0.5, **policy))
    rig.sense([0.1] * count)
    rig.flush()
    if not keep_summaries:
        rig.settle(rig.seal_statements())
        rig.delivered.clear()
    return rig


def taus(rig):
    """Thinning factor of each block that waits, oldest first."""
    return [rig.spool.rows.tau(block) for block in rig.spool.rows.blocks()]


def waiting(rig):
    return [s for no in rig.spool.names for s in rig.spool.summaries(no, 1000)]


def relieve(rig, eviction, by_s=0.0, **given):
    with rig.spool.transaction():
        eviction.relieve(rig.now + by_s, **given)


def test_a_spool_at_its_limit_is_not_too_large(rigs, tmp_path):
    rig = sensed(rigs, tmp_path)
    before = rig.spool.bytes
    rig.evict(before)
    assert (rig.spool.bytes, set(taus(rig))) == (before, {1.0})
    rig.evict(before - 1)
    assert rig.spool.bytes <= (before - 1) * RELIEF


def test_no_more_gives_way_than_there_is_need_for(rigs, tmp_path):
    rig = sensed(rigs, tmp_path, keep_summaries=False)
    limit = rig.spool.bytes - 1
    largest = max(rig.spool.bytes / len(rig.spool.rows.blocks()) * 2, 1)
    rig.evict(limit)
    assert limit * RELIEF - largest < rig.spool.bytes <= limit * RELIEF


def test_a_block_is_thinned_down_to_the_floor_and_not_removed_there(rigs, tmp_path):
    rig = sensed(rigs, tmp_path, keep_summaries=False, thinning_floor=0.5)
    blocks = len(rig.spool.rows.blocks())
    rig.evict(rig.spool.bytes - 1)
    assert 0.5 in taus(rig)
    assert len(rig.spool.rows.blocks()) == blocks


def test_summaries_are_merged_before_a_row_gives_way(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=0.1))
    rig.sense([0.1] * 300)
    rig.flush()
    summaries, rows = rig.spool.summary_bytes, rig.spool.rows.bytes
    rig.evict(int((rows + summaries / 2) / RELIEF))
    assert (rig.spool.rows.bytes, set(taus(rig))) == (rows, {1.0})
    assert rig.spool.summary_bytes < summaries
    assert "summaries_dropped" not in rig.spool.counters()


def test_a_window_to_which_more_comes_is_not_merged_yet(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile())
    rig.sense([0.1] * 85)  # windows of 60 s: one whole, and two periods and a half of the next
    rig.commit()
    rig.evict(rig.spool.bytes - 1)
    assert sorted(s.period_s for _, s in waiting(rig)) == [10.0, 10.0, 60.0]


def test_summaries_are_merged_however_many_merged_ones_wait_already(rigs, tmp_path):
    rig = sensed(rigs, tmp_path)
    merged = [s._replace(period_s=60.0, part=k) for k, (_, s) in enumerate(waiting(rig))]
    rig.spool.remove_summaries(waiting(rig))
    for k in range(MERGE_AT_ONCE):
        rig.spool.add_summary(1, merged[k % len(merged)])
    rig.sense([0.1] * 120)
    rig.flush()
    with rig.spool.transaction():
        Eviction(rig.spool, rig.profile, rig.spool.bytes - 1).relieve(rig.now)
    assert rig.spool.counters()["summaries_merged"] >= 6


def test_rows_are_left_alone_as_long_as_summaries_hold_more_than_their_share(rigs, tmp_path):
    names = ("d-1", "d-2", "d-3")
    rig = rigs(tmp_path, rich_profile(p=0.05, p_min=0.05), names)
    for name in names:
        rig.sense([0.1] * 300, name)
    rig.flush()
    rows, first = rig.spool.rows.bytes, rig.spool.bytes
    steps = [int(first * share / 50) for share in range(49, 4, -1)]
    touched = []
    for limit in steps:
        before = rig.spool.rows.bytes
        rig.evict(limit)
        touched.append(rig.spool.rows.bytes < rows)
        assert rig.spool.rows.bytes == before or rig.spool.summary_bytes <= SUMMARY_SHARE * limit
    assert (touched[0], touched[-1]) == (False, True)


def test_at_exactly_the_relieved_size_nothing_more_gives_way(rigs, tmp_path):
    rig = sensed(rigs, tmp_path / "first", keep_summaries=False)
    rig.evict(int(rig.spool.bytes * 0.7))
    reached = rig.spool.bytes
    near = [reached / RELIEF * (1 + k * 2.0**-52) for k in range(-4, 5)]
    exact = next(limit for limit in near if limit * RELIEF == reached)
    again = sensed(rigs, tmp_path / "second", keep_summaries=False)
    relieve(again, Eviction(again.spool, again.profile, 10**9), allowed=exact)
    assert again.spool.bytes == reached


def test_rows_give_way_before_summaries_that_hold_no_more_than_their_share(rigs, tmp_path):
    rig = sensed(rigs, tmp_path, count=40)
    rig.sense([0.9] * 2000)
    rig.commit()
    rig.spool.remove_summaries(waiting(rig)[4:])
    summaries = rig.spool.summary_bytes
    rig.evict(rig.spool.bytes - 1)
    assert summaries < SUMMARY_SHARE * rig.spool.bytes
    assert rig.spool.summary_bytes == summaries
    assert min(taus(rig)) < 1.0


def test_what_is_sealed_never_gives_way_and_all_that_can_does(rigs, tmp_path):
    rig = sensed(rigs, tmp_path, count=600)
    rig.seal()
    sealed, summaries = rig.spool.messages.bytes, rig.spool.summary_bytes
    rig.spool.remove_summaries(waiting(rig)[6:])
    limit = int(rig.spool.summary_bytes / SUMMARY_SHARE) + 1
    assert rig.spool.summary_bytes < summaries
    assert limit < sealed
    rig.evict(limit)
    assert (rig.spool.summary_bytes, rig.spool.rows.bytes, rig.spool.messages.bytes) == (0, 0, sealed)
    assert rig.spool.counters()["summaries_dropped"] >= 1
    rig.evict(limit)  # nothing is left to give, and it ends
    assert rig.spool.messages.bytes == sealed


def test_the_oldest_summaries_are_dropped_one_at_a_time_until_there_is_room(rigs, tmp_path):
    rig = sensed(rigs, tmp_path, count=900, keep_summaries=True)
    for block in rig.spool.rows.blocks():
        rig.spool.rows.thin(block, 0.0, rig.now)
    relieve(rig, Eviction(rig.spool, rig.profile, rig.spool.bytes - 1))
    merged = waiting(rig)
    assert len(merged) == 900 / rig.profile.drift.window_s
    size = len(merged[0][1].value)
    relieve(rig, Eviction(rig.spool, rig.profile, rig.spool.bytes - size))
    left = waiting(rig)
    assert left == merged[-len(left) :]
    assert 1 <= rig.spool.counters()["summaries_dropped"] == len(merged) - len(left) <= 3


def test_a_disk_with_less_room_than_the_limit_counts_instead_of_it(rigs, tmp_path):
    rig = sensed(rigs, tmp_path, keep_summaries=False)
    half = rig.spool.bytes // 2
    relieve(rig, Eviction(rig.spool, rig.profile, 10**9))
    assert rig.spool.bytes > half
    relieve(rig, Eviction(rig.spool, rig.profile, 10**9), allowed=float(half))
    assert rig.spool.bytes <= half * RELIEF


def with_shadows(rig):
    """Each summary three times: as the model's in force, and as that of two shadows."""
    active = waiting(rig)
    with rig.spool.transaction():
        for _, summary in active:
            rig.spool.add_summary(1, summary._replace(part=-1, model_version="shadow"))
            rig.spool.add_summary(1, summary._replace(part=-2))
    return active


def test_a_shadows_summaries_are_merged_among_themselves_and_stay_a_shadows(rigs, tmp_path):
    rig = sensed(rigs, tmp_path, count=120)
    active = with_shadows(rig)
    relieve(rig, Eviction(rig.spool, rig.profile, rig.spool.bytes - 1))
    merged = [s for _, s in waiting(rig)]
    assert sorted((s.model_version, s.part < 0) for s in merged) == (
        [("bench-1", False)] * 2 + [("bench-1", True)] * 2 + [("shadow", True)] * 2
    )
    assert rig.spool.counters()["summaries_merged"] == 3 * len(active)
    parts = [s.part for s in merged]
    assert len(set(parts)) == len(parts)
    assert all(abs(p) > MERGED_PART for p in parts)


def test_moments_give_way_once_a_minute_and_are_counted(rigs, tmp_path):
    rig = sensed(rigs, tmp_path, keep_summaries=False)
    eviction = Eviction(rig.spool, rig.profile, 10**9)
    relieve(rig, eviction)
    assert "moments_dropped" not in rig.spool.counters()
    held = rig.spool._connection.execute("SELECT count(moments), sum(length(moments)) FROM books").fetchone()
    small = Eviction(rig.spool, rig.profile, 1)
    relieve(rig, small)
    assert rig.spool.counters()["moments_dropped"] == held[0] > 0
    rig.sense([0.1] * 50)
    rig.flush()
    more = rig.spool._connection.execute("SELECT count(moments) FROM books").fetchone()[0]
    relieve(rig, small, by_s=9.9)  # fifty seconds were sensed meanwhile
    assert rig.spool.counters()["moments_dropped"] == held[0]
    relieve(rig, small, by_s=10.0)
    assert rig.spool.counters()["moments_dropped"] == held[0] + more


def test_the_newest_moments_stay_up_to_their_share(rigs, tmp_path):
    rig = sensed(rigs, tmp_path, keep_summaries=False)
    size = rig.spool._connection.execute("SELECT max(length(moments)) FROM books").fetchone()[0]
    relieve(rig, Eviction(rig.spool, rig.profile, int(5 * size / MOMENTS_SHARE)))
    kept = rig.spool._connection.execute("SELECT period_us FROM books WHERE moments IS NOT NULL").fetchall()
    newest = rig.spool._connection.execute(
        "SELECT period_us FROM books ORDER BY period_us DESC, id DESC LIMIT 5"
    )
    assert sorted(kept) == sorted(newest.fetchall())
    assert rig.books().balanced


def test_a_block_that_is_given_up_is_stated_as_a_gap(rigs, tmp_path):
    rig = sensed(rigs, tmp_path, keep_summaries=False, thinning_floor=0.9)
    first = rig.spool.rows.blocks()[0]
    rig.evict(rig.spool.bytes - 1)
    assert rig.spool.rows.tau(ThinnedBlock(first.device, first.period_us, first.stratum)) == 0.0
    rig.settle(rig.seal_statements())
    assert any(line["gap"] for line in statements(rig.delivered))
