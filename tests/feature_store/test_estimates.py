"""Estimates from filtered rows agree with the full data within their intervals; naive ones do not."""

import math

import numpy as np
import pyarrow as pa
import pytest

from feature_store import connect
from feature_store.estimates import estimate_mean, estimate_total, exact_mean
from feature_store.estimators import calibrated_mean, loss_weights, total
from schemas.errors import QueryError
from schemas.tables import SUMMARIES
from tests.feature_store.fleets import fill, land, machine_lake, sense

RUNS = 400
DEVICES = 60


def coverage(estimates, truth):
    return np.mean([low <= truth <= high for low, high in estimates])


def interval(value, variance):
    return value - 1.96 * math.sqrt(variance), value + 1.96 * math.sqrt(variance)


def resample(fleet, rng):
    fleet.sent = rng.random(len(fleet.y)) < fleet.q
    return fleet


def test_total_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    fleet = sense(rng)
    found = []
    for _ in range(RUNS):
        at = resample(fleet, rng).sent
        found.append(interval(*total(fleet.y[at], fleet.q[at])))
    assert 0.92 <= coverage(found, fleet.y.sum()) <= 0.98


def test_mean_intervals_cover_the_truth_and_the_naive_mean_is_outside():
    rng = np.random.default_rng(2)
    fleet = sense(rng)
    sizes = np.array([np.sum(~fleet.rule), np.sum(fleet.rule)], dtype=float)
    found, naive = [], []
    for _ in range(RUNS):
        at = resample(fleet, rng).sent
        found.append(
            interval(*calibrated_mean(fleet.y[at], 1 / fleet.q[at], fleet.rule[at].astype(int), sizes))
        )
        naive.append(fleet.y[at].mean())
    assert 0.92 <= coverage(found, fleet.y.mean()) <= 0.98
    assert not any(low <= n <= high for (low, high), n in zip(found, naive, strict=True))


def test_calibration_makes_a_mean_far_from_zero_precise():
    rng = np.random.default_rng(3)
    fleet = sense(rng)
    y, q = fleet.y[fleet.sent] + 1000, fleet.q[fleet.sent]
    sizes = np.array([np.sum(~fleet.rule), np.sum(fleet.rule)], dtype=float)
    _, raw = total(y, q)
    _, calibrated = calibrated_mean(y, 1 / q, fleet.rule[fleet.sent].astype(int), sizes)
    assert math.sqrt(calibrated) < 0.01 * math.sqrt(raw) / len(fleet.y)


def test_a_column_without_values_in_some_rows_is_averaged_over_the_others():
    y = np.array([1.0, np.nan, 3.0])
    mean, variance = calibrated_mean(y, np.ones(3), np.zeros(3, int), np.array([3.0]))
    assert (mean, variance) == (2.0, 0.0)


def test_nothing_sent_is_no_number_rather_than_zero():
    empty = np.array([])
    assert math.isnan(calibrated_mean(empty, empty, np.array([], int), np.array([5.0, 0.0]))[0])


def test_lost_blocks_are_weighted_back_to_what_was_sensed():
    q = np.array([0.5, 0.5, 0.5])
    block = np.array([0, 0, 1])
    weights = loss_weights(q, block, np.array([12.0, 9.0]), np.array([True, False]))
    assert weights.tolist() == [6.0, 6.0, 2.0]


def land_fleet(lake, fleet, statements):
    telemetry = pa.concat_tables([device.rows() for device in fleet])
    land(lake, telemetry=telemetry, books=pa.concat_tables(statements))


def per_device(root, fleet, estimate):
    with connect(root, comments=False) as con:
        return [
            estimate(con, "telemetry_machine", "vibration_rms", f"device_id = '{d.device}'") for d in fleet
        ]


def share_covered(estimates, truths):
    return np.mean([e.low <= t <= e.high for e, t in zip(estimates, truths, strict=True)])


def test_estimates_over_the_lake_cover_what_each_device_sensed(lake_root):
    rng = np.random.default_rng(5)
    fleet = [sense(rng, device=f"m-{i}") for i in range(DEVICES)]
    land_fleet(machine_lake(lake_root), fleet, [d.statement() for d in fleet])
    means = per_device(lake_root, fleet, estimate_mean)
    totals = per_device(lake_root, fleet, estimate_total)
    truth = [d.y.mean() for d in fleet]
    naive = [d.y[d.sent].mean() for d in fleet]
    assert share_covered(means, truth) >= 0.88  # 95 % less 2.5 standard errors of 60 draws
    assert share_covered(totals, [d.y.sum() for d in fleet]) >= 0.88
    assert share_covered(means, naive) <= 0.05
    assert [e.n_rows for e in means] == [d.sent.sum() for d in fleet]
    assert {(e.n_sensed, e.flagged) for e in means} == {(3000, False)}


def test_a_condition_narrows_rows_and_books_alike(lake_root):
    fleet = sense(np.random.default_rng(6))
    lake = machine_lake(lake_root)
    land(lake, telemetry=fleet.rows(), books=fleet.statement())
    half = "period_start < TIMESTAMPTZ '2026-01-01 12:25:00+00'"
    with connect(lake_root, comments=False) as con:
        part = estimate_mean(con, "telemetry_machine", "vibration_rms", half)
        rule = estimate_mean(con, "telemetry_machine", "vibration_rms", "stratum = 'rule'")
        with pytest.raises(QueryError, match="score"):
            estimate_mean(con, "telemetry_machine", "vibration_rms", "score > 0.5")
    assert part.n_sensed == 1500
    assert part.low <= fleet.y[:1500].mean() <= part.high
    # Rows that a rule selects are all here, so they are not estimated at all.
    assert rule.low == pytest.approx(rule.high)
    assert rule.value == pytest.approx(fleet.y[fleet.rule].mean(), rel=1e-6)


def lose_most_of_the_second_half(device, rng):
    """The second half differs, and 70 % of its sample is lost on the way."""
    device.y[1500:] += 8
    lost = np.append(np.zeros(1500, bool), rng.random(1500) < 0.7)
    device.sent &= ~(lost & ~device.rule)


def test_rows_that_are_missing_beyond_the_design_are_flagged_and_weighted_for(lake_root):
    rng = np.random.default_rng(8)
    fleet = [sense(rng, device=f"m-{i}") for i in range(DEVICES)]
    statements = [d.statement() for d in fleet]
    for device in fleet:
        lose_most_of_the_second_half(device, rng)
    land_fleet(machine_lake(lake_root), fleet, statements)
    means = per_device(lake_root, fleet, estimate_mean)
    totals = per_device(lake_root, fleet, estimate_total)
    assert all(e.flagged for e in [*means, *totals])
    assert share_covered(means, [d.y.mean() for d in fleet]) >= 0.85  # weights after loss are approximate
    assert share_covered(totals, [d.y.sum() for d in fleet]) <= 0.1  # without them nothing is covered


def test_a_shadow_counts_for_no_exact_mean(lake_root):
    columns = {"feature": ["score"] * 2, "profile": ["machine"] * 2, "n": [10, 10], "n_missing": [0, 0]}
    columns |= {"mean": [0.2, 0.8], "m2": [0.0, 0.0], "min": [0.2, 0.8], "max": [0.2, 0.8], "part": [0, -1]}
    land(machine_lake(lake_root), summaries=fill(SUMMARIES.schema, **columns))
    with connect(lake_root, comments=False) as con:
        found = exact_mean(con, "machine", "score")
    assert (found.n, found.mean) == (10, pytest.approx(0.2))


def test_exact_means_pool_the_summaries(lake_root):
    rng = np.random.default_rng(4)
    parts = [rng.normal(50, 3, size) for size in (7, 30, 1)]
    columns = {
        "feature": ["current_mean"] * 4,
        "profile": ["machine"] * 4,
        "n": [*map(len, parts), 0],
        "n_missing": [0, 2, 0, 5],
        "mean": [*(p.mean() for p in parts), None],
        "m2": [*(((p - p.mean()) ** 2).sum() for p in parts), 0.0],
        "min": [*(p.min() for p in parts), None],
        "max": [*(p.max() for p in parts), None],
    }
    lake = machine_lake(lake_root)
    land(lake, summaries=fill(SUMMARIES.schema, **columns))
    everything = np.concatenate(parts)
    with connect(lake_root, comments=False) as con:
        found = exact_mean(con, "machine", "current_mean")
        nothing = exact_mean(con, "machine", "vibration_rms")
    assert (found.n, found.n_missing) == (38, 7)
    assert found.mean == pytest.approx(everything.mean())
    assert found.std == pytest.approx(everything.std())
    assert (found.min, found.max) == (everything.min(), everything.max())
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
