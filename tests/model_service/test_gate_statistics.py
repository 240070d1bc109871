"""Weighted shares by device, and their bootstrap: the device is the unit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_service.gates.holdout import HoldoutRows
from model_service.gates.statistics import DRAWS, draws, interval, share

ROWS = st.lists(st.tuples(st.integers(0, 3), st.floats(0.1, 10), st.floats(-5, 5)), min_size=1, max_size=30)


def rows_of(device, weights):
    n = len(device)
    return HoldoutRows(np.zeros((n, 1), np.float32), np.array(weights), np.array(device, dtype="int64"))


@given(ROWS)
def test_a_share_is_the_weighted_mean_and_keeps_devices_apart(rows):
    device, weights, values = (np.array(c) for c in zip(*rows, strict=True))
    found = share(values, rows_of(device, weights), 5)
    assert found.mean() == pytest.approx(np.average(values, weights=weights))
    assert found.mass.tolist() == pytest.approx([weights[device == d].sum() for d in range(5)])
    for d in set(device.tolist()):
        own = np.zeros((1, 5))
        own[0, d] = 3
        alone = np.average(values[device == d], weights=weights[device == d])
        assert found.drawn(own)[0] == pytest.approx(alone)


def test_no_row_is_no_number_and_warns_of_nothing():
    found = share(np.array([]), rows_of([], []), 3)
    assert np.isnan(found.mean())
    assert np.isnan(found.drawn(np.ones((2, 3)))).all()


def test_each_draw_takes_as_many_devices_as_are_present_and_no_other():
    present = np.array([True, False, True, True, False])
    counts = draws(present)
    assert counts.shape == (DRAWS, 5)
    assert (counts.sum(axis=1) == 3).all()
    assert counts[:, ~present].sum() == 0
    assert counts[:, present].mean(axis=0) == pytest.approx(np.ones(3), abs=0.1)
    assert (counts == draws(present)).all()


def test_an_interval_is_the_middle_of_what_was_drawn_and_leaves_out_what_is_no_number():
    values = np.append(np.arange(1001.0), [np.nan] * 50)
    assert interval(values) == pytest.approx((25.0, 975.0))
