"""Laws of the books' moments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_producer.books import BookChange, BookKey, BookLine, CoMoments, Ledger, books_batch
from edge_producer.device_update import REWIND_PERIODS
from edge_producer.spool.salvage_plan import FoundLine
from tests.edge_producer.spool_rig import SpoolRig, bench_profile, row


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_merged_moments_agree_with_numpy(n, m, width, seed):
    data = np.random.default_rng(seed).normal(3, 2, (n + m, width)).astype(np.float32)
    merged = CoMoments.of(data[:n]) | CoMoments.of(data[n:])
    again = CoMoments.from_bytes(merged.to_bytes())
    assert again.n == n + m
    if n + m > 1:
        assert again.mean == pytest.approx(data.astype(float).mean(axis=0))
        expected = np.atleast_2d(np.cov(data.T.astype(float))) * (n + m - 1)
        assert np.allclose(again.products, expected, rtol=1e-9, atol=1e-9)


def test_rows_with_a_missing_value_do_not_enter_the_moments():
    moments = CoMoments.of(np.array([[1, 2], [np.nan, 5], [3, 4]], dtype=np.float32))
    assert moments.n == 2
    assert moments.mean.tolist() == [2.0, 3.0]


def test_a_line_closes_when_a_later_period_arrives():
    ledger = Ledger()
    for seq in range(12):
        ledger.release(row(seq))
    changes = ledger.take()
    assert [key.period_us for key in changes.closed] == [0]
    assert [c.sensed for c in changes.lines.values()] == [10, 2]
    assert not ledger.take().lines


@given(st.integers(1, 5), st.integers(1, 5))
def test_moments_of_nothing_change_no_others(n, width):
    some = CoMoments.of(np.arange(n * width, dtype=np.float32).reshape(n, width))
    nothing = CoMoments.of(np.zeros((0, width), dtype=np.float32))
    for merged in (some | nothing, nothing | some):
        assert (merged.n, merged.mean.tolist()) == (n, some.mean.tolist())
        assert merged.products.tolist() == some.products.tolist()
    assert (nothing | nothing).n == 0


def line(moments: CoMoments | None) -> BookLine:
    blob = None if moments is None else moments.to_bytes()
    return BookLine(1, 0, "m", "sample", 1, 3, 3, 0, 0, 0, 0, False, 1.0, blob, 10.0)


def test_a_statement_carries_mean_and_upper_triangle_and_none_where_there_are_none():
    some = CoMoments.of(np.array([[1, 2], [3, 6]], dtype=np.float32))
    nothing = CoMoments.of(np.zeros((0, 2), dtype=np.float32))
    stated = books_batch(["d"] * 3, [line(some), line(nothing), line(None)]).to_pylist()
    assert [row["feature_means"] for row in stated] == [[2.0, 4.0], None, None]
    assert [row["feature_comoments"] for row in stated] == [[2.0, 4.0, 8.0], None, None]


def test_a_settled_line_stays_as_long_as_a_row_can_come_for_it(tmp_path):
    """The clock may step back by ``REWIND_PERIODS`` within a boot, and the line must then still be there."""
    rig = SpoolRig(tmp_path, bench_profile(p=1.0, p_min=1.0, pretrigger=0))
    period_s = int(rig.profile.summaries.period_s)
    lines = []
    for _ in range(4 * REWIND_PERIODS):
        rig.sense([0.1] * period_s)
        rig.flush()
        rig.settle(rig.seal() + rig.seal_statements())
        rig.settle(rig.seal_statements())
        with rig.spool.transaction():
            rig.spool.books.forget_settled(period_s * 1_000_000)
        lines.append(rig.spool._connection.execute("SELECT count(*) FROM books").fetchone()[0])
    assert REWIND_PERIODS < max(lines) == lines[-1] < len(lines), "old lines go, recent ones stay"
    assert rig.books().balanced
    assert rig.books().sensed == 4 * REWIND_PERIODS * period_s
    rig.close()


def found(stated, pending=0):
    """A line of another spool: ten rows sensed, four acknowledged, three filtered."""
    key = BookKey(77, 0, "bench-1", "sample")
    counts = (10, 4, 3, 1, 2 - pending)
    return FoundLine(1, "d-1", key, counts, pending, closed=True, revision=7, stated=stated)


@pytest.mark.parametrize(
    ("stated", "pending", "lost", "due"), [(True, 0, 0, False), (False, 0, 0, True), (True, 2, 2, True)]
)
def test_a_line_taken_over_is_stated_again_only_if_it_was_not_or_something_was_lost(
    rigs, tmp_path, stated, pending, lost, due
):
    rig = rigs(tmp_path)
    with rig.spool.transaction():
        rig.spool.books.take_over(1, found(stated, pending), lost, rig.now)
    lines = [d.line for d in rig.spool.books.due(1, rig.now, 0.0, settled_only=False)]
    assert bool(lines) is due
    books = rig.books()
    assert (books.sensed, books.acked, books.evicted) == (10, 4, 1 + lost)
    assert books.balanced
    for line in lines:
        assert (line.gap, line.revision) == (lost > 0, 8)
    rig.sense([0.1])  # a later boot: no row can come for that line any more
    rig.flush()
    with rig.spool.transaction():
        rig.spool.books.forget_settled(1)
    kept = rig.spool._connection.execute("SELECT count(*) FROM books WHERE boot_id = 77").fetchone()
    assert kept == (int(due),), "a line goes once its statement arrived"
    assert rig.books().sensed == 11


def test_rows_that_wait_nowhere_any_more_are_not_counted_until_their_message_is_taken_over(rigs, tmp_path):
    rig = rigs(tmp_path)
    with rig.spool.transaction():
        line = rig.spool.books.take_over(1, found(stated=True, pending=2), 0, rig.now)
    assert (rig.books().sensed, rig.books().pending) == (8, 0)
    with rig.spool.transaction():
        rig.spool.books.add_pending(line, 2)
    assert rig.books().sensed == 10
    assert rig.spool._connection.execute("SELECT pending FROM books").fetchone() == (2,)


def test_a_damaged_row_is_evicted_and_its_line_states_a_gap(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=1.0, p_min=1.0, pretrigger=0))
    rig.sense([0.1] * 10)
    rig.flush()
    [whole] = rig.spool.books.due(1, rig.now, 0.0, settled_only=False)
    assert not whole.line.gap
    with rig.spool.transaction():
        rig.spool.books.lose(whole.id, 3, rig.now)
    [damaged] = rig.spool.books.due(1, rig.now, 0.0, settled_only=False)
    assert (damaged.line.gap, damaged.line.evicted, damaged.line.pending) == (True, 3, 7)
    assert rig.spool.counters()["rows_damaged"] == 3


def test_rows_that_could_not_be_kept_are_sensed_and_do_not_wait(rigs, tmp_path):
    rig = rigs(tmp_path)
    key = BookKey(1, 0, "bench-1", "sample")
    with rig.spool.transaction():
        id_ = rig.spool.books.change(1, key, BookChange(sensed=9, filtered=2, lost=3), rig.now)
        other = rig.spool.books.change(1, key._replace(stratum="rule"), BookChange(sensed=1), rig.now)
    pending = rig.spool._connection.execute("SELECT pending FROM books ORDER BY id").fetchall()
    assert pending == [(4,), (1,)]
    lines = {key: id_, key._replace(stratum="rule"): other}
    assert rig.spool.books.ids(1, [id_, other, 999]) == lines
    assert rig.spool.books.ids(1, [other]) == {key._replace(stratum="rule"): other}
    assert rig.spool.books.ids(2, [id_, other]) == {}
