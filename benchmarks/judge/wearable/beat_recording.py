"""Record 100 of the MIT-BIH Arrhythmia Database, noise on it, and beats found against labelled ones."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

Array = NDArray[np.float64]

FILE = "wearables/mitbih/record100.npz"
RECORDED_HZ = 360
UP, DOWN = 25, 36
"""From 360 to 250 Hz."""
PER_MV, ZERO = 200.0, 1024.0
MATCH_S = 0.15
BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")


class BeatRecording(NamedTuple):
    """An ECG and its beats.

    Attributes:
        ecg: At 250 Hz, mV, shape (n,).
        at_s: Times of the beats that people labelled, shape (b,).
        symbol: Label of each.
    """

    ecg: Array
    at_s: Array
    symbol: tuple[str, ...]


class BeatCount(NamedTuple):
    """Beats found against beats that are there, by the usual match within 150 ms."""

    there: int
    hit: int
    extra: int

    @property
    def sensitivity(self) -> float:
        """Share of the beats that were found."""
        return self.hit / self.there if self.there else float("nan")

    @property
    def predictivity(self) -> float:
        """Share of what was found that is a beat."""
        found = self.hit + self.extra
        return self.hit / found if found else float("nan")


def read_record(folder: Path) -> BeatRecording:
    """Lead MLII of the record that lies in the shared data."""
    with np.load(folder / FILE) as kept:
        raw = (kept["mlii"].astype(np.float64) - (ZERO if kept["mlii"].mean() > ZERO / 2 else 0.0)) / PER_MV
        at = kept["beat_sample"].astype(np.float64) / RECORDED_HZ
        symbol = tuple(str(s) for s in kept["beat_symbol"])
    chosen = [k for k, s in enumerate(symbol) if s in BEATS]
    return BeatRecording(resample_poly(raw, UP, DOWN), at[chosen], tuple(symbol[k] for k in chosen))


def with_noise(ecg: Array, snr_db: float, seed: int) -> Array:
    """The ECG with white noise of so many dB below its own variance."""
    spread = ecg.std() * 10 ** (-snr_db / 20)
    return ecg + np.random.default_rng(seed).normal(0.0, spread, len(ecg))


def counted(found_s: Array, there_s: Array, begin_s: float, end_s: float) -> BeatCount:
    """Each beat of a span matched with at most one that was found, in the order of time.

    What is found within the match outside the span counts as neither.
    """
    there = there_s[(there_s >= begin_s) & (there_s < end_s)]
    found = found_s[(found_s >= begin_s - MATCH_S) & (found_s < end_s + MATCH_S)]
    used = np.zeros(len(found), dtype=bool)
    hit = 0
    for at in there:
        near = np.flatnonzero(~used & (np.abs(found - at) <= MATCH_S))
        if len(near):
            used[near[np.argmin(np.abs(found[near] - at))]] = True
            hit += 1
    inside = (found >= begin_s) & (found < end_s)
    return BeatCount(len(there), hit, int((inside & ~used).sum()))
