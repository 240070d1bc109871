"""Moments: partials made anywhere and added anywhere are the moments of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_processors.windowing.moments import (
    LARGEST_COUNT,
    LARGEST_VALUE,
    MomentColumns,
    Moments,
    merge,
    merge_groups,
)

VALUES = st.floats(-1e6, 1e6, allow_nan=False)
SAMPLES = st.lists(st.lists(VALUES, min_size=1, max_size=20), min_size=1, max_size=12)


def moments_of(values: list[float]) -> Moments:
    v = np.array(values)
    return Moments(
        len(v), float(v.mean()), float(((v - v.mean()) ** 2).sum()), float(v.min()), float(v.max())
    )


def columns_of(parts: list[Moments]) -> MomentColumns:
    n, *rest = (np.array(c) for c in zip(*parts, strict=True))
    return MomentColumns(n.astype("int64"), *rest)


def assert_same(got: Moments, values: list[float]) -> None:
    scale = max(1.0, float(np.abs(values).max()))
    assert (got.n, got.min, got.max) == (len(values), min(values), max(values))
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9 * scale)
    assert got.m2 == pytest.approx(np.var(values) * len(values), rel=1e-6, abs=1e-6 * scale**2)


@given(samples=SAMPLES, data=st.data())
def test_any_grouping_of_partials_equals_one_pass(samples, data):
    parts = [moments_of(s) for s in samples]
    while len(parts) > 1:
        i = data.draw(st.integers(0, len(parts) - 2))
        parts[i : i + 2] = [parts[i] | parts[i + 1]]
    assert_same(parts[0], [v for s in samples for v in s])


@given(samples=SAMPLES, data=st.data())
def test_columns_merge_group_by_group_like_single_partials(samples, data):
    chosen = [data.draw(st.integers(0, 3)) for _ in samples]
    numbers = {g: i for i, g in enumerate(sorted(set(chosen)))}
    groups = np.array([numbers[g] for g in chosen])
    merged = merge_groups(groups, columns_of([moments_of(s) for s in samples]))
    for g, got in enumerate(merged):
        assert_same(got, [v for s, k in zip(samples, groups, strict=True) if k == g for v in s])


def test_values_far_from_zero_keep_their_spread():
    values = [1e9 + k for k in range(5)]
    assert merge([moments_of([v]) for v in values]).variance == pytest.approx(2.5)
    [merged] = merge_groups(np.zeros(5, dtype="int64"), columns_of([moments_of([v]) for v in values]))
    assert merged.variance == pytest.approx(2.5)


def test_partials_of_a_constant_have_no_spread():
    merged = merge_groups(np.zeros(1000, dtype="int64"), columns_of([moments_of([0.1])] * 1000))
    assert merged == [Moments(1000, 0.1, 0.0, 0.1, 0.1)]


@pytest.mark.parametrize(
    "broken",
    [
        {"n": 0},
        {"n": -3},
        {"n": 1 << 50},
        {"mean": float("nan")},
        {"mean": 1e200},
        {"m2": -1.0},
        {"m2": float("inf")},
        {"min": 3.0},
        {"max": float("inf")},
    ],
)
def test_impossible_moments_are_not_merged(broken):
    good = Moments(2, 1.0, 2.0, 0.0, 2.0)
    assert columns_of([good, good._replace(**broken)]).usable().tolist() == [True, False]


@pytest.mark.parametrize(
    "extreme",
    [
        Moments(1, 1.0, 0.0, 1.0, 1.0),
        Moments(LARGEST_COUNT, 1.0, 2.0, 0.0, 2.0),
        Moments(2, 1.0, LARGEST_VALUE**2, 0.0, 2.0),
        Moments(2, LARGEST_VALUE, 0.0, LARGEST_VALUE, LARGEST_VALUE),
        Moments(2, -LARGEST_VALUE, 0.0, -LARGEST_VALUE, -LARGEST_VALUE),
        Moments(9, 1.0, 4.0, 1.0, 3.0),  # the squared distance of one bound, and the mean at the other
        Moments(9, 3.0, 4.0, 1.0, 3.0),
    ],
)
def test_moments_at_a_bound_are_still_merged(extreme):
    good = Moments(2, 1.0, 2.0, 0.0, 2.0)
    assert columns_of([good, extreme]).usable().tolist() == [True, True]


@pytest.mark.parametrize(
    "impossible",
    [
        Moments(9, 0.9, 9.0, 1.0, 3.0),
        Moments(9, 3.1, 9.0, 1.0, 3.0),
        Moments(9, 1.0, 3.9, 1.0, 3.0),
        Moments(9, 3.0, 3.9, 1.0, 3.0),
        Moments(9, 1.0, 8.0, 1.0, 4.0),
        Moments(9, 4.0, 8.0, 1.0, 4.0),
        Moments(9, -3.1, 9.0, -3.0, -1.0),
    ],
)
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_moments_of_no_sample_are_not_merged_in_whatever_unit(impossible, unit):
    n, mean, m2, low, high = impossible
    scaled = Moments(n, mean * unit, m2 * unit**2, low * unit, high * unit)
    assert columns_of([scaled]).usable().tolist() == [False]


SENSED = st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=20)


@given(samples=st.lists(SENSED, min_size=1, max_size=12))
def test_moments_of_every_sample_are_merged_whatever_a_float_lost_of_its_mean(samples):
    parts = [moments_of(s) for s in samples]
    rounded = [p._replace(mean=float(np.float32(p.mean))) for p in parts]
    assert columns_of(parts + rounded).usable().all()


@pytest.mark.parametrize(
    "beyond",
    [
        {"n": LARGEST_COUNT + 1},
        {"m2": LARGEST_VALUE**2 * 1.01},
        {"mean": LARGEST_VALUE * 1.01},
        {"min": -LARGEST_VALUE * 1.01},
        {"max": LARGEST_VALUE * 1.01},
    ],
)
def test_moments_beyond_a_bound_are_not_merged(beyond):
    good = Moments(2, 1.0, 2.0, 0.0, 2.0)
    assert columns_of([good, good._replace(**beyond)]).usable().tolist() == [True, False]


def test_chosen_rows_keep_their_order():
    parts = [moments_of([float(k), k + 1.0]) for k in range(4)]
    assert merge_groups(np.arange(3), columns_of(parts).take(np.array([2, 0, 3]))) == [
        parts[k] for k in (2, 0, 3)
    ]


def test_no_rows_make_no_groups():
    assert (
        merge_groups(np.array([], dtype="int64"), columns_of([moments_of([1.0])]).take(np.array([], int)))
        == []
    )


def test_a_single_value_has_no_variance_and_two_have_their_own():
    assert moments_of([3.0]).variance == 0.0
    assert moments_of([3.0, 5.0]).variance == 2.0


def test_moments_survive_as_json():
    whole = moments_of([1.0, 2.0, 4.0])
    assert Moments.from_state(whole.to_state()) == whole
