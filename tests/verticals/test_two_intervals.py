"""Laws of the bound on what two intervals tell."""

from __future__ import annotations

import numpy as np

from benchmarks.judge.wearable.two_intervals import BEATS_A_DAY, fibrillation, most_told, other_pairs


def test_more_is_told_the_more_false_alarms_and_the_fewer_odd_pairs_there_may_be():
    rng = np.random.default_rng(1)
    ill = fibrillation(rng)
    few, many = (other_pairs(np.random.default_rng(2), 0.003, 0.01, odd) for odd in (10, 100))
    told = [most_told(ill, many, false) for false in (1.0, 10.0, 100.0, 2.0 * BEATS_A_DAY)]
    assert told == sorted(told)
    assert abs(told[-1] - 1.0) < 1e-9, "whoever may alarm at every beat misses none"
    assert most_told(ill, few, 1.0) > most_told(ill, many, 1.0)


def test_where_fibrillation_looks_as_everything_else_it_is_told_as_often_as_that_alarms():
    cells = np.full((10, 10), 0.01)
    assert abs(most_told(cells, cells, 0.255 * BEATS_A_DAY) - 0.25) < 1e-9
