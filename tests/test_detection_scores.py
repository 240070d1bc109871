"""Laws of the figures in docs/detection.md: what the scores mean, by cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.detection.nab_score import NabFile, best_threshold, nab_score
from benchmarks.detection.row_score import always, row_score

FILE = NabFile(1000, ((300, 399), (700, 799)))


def at(*rows: int) -> np.ndarray:
    return np.isin(np.arange(FILE.rows), rows)


def test_silence_scores_nothing_and_the_first_rows_of_all_windows_everything():
    assert nab_score([(FILE, at())]) == 0.0
    assert nab_score([(FILE, at(300, 700))]) == pytest.approx(100.0)


def test_later_is_worth_less_and_repeats_in_a_window_cost_nothing():
    early, late = (nab_score([(FILE, at(row))]) for row in (310, 390))
    assert 50 > early > late > 25  # a hit saves the miss, whenever it comes
    assert nab_score([(FILE, at(310, 320, 390))]) == early


def test_a_false_alarm_costs_more_the_farther_it_lies_behind_a_window():
    clean = nab_score([(FILE, at(300))])
    near, far = (clean - nab_score([(FILE, at(300, row))]) for row in (405, 690))
    assert 0 < near < far
    assert far == pytest.approx(100 * 0.11 / 4, rel=1e-3)


def test_the_first_rows_do_not_count():
    assert FILE.probation == 150
    assert nab_score([(FILE, at(*range(150)))]) == 0.0
    assert NabFile(20_000, ()).probation == 750


def test_one_threshold_serves_all_files():
    scores = at(300, 700) * 0.9 + at(600) * 0.5
    found, threshold = best_threshold([(FILE, scores), (FILE, scores)])
    assert found == pytest.approx(100.0)
    assert threshold == 0.9


def test_rows_are_counted_over_all_files():
    truth, said = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert row_score([(truth, said), (truth, truth)]).f1 == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert row_score([(truth, said)]).false_alarms == 0.5
    assert (always([(truth, said)]).missed, always([(truth, said)]).false_alarms) == (0.0, 1.0)
