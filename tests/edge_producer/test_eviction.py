"""Laws of giving way."""

from edge_producer.spool.eviction import Eviction
from edge_producer.spool.spool_rows import ThinnedBlock
from schemas.row_schemas import BOOK_COUNTS, RULES
from tests.edge_producer.spool_rig import bench_profile, rich_profile, statements, summary_rows


def filled(rigs, tmp_path, **policy):
    rig = rigs(tmp_path, bench_profile(p=0.5, **policy))
    rig.sense([0.1] * 200 + [0.9] * 20)
    rig.flush()
    without_statements(rig)
    return rig


def without_statements(rig):
    """Leave only rows in the spool: they are what gives way."""
    rig.settle(rig.seal_statements())
    rig.delivered.clear()


def stored(rig):
    pi = "CASE r.pi WHEN 0 THEN r.sample_p ELSE r.pi END"
    query = f"SELECT b.period_us, b.stratum, r.u, {pi} FROM rows r JOIN books b ON b.id = r.book"
    return rig.spool._connection.execute(query).fetchall()


def test_thinning_keeps_exactly_the_rows_below_pi_tau_of_whole_blocks(rigs, tmp_path):
    rig = filled(rigs, tmp_path)
    before = stored(rig)
    rig.evict(rig.spool.bytes * 3 // 4)
    after = set(stored(rig))
    tau = {ThinnedBlock(1, p, s): rig.spool.rows.tau(ThinnedBlock(1, p, s)) for p, s, _, _ in before}
    assert min(tau.values()) < 1.0
    assert after == {r for r in before if r[2] < r[3] * tau[ThinnedBlock(1, r[0], r[1])]}


def test_the_oldest_block_gives_way_first(rigs, tmp_path):
    rig = filled(rigs, tmp_path)
    periods = sorted({p for p, s, _, _ in stored(rig) if s == "sample"})
    rig.evict(rig.spool.bytes - 1)
    factors = [rig.spool.rows.tau(ThinnedBlock(1, p, "sample")) for p in periods]
    assert factors == sorted(factors)
    assert set(factors) == {0.5, 1.0}


def test_survivors_carry_q_equal_pi_tau(rigs, tmp_path):
    rig = filled(rigs, tmp_path)
    rig.evict(rig.spool.bytes // 2)
    factors = set()
    rig.settle(rig.seal())
    for row in rig.rows_of(rig.delivered):
        pi = 1.0 if row["reasons"] & RULES else row["sample_p"]
        factors.add(row["inclusion_probability"] / pi)
    assert factors <= {2.0**-k for k in range(7)}
    assert len(factors) > 1


def test_rows_that_come_later_to_a_thinned_block_are_thinned_alike(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=1.0, p_min=1.0, pretrigger=0))
    rig.sense([0.1] * 5)
    rig.commit()
    (block,) = rig.spool.rows.blocks()
    with rig.spool.transaction():
        rig.spool.rows.thin(block, 0.25, rig.now)
    rig.sense([0.1] * 5)
    rig.commit()
    assert all(u < 0.25 for _, _, u, _ in stored(rig))
    assert rig.books().balanced


def test_below_the_floor_a_block_goes_whole_and_the_books_call_it_a_gap(rigs, tmp_path):
    rig = filled(rigs, tmp_path, thinning_floor=0.5)
    rig.evict(0)
    assert stored(rig) == []
    rig.settle(rig.seal_statements())
    assert all(line["gap"] and not line["thinning"] for line in statements(rig.delivered) if line["evicted"])
    books = rig.books()
    assert (books.pending, books.acked) == (0, 0)
    assert sum(line["evicted"] for line in statements(rig.delivered)) == books.evicted > 0


def test_thinned_estimates_stay_honest(rigs, tmp_path):
    """Rows of 40 devices, thinned to a third: the weighted count agrees with what was sensed."""
    names = tuple(f"d-{n}" for n in range(40))
    rig = rigs(tmp_path, bench_profile(p=0.5), names)
    for name in names:
        rig.sense([0.1] * 50, name)
    rig.flush()
    without_statements(rig)
    rig.evict(rig.spool.bytes // 3)
    rig.settle(rig.seal())
    rows = rig.rows_of(rig.delivered)
    q = [r["inclusion_probability"] for r in rows]
    estimate, variance = sum(1 / x for x in q), sum((1 - x) / x**2 for x in q)
    assert sum(rig.books(n).evicted for n in names) > 500
    assert abs(estimate - 40 * 50) < 4 * variance**0.5


def test_summaries_are_merged_before_any_is_dropped(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.1] * 300)
    rig.flush()
    waiting = rig.spool.summary_bytes
    eviction = Eviction(rig.spool, rig.profile, int(waiting * 0.7))
    with rig.spool.transaction():
        eviction.relieve(rig.now)
    assert rig.spool.counters().get("summaries_merged") == 30
    assert "summaries_dropped" not in rig.spool.counters()
    rig.settle(rig.seal_statements())
    lines = [r for r in summary_rows(rig.delivered) if r["feature"] == "load_last"]
    assert sum(line["n"] for line in lines) == 300
    assert {line["period_s"] for line in lines} == {60.0}


def test_dropped_summaries_are_counted(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.1] * 300)
    rig.flush()
    rig.evict(0)
    assert rig.spool.summary_bytes == 0
    assert rig.spool.counters()["summaries_dropped"] > 0


def test_moments_give_way_but_counts_never_do(rigs, tmp_path):
    rig = rigs(tmp_path, rich_profile())
    rig.sense([0.1] * 100)
    rig.flush()
    before = rig.books()
    with rig.spool.transaction():
        assert rig.spool.books.strip_moments(100) > 0
    rig.settle(rig.seal_statements())
    lines = statements(rig.delivered)
    assert any(line["feature_means"] is None for line in lines)
    assert {n: sum(line[n] for line in lines) for n in BOOK_COUNTS} == {
        n: getattr(before, n) for n in BOOK_COUNTS
    }
