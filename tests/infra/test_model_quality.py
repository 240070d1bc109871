"""Quality against the truth: exact from moments, paired on the same windows, devices as unit."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from edge_producer.sources.scenario import FaultSpan
from infra.demo.model_quality import FaultTruth, ScoredPeriod, compare, quality

START = datetime(2026, 3, 1, tzinfo=UTC)
PERIOD_S = 5.0


def period(device, version, number, scores):
    values = np.asarray(scores, dtype=float)
    start = START + timedelta(seconds=PERIOD_S * number)
    m2 = float(((values - values.mean()) ** 2).sum())
    return ScoredPeriod(device, 1, version, start, len(values), float(values.mean()), m2)


def fault(device, from_s, to_s=None):
    end = None if to_s is None else START + timedelta(seconds=to_s)
    return FaultSpan(device, "bearing_wear", START + timedelta(seconds=from_s), end, True)


def test_quality_is_one_minus_the_brier_score_of_every_window():
    rng = np.random.default_rng(1)
    healthy, faulty = rng.uniform(0, 1, (4, 5)), rng.uniform(0, 1, (4, 5))
    periods = [period("a", "m", i, s) for i, s in enumerate(healthy)]
    periods += [period("b", "m", i, s) for i, s in enumerate(faulty)]
    found = quality(periods, FaultTruth([fault("b", 0)], PERIOD_S))
    expected = 1 - np.concatenate([healthy.ravel() ** 2, (faulty.ravel() - 1) ** 2]).mean()
    assert found.value == pytest.approx(expected)
    assert found.low <= found.value <= found.high


def test_a_period_in_which_a_fault_begins_or_ends_counts_for_neither():
    truth = FaultTruth([fault("a", 7, 18)], PERIOD_S)
    truths = [truth.of(period("a", "m", i, [0.5])) for i in range(5)]
    assert truths == [0.0, None, 1.0, None, 0.0]


def test_models_are_compared_only_where_both_scored_the_same_windows():
    old = [period("a", "old", i, [0.4, 0.4]) for i in range(6)]
    new = [period("a", "new", 3, [0.1]), *(period("a", "new", i, [0.1, 0.1]) for i in (4, 5))]
    found = compare([*old, *new], "old", "new", FaultTruth([], PERIOD_S))
    assert found.windows == 4
    assert found.gain.value == pytest.approx(0.16 - 0.01)


def test_a_model_that_is_not_better_is_not_called_better():
    rng = np.random.default_rng(2)
    periods = []
    for device in range(20):
        scores = rng.uniform(0.1, 0.5, (2, 6, 5))
        for version, own in zip(("old", "new"), scores, strict=True):
            periods += [period(f"d{device}", version, i, s) for i, s in enumerate(own)]
    assert not compare(periods, "old", "new", FaultTruth([], PERIOD_S)).is_better


def test_a_model_that_is_better_on_each_device_is_called_better():
    rng = np.random.default_rng(3)
    periods = []
    for device in range(20):
        scores = rng.uniform(0.2, 0.5, (6, 5))
        periods += [period(f"d{device}", "old", i, s) for i, s in enumerate(scores)]
        periods += [period(f"d{device}", "new", i, s * 0.6) for i, s in enumerate(scores)]
    assert compare(periods, "old", "new", FaultTruth([], PERIOD_S)).is_better
