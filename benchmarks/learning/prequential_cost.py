"""Prequential cost: each window is scored by the model in force, before anything learns from it. Pure.

The cost of a block of windows is the class-balanced Brier score: half the mean squared score of healthy
windows, half the mean squared miss of faults. Faults are those that machines have, and those of the frozen
bank, injected into every fifth healthy window: else a model that never alarms would cost least.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.learning.fleet_story import Array, Flags, FleetStory
from benchmarks.learning.simulated_loop import ModelInForce, Score

BLOCK = 60
"""Windows of a block: long beside what one window tells of the next."""
EVERY = 5


def block_costs(story: FleetStory, models: Sequence[ModelInForce]) -> Array:
    """Cost of each block of the fleet's life, shape (blocks,).

    Args:
        story: The fleet.
        models: In force one after the other, the first from window 0.
    """
    ends = [*(m.first for m in models[1:]), story.windows]
    parts = [
        window_sums(story, m.score, m.first, min(end, story.windows))
        for m, end in zip(models, ends, strict=True)
        if m.first < min(end, story.windows)
    ]
    sums = np.concatenate(parts)
    blocks = len(sums) // BLOCK
    return cost_of(sums[: blocks * BLOCK].reshape(blocks, BLOCK, -1).sum(axis=1))


def span_cost(story: FleetStory, score: Score, first: int, end: int) -> float:
    """Cost of one model over some windows."""
    return float(cost_of(window_sums(story, score, first, end).sum(axis=0)[None])[0])


def window_sums(story: FleetStory, score: Score, first: int, end: int) -> Array:
    """By window: squared scores of healthy rows and their number, squared misses of real faults and their
    number, squared misses of injected faults and their number; shape (windows, 6)."""
    rows, faulty = story.features[:, first:end], story.faulty[:, first:end]
    found = _scored(score, rows)
    sums = np.zeros((end - first, 6))
    sums[:, 0], sums[:, 1] = (found**2 * ~faulty).sum(axis=0), (~faulty).sum(axis=0)
    sums[:, 2], sums[:, 3] = ((1 - found) ** 2 * faulty).sum(axis=0), faulty.sum(axis=0)
    if story.bank is not None:
        at = np.flatnonzero(np.arange(first, end) % EVERY == 0)
        sums[at, 4:] = _injected(story, score, rows[:, at], faulty[:, at])
    return sums


def cost_of(sums: Array) -> Array:
    """Costs of sums, shape (n, 6); what a span does not have, healthy windows or faults, does not count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        healthy, real, injected = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3], sums[:, 4] / sums[:, 5]
    missed = _mean_of(real, injected)
    return _mean_of(healthy, missed)


def _mean_of(one: Array, two: Array) -> Array:
    """Mean of two columns, of the one that is there where the other is not."""
    return np.where(np.isnan(one), two, np.where(np.isnan(two), one, (one + two) / 2))


def _injected(story: FleetStory, score: Score, rows: Array, faulty: Flags) -> Array:
    """Squared misses of the bank's faults in healthy rows (devices, n, F), and their number, by window."""
    _, count, width = rows.shape
    missed = np.zeros((count, 2))
    flat = rows.reshape(-1, width)
    for kind in story.bank.kinds:
        for severity in story.bank.severities(kind):
            found = _scored(score, story.bank.inject(flat, kind, severity).reshape(rows.shape))
            missed[:, 0] += ((1 - found) ** 2 * ~faulty).sum(axis=0)
            missed[:, 1] += (~faulty).sum(axis=0)
    return missed


def _scored(score: Score, rows: Array) -> Array:
    """Scores of rows (devices, n, F); a row without a score counts as 0."""
    return np.nan_to_num(score(rows.reshape(-1, rows.shape[2]))).reshape(rows.shape[:2])
