"""Quality against the truth: exact from moments, paired on the same windows, devices as unit."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from model_service.rollout.paired_quality import (
    LabelledSpan,
    ScoredPeriod,
    SpanTruth,
    agreement,
    alarm_quality,
    compare,
    quality,
    same_windows,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
PERIOD_S = 5.0


def period(device, version, number, scores, enter=0.6):
    values = np.asarray(scores, dtype=float)
    start = START + timedelta(seconds=PERIOD_S * number)
    m2 = float(((values - values.mean()) ** 2).sum())
    above = int((values >= enter).sum())
    return ScoredPeriod(device, 1, version, start, len(values), float(values.mean()), m2, above)


def fault(device, from_s, to_s=None):
    end = None if to_s is None else START + timedelta(seconds=to_s)
    return LabelledSpan(device, START + timedelta(seconds=from_s), end)


def test_quality_is_one_minus_the_brier_score_of_every_window():
    rng = np.random.default_rng(1)
    healthy, faulty = rng.uniform(0, 1, (4, 5)), rng.uniform(0, 1, (4, 5))
    periods = [period("a", "m", i, s) for i, s in enumerate(healthy)]
    periods += [period("b", "m", i, s) for i, s in enumerate(faulty)]
    found = quality(periods, SpanTruth([fault("b", 0)], PERIOD_S, complete=True))
    expected = 1 - np.concatenate([healthy.ravel() ** 2, (faulty.ravel() - 1) ** 2]).mean()
    assert found.value == pytest.approx(expected)
    assert found.low <= found.value <= found.high


def test_a_period_in_which_a_fault_begins_or_ends_counts_for_neither():
    truth = SpanTruth([fault("a", 7, 18)], PERIOD_S, complete=True)
    truths = [truth.of(period("a", "m", i, [0.5])) for i in range(5)]
    assert truths == [0.0, None, 1.0, None, 0.0]


def test_models_are_compared_only_where_both_scored_the_same_windows():
    old = [period("a", "old", i, [0.4, 0.4]) for i in range(6)]
    new = [period("a", "new", 3, [0.1]), *(period("a", "new", i, [0.1, 0.1]) for i in (4, 5))]
    found = compare([*old, *new], "old", "new", SpanTruth([], PERIOD_S, complete=True))
    assert found.windows == 4
    assert found.gain.value == pytest.approx(0.16 - 0.01)


def test_a_model_that_is_not_better_is_not_called_better():
    rng = np.random.default_rng(2)
    periods = []
    for device in range(20):
        scores = rng.uniform(0.1, 0.5, (2, 6, 5))
        for version, own in zip(("old", "new"), scores, strict=True):
            periods += [period(f"d{device}", version, i, s) for i, s in enumerate(own)]
    assert not compare(periods, "old", "new", SpanTruth([], PERIOD_S, complete=True)).is_better


def test_a_model_that_is_better_on_each_device_is_called_better():
    rng = np.random.default_rng(3)
    periods = []
    for device in range(20):
        scores = rng.uniform(0.2, 0.5, (6, 5))
        periods += [period(f"d{device}", "old", i, s) for i, s in enumerate(scores)]
        periods += [period(f"d{device}", "new", i, s * 0.6) for i, s in enumerate(scores)]
    assert compare(periods, "old", "new", SpanTruth([], PERIOD_S, complete=True)).is_better


def test_outside_of_labels_nothing_is_known_unless_every_fault_is():
    healthy = LabelledSpan("a", START, START + timedelta(seconds=10), is_fault=False)
    for complete, expected in ((False, [0.0, 0.0, None, 1.0]), (True, [0.0, 0.0, 0.0, 1.0])):
        truth = SpanTruth([healthy, fault("a", 15, 20)], PERIOD_S, complete=complete)
        assert [truth.of(period("a", "m", i, [0.5])) for i in range(4)] == expected


def test_a_fault_within_a_span_that_is_called_healthy_is_a_fault():
    spans = [LabelledSpan("a", START, START + timedelta(seconds=30), is_fault=False), fault("a", 10, 20)]
    truth = SpanTruth(spans, PERIOD_S, complete=False)
    assert [truth.of(period("a", "m", i, [0.5])) for i in range(5)] == [0.0, 0.0, 1.0, 1.0, 0.0]


def test_recall_and_precision_are_those_of_all_windows_whose_truth_is_known():
    rng = np.random.default_rng(4)
    scores = rng.uniform(0, 1, (10, 5))
    spans = [
        fault("a", 0, 25),
        LabelledSpan("a", START + timedelta(seconds=25), START + timedelta(seconds=40), False),
    ]
    found = alarm_quality(
        [period("a", "m", i, s) for i, s in enumerate(scores)], SpanTruth(spans, PERIOD_S, complete=False)
    )
    alarms = scores >= 0.6
    assert found.share == pytest.approx(alarms.mean())
    assert found.recall == pytest.approx(alarms[:5].mean())
    assert found.precision == pytest.approx(alarms[:5].sum() / alarms[:8].sum())


def test_without_labels_recall_and_precision_are_not_estimable_and_the_share_of_alarms_is():
    found = alarm_quality([period("a", "m", 0, [0.1, 0.9])], SpanTruth([], PERIOD_S, complete=False))
    assert found == (0.5, None, None)


def test_two_models_agree_on_at_most_the_windows_that_their_counts_allow():
    old = [period("a", "old", i, s) for i, s in enumerate(([0.1, 0.9], [0.1, 0.1], [0.9, 0.9]))]
    new = [period("a", "new", i, s) for i, s in enumerate(([0.9, 0.9], [0.1, 0.1], [0.1, 0.1]))]
    assert agreement(same_windows([*old, *new], "old", "new")) == pytest.approx(1 - 3 / 6)
    assert agreement([]) is None


def test_of_several_outputs_each_is_held_against_its_own_faults_and_windows_count_once():
    """Two windows of a worn device: one output is to find that, the other one is to say nothing."""
    scores = {"old": {"score_worn": [1.0, 1.0], "score_hit": [0.5, 0.5]},
              "new": {"score_worn": [1.0, 0.5], "score_hit": [0.0, 0.0]}}  # fmt: skip
    periods = [
        replace(period("a", version, 0, values), output=output)
        for version, by_output in scores.items()
        for output, values in by_output.items()
    ]
    span = fault("a", 0)._replace(output="score_worn")
    found = compare(periods, "old", "new", SpanTruth([span], PERIOD_S, complete=True))
    assert (found.windows, found.old.value) == (2, pytest.approx(1 - 0.25 / 2))
    assert found.new.value == pytest.approx(1 - 0.25 / 4)
    assert found.gain.value == pytest.approx(0.25 / 2 - 0.25 / 4)
