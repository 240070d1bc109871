"""Weights of training rows against plain numpy, and their bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.weights import calibrated, clipped, effective_size, with_device_cap

WEIGHTS = st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 5)), min_size=1, max_size=60)


@given(WEIGHTS, st.floats(0.05, 1))
def test_no_device_has_more_than_its_share_and_none_gains(pairs, share):
    weights, device = np.array([w for w, _ in pairs]), np.array([d for _, d in pairs])
    capped = with_device_cap(weights, device, share)
    devices = len(set(device.tolist()))
    totals = np.bincount(device, capped)
    assert (capped <= weights + 1e-12).all()
    assert totals.max() <= max(share, 1 / devices) * totals.sum() * (1 + 1e-9)
    free = [d for d in set(device.tolist()) if capped[device == d].sum() > 0.999 * weights[device == d].sum()]
    assert free or devices == 1, (
        "at least one device keeps its whole weight: no more is taken than the bound asks for"
    )


def test_few_devices_have_equal_parts_at_most():
    capped = with_device_cap(np.array([9.0, 1.0]), np.array([0, 1]), 0.25)
    assert capped.tolist() == [1.0, 1.0]


def test_shares_that_are_within_the_bound_stay_as_they_are():
    weights = np.array([1.0, 2.0, 3.0, 2.0])
    assert with_device_cap(weights, np.arange(4), 0.5).tolist() == weights.tolist()


def test_clipping_is_at_a_multiple_of_the_median():
    assert clipped(np.array([1.0, 1.0, 1.0, 50.0]), 20.0).tolist() == [1, 1, 1, 20]
    assert clipped(np.array([]), 20.0).tolist() == []


@given(WEIGHTS)
def test_the_effective_size_is_between_one_and_the_number_of_rows(pairs):
    weights = np.array([w for w, _ in pairs])
    assert 1 - 1e-9 <= effective_size(weights) <= len(weights) + 1e-9
    assert effective_size(np.ones(7)) == pytest.approx(7)
    assert effective_size(np.array([])) == 0


def test_strata_add_up_to_what_was_sensed_and_rows_without_books_keep_their_weight():
    q = np.array([0.5, 0.5, 0.1, 1.0, 0.25])
    block = np.array([0, 0, 1, 2, -1])
    found = calibrated(
        q, block, np.array([1, 1, 0]), np.array([0, 1, 0]), np.array([3.0, 15.0, 1.0]), np.zeros(3, bool)
    )
    # Stratum 1 (blocks 0 and 1): 2 + 2 + 10 reached, 18 sensed; stratum 0: 1 of 1.
    assert found.weights.tolist() == pytest.approx([2 * 18 / 14, 2 * 18 / 14, 10 * 18 / 14, 1.0, 4.0])
    assert found.rows_covered == 4


def test_loss_is_mended_device_by_device_first():
    q, block = np.array([0.5, 0.5, 0.5]), np.array([0, 1, 1])
    lossy = np.array([True, False])
    found = calibrated(q, block, np.zeros(2, int), np.array([0, 1]), np.array([10.0, 4.0]), lossy)
    assert found.weights.tolist() == pytest.approx([10.0, 2.0, 2.0])
    assert found.rows_lossy == 1


@given(WEIGHTS, st.floats(0.05, 1))
def test_the_cap_is_the_largest_at_which_the_bound_holds(pairs, share):
    weights, device = np.array([w for w, _ in pairs]), np.array([d for _, d in pairs])
    totals = np.array([weights[device == d].sum() for d in sorted(set(device.tolist()))])
    allowed = max(share, 1 / len(totals))
    low, high = 0.0, float(totals.max())
    for _ in range(200):
        middle = (low + high) / 2
        held = np.minimum(totals, middle)
        low, high = (middle, high) if held.max() <= allowed * held.sum() * (1 + 1e-12) else (low, middle)
    capped = np.bincount(device, with_device_cap(weights, device, share))
    kept = np.array([capped[d] for d in sorted(set(device.tolist()))])
    assert kept == pytest.approx(np.minimum(totals, high), rel=1e-6)


@pytest.mark.parametrize("devices", [3, 6, 7, 11])
def test_equal_devices_keep_their_weights_at_the_smallest_share(devices):
    weights = np.full(devices, 0.1)
    assert with_device_cap(weights, np.arange(devices), 0.01) == pytest.approx(weights)
    unequal = np.append(weights, 5.0)
    assert with_device_cap(unequal, np.arange(devices + 1), 0.01) == pytest.approx(np.full(devices + 1, 0.1))


def test_clipping_follows_the_scale_of_the_weights():
    assert clipped(np.array([4.0, 4.0, 4.0, 50.0]), 2.0).tolist() == [4, 4, 4, 8]


def test_a_stratum_that_cannot_be_scaled_keeps_its_weights():
    """Nothing is divided by what did not arrive, and rows that the books do not count are not taken away."""
    q, block = np.array([0.5, 0.25]), np.array([0, 0])
    strata, devices = np.array([0, 1, 2]), np.array([0, 0, 0])
    none_arrived = calibrated(q, block, strata, devices, np.array([12.0, 5.0, 5.0]), np.ones(3, bool))
    assert none_arrived.weights.tolist() == pytest.approx([4.0, 8.0])
    not_counted = calibrated(q, block, strata, devices, np.array([0.0, 5.0, 5.0]), np.ones(3, bool))
    assert not_counted.weights.tolist() == pytest.approx([2.0, 4.0])
