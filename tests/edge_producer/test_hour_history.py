"""Laws of a device's hours before: means of what it measured, gaps named, the same over a restart."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from edge_producer.hour_history import HistoryLayout, HourHistory
from schemas.history_spec import HOURS, STEPS

STEP_US = 900_000_000
MONDAY = datetime(2026, 3, 2, 6, tzinfo=UTC)
BEGIN = round(MONDAY.timestamp() * 1e6)
LAYOUT = HistoryLayout(("flow", "queue"), ((0, 1), (2,)), STEP_US, 2.0, ZoneInfo("Europe/Berlin"))
WINDOWS = 4
"""A quarter."""


def run(history: HourHistory, rows: np.ndarray, first: int = 0) -> None:
    """A quarter of windows for each row (q, W, 3), from quarter ``first`` after the beginning on."""
    for q, windows in enumerate(rows):
        for w, features in enumerate(windows):
            history.inputs(BEGIN + (first + q) * STEP_US + w * STEP_US // WINDOWS)
            history.add(features)


def measured(seed: int, quarters: int) -> np.ndarray:
    """Features of windows, shape (quarters, WINDOWS, 3)."""
    return np.random.default_rng(seed).uniform(0.0, 2.0, (quarters, WINDOWS, 3)).astype(np.float32)


def at_quarter(history: HourHistory, quarter: int) -> tuple[float, np.ndarray]:
    """Hours since Monday, and means (2, 168), that the graph is told at the beginning of a quarter."""
    given = history.inputs(BEGIN + quarter * STEP_US)
    return float(given[0]), given[1:].reshape(2, HOURS)


def test_hours_are_means_of_what_was_measured_newest_first_and_older_than_a_week_is_gone():
    rows, history = measured(1, HOURS * STEPS + 21), HourHistory(LAYOUT)
    run(history, rows)
    since, hours = at_quarter(history, len(rows))
    assert since == 7 + 168 + 21 / 4 - 168  # Berlin is an hour ahead; a week has passed
    sums = np.stack([rows[..., 0] + rows[..., 1], rows[..., 2]]).mean(axis=2)
    kept = sums[:, 21:].reshape(2, HOURS, STEPS).mean(axis=2)[:, ::-1]
    np.testing.assert_allclose(hours, kept, rtol=1e-3)


def test_what_was_not_measured_is_not_known_and_a_quarter_that_is_thin_counts_for_nothing():
    rows, history = measured(2, 12), HourHistory(LAYOUT)
    rows[4:6] = np.nan  # half of the second hour
    rows[8, :3] = np.nan  # the third hour has three quarters
    run(history, rows)
    _, hours = at_quarter(history, 12)
    assert np.isfinite(hours[:, :3]).tolist() == [[True, False, True]] * 2
    assert hours[1, 0] == pytest.approx(rows[9:, :, 2].mean(), rel=1e-3)
    assert not np.isfinite(hours[:, 3:]).any()
    _, later = at_quarter(history, 12 + 5 * STEPS)  # five hours without a window
    assert not np.isfinite(later[:, :5]).any()
    np.testing.assert_array_equal(later[:, 5:8], hours[:, :3])


def test_a_restart_and_another_model_go_on_as_if_nothing_had_happened():
    rows = measured(3, 40)
    whole, first = HourHistory(LAYOUT), HourHistory(LAYOUT)
    run(whole, rows)
    run(first, rows[:22])
    second = HourHistory(LAYOUT)
    second.restore(json.loads(json.dumps(first.export())))
    run(second, rows[22:31], 22)
    third = HourHistory(replace(LAYOUT))
    third.go_on_from(second)
    run(third, rows[31:], 31)
    for one, other in zip(at_quarter(third, 40), at_quarter(whole, 40), strict=True):
        np.testing.assert_array_equal(one, other)
    second.go_on_from(third)
    third.go_on_from(first)  # older: nothing to take over
    np.testing.assert_array_equal(at_quarter(second, 40)[1], at_quarter(third, 40)[1])


def test_a_history_of_other_sums_or_a_damaged_one_is_refused():
    history = HourHistory(LAYOUT)
    run(history, measured(4, 6))
    kept = history.export()
    for damaged in (
        {**kept, "names": ["flow", "speed"]},
        {**kept, "step_us": STEP_US // 10},
        {**kept, "quarters": kept["quarters"][:-8]},
        {**kept, "sum": [0.0]},
    ):
        with pytest.raises(ValueError, match=r"history|reshape|padding"):
            HourHistory(LAYOUT).restore(damaged)


def test_a_clock_that_was_set_back_begins_anew_and_one_late_window_changes_nothing():
    history = HourHistory(LAYOUT)
    run(history, measured(5, 12))
    _, before = at_quarter(history, 12)
    _, late = at_quarter(history, 11)
    np.testing.assert_array_equal(before, late)
    _, anew = at_quarter(history, 2)
    assert not np.isfinite(anew).any()
