"""How much of fibrillation two intervals could tell at one false alarm a day, whatever the rule.

``python -m benchmarks.judge.wearable.two_intervals``. The best rule there is (Neyman and Pearson 1933) knows
how two intervals in a row are distributed in either rhythm, and alarms where fibrillation is most likely
against the rest, until its false alarms are used up. Hearts are those of ``ectopic_hearts``, intervals are in
the wearer's usual ones. *Odd pairs* come from anything else: missed beats, pauses, other rhythms; of them
nothing is known, so they may be anywhere. This is a bound by calculation, and no detector.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.wearable.ectopic_hearts import EARLY
from benchmarks.results import table

BEATS_A_DAY = 100_000
PAIRS, SEED = 400_000, 14
LEAST, MOST, CELLS = 0.3, 1.9, 33
PREMATURE, COUPLETS, ODD = (0.003, 0.01), (0.0, 0.01), (0, 10, 100)

Array = NDArray[np.float64]
EDGES: Array = np.r_[0.0, np.linspace(LEAST, MOST, CELLS), 9.0]


def usual(rng: np.random.Generator) -> Array:
    """Intervals of sinus rhythm, moved by breath and by slower waves as ``sinus`` does."""
    breath, slow = (np.sin(rng.uniform(0, 2 * np.pi, PAIRS)) for _ in range(2))
    return np.asarray(1 + 0.04 * breath + 0.03 * slow + rng.normal(0.0, 0.015, PAIRS))


def fibrillation(rng: np.random.Generator) -> Array:
    """Share of first pairs of fibrillation in each cell, shape (K, K)."""
    own, mean = rng.uniform(0.6, 1.05, PAIRS), 60.0 / rng.uniform(70.0, 120.0, PAIRS)
    varied = rng.uniform(0.15, 0.25, PAIRS)
    pairs = np.maximum(rng.gamma(1 / varied**2, 1.0, (2, PAIRS)) * mean * varied**2, 0.3) / own
    return _cells(pairs[0], pairs[1])


def other_pairs(rng: np.random.Generator, premature: float, couplets: float, odd_a_day: float) -> Array:
    """Pairs of one beat without fibrillation, expected in each cell, shape (K, K).

    Args:
        rng: Draws.
        premature: Share of beats that are followed by a premature one.
        couplets: Share of these that are followed by another one.
        odd_a_day: Pairs a day from anything else, anywhere.
    """
    early, later = rng.uniform(*EARLY, (2, PAIRS))
    after = np.where(rng.random(PAIRS) < 0.5, 2 - early, rng.uniform(1.0, 1.2, PAIRS))
    around = _cells(usual(rng), early) + _cells(early, after) + _cells(after, usual(rng))
    widths = np.clip(np.diff(np.clip(EDGES, LEAST, MOST)), 0.0, None)
    anywhere = np.outer(widths, widths) / widths.sum() ** 2
    quiet = (1 - 3 * premature) * _cells(usual(rng), usual(rng))
    found = quiet + premature * (around + couplets * _cells(early, later))
    return np.asarray(found + odd_a_day / BEATS_A_DAY * anywhere)


def most_told(fibrillating: Array, other: Array, false_a_day: float) -> float:
    """Largest share of fibrillation that can be told from two intervals, at so many false alarms a day."""
    order = np.argsort(-(fibrillating / (other + 1e-12)).ravel())
    false = np.cumsum(other.ravel()[order]) * BEATS_A_DAY
    return float(fibrillating.ravel()[order][false <= false_a_day].sum())


def _cells(first: Array, second: Array) -> Array:
    return np.asarray(np.histogram2d(first, second, [EDGES, EDGES])[0] / PAIRS)


def main() -> None:
    """Print a table."""
    rng = np.random.default_rng(SEED)
    ill, rows = fibrillation(rng), []
    for premature in PREMATURE:
        for couplets in COUPLETS:
            told = [most_told(ill, other_pairs(rng, premature, couplets, odd), 1.0) for odd in ODD]
            rows.append([f"{premature:.1%}", f"{couplets:.0%}", *(f"{share:.0%}" for share in told)])
    names = ("premature", "of them couplets", *(f"{odd} odd pairs a day" for odd in ODD))
    print(table(names, rows))


if __name__ == "__main__":
    main()
