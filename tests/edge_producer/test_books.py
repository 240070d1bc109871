"""Laws of the books' moments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_producer.books import CoMoments, Ledger
from tests.edge_producer.spool_rig import row


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
