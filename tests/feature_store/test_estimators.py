"""Estimators against the formulas of their sources, one row at a time, and against simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.estimators import calibrated_mean, loss_weights, sums, total

ROW = st.tuples(st.floats(-50, 50), st.floats(0.05, 1), st.integers(0, 2))
ROWS = st.lists(ROW, min_size=1, max_size=25)


def columns(rows):
    y, q, stratum = zip(*rows, strict=True)
    return np.array(y), np.array(q), np.array(stratum)


@given(ROWS)
def test_a_total_and_its_variance_are_horvitz_and_thompsons(rows):
    y, q, _ = columns(rows)
    value, variance = total(y, q)
    assert value == pytest.approx(math.fsum(a / b for a, b, _ in rows), abs=1e-9)
    assert variance == pytest.approx(math.fsum((1 - b) * (a / b) ** 2 for a, b, _ in rows), abs=1e-9)


def test_rows_that_were_sure_to_be_kept_add_no_variance():
    assert total(np.array([3.0, 4.0]), np.ones(2)) == (7.0, 0.0)


@given(
    ROWS, st.lists(st.floats(0, 100), min_size=3, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3)
)
def test_only_blocks_that_lost_rows_are_scaled_to_what_they_sensed(rows, sensed, lossy):
    _, q, block = columns(rows)
    weights = loss_weights(q, block, np.array(sensed), np.array(lossy))
    for b in set(block.tolist()):
        own = block == b
        if lossy[b]:
            assert weights[own].sum() == pytest.approx(sensed[b])
            assert weights[own] * q[own] == pytest.approx(weights[own][0] * q[own][0])
        else:
            assert weights[own] == pytest.approx(1 / q[own])


def test_a_lossy_block_that_nothing_of_arrived_from_divides_by_nothing():
    weights = loss_weights(np.array([0.5]), np.array([1]), np.array([7.0, 4.0]), np.array([True, True]))
    assert weights.tolist() == [4.0]


def linearised(rows, sensed):
    """The calibrated mean and its variance, row by row."""
    reached = {h: math.fsum(1 / q for _, q, k in rows if k == h) for _, _, h in rows}
    weight = [sensed[h] / reached[h] / q for _, q, h in rows]
    mass = math.fsum(weight)
    mean = math.fsum(w * y for w, (y, _, _) in zip(weight, rows, strict=True)) / mass
    centre = {
        h: math.fsum(w * (y - mean) for w, (y, _, k) in zip(weight, rows, strict=True) if k == h) / sensed[h]
        for h in reached
    }
    errors = [(w * (y - mean - centre[h])) ** 2 * (1 - q) for w, (y, q, h) in zip(weight, rows, strict=True)]
    return mean, math.fsum(errors) / mass**2


@given(ROWS, st.lists(st.floats(1, 100), min_size=3, max_size=3))
def test_a_calibrated_mean_and_its_variance_are_the_linearised_ones(rows, sensed):
    y, q, stratum = columns(rows)
    mean, variance = calibrated_mean(y, 1 / q, stratum, np.array(sensed))
    expected = linearised(rows, sensed)
    assert mean == pytest.approx(expected[0], rel=1e-6, abs=1e-6)
    assert variance == pytest.approx(expected[1], rel=1e-5, abs=1e-6)


def test_a_row_without_a_value_counts_in_its_stratum_and_not_in_the_mean():
    y, stratum, sensed = np.array([1.0, np.nan, 5.0]), np.array([0, 0, 1]), np.array([10.0, 10.0])
    mean, variance = calibrated_mean(y, np.array([2.0, 2.0, 2.0]), stratum, sensed)
    assert mean == pytest.approx((5 * 1.0 + 10 * 5.0) / 15)
    # Stratum 0: residuals 1 - mean and 0, weights 5, so -4/3 and 4/3 about their centre; stratum 1: none.
    assert variance == pytest.approx((1 - 1 / 2) * 2 * (5 * 4 / 3) ** 2 / 15**2)


def test_a_stratum_of_which_the_books_know_nothing_counts_for_nothing():
    y, stratum = np.array([1.0, 9.0]), np.array([0, 1])
    assert calibrated_mean(y, np.ones(2), stratum, np.array([4.0, 0.0]))[0] == 1.0
    assert calibrated_mean(y, np.ones(2), stratum, np.array([4.0, 0.0, 6.0]))[0] == 1.0
    assert all(map(math.isnan, calibrated_mean(y, np.ones(2), stratum, np.array([0.0, 0.0]))))


def test_sums_have_a_place_for_each_label_even_without_a_value():
    assert sums(np.array([1.0, 2.0, 4.0]), np.array([2, 0, 2]), 4).tolist() == [2.0, 0.0, 5.0, 0.0]
