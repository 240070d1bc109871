"""Onsets of rhythms, constructed: real beats of a recording, set at other times. Apart from our generator.

A stretch of the recording runs up to the onset as it is. From there on beats that were cut out of it follow
each other in another rhythm, on the recording's own rest between beats.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.wearable.beat_recording import BeatRecording

Array = NDArray[np.float64]

RATE_HZ = 250.0
BEFORE_S, AFTER_S = 14.0, 14.0
LONG_S = 40.0
"""Seconds of an irregular rhythm, which takes longer to be told, and of premature beats."""
CUT = (0.10, 0.20)
"""Seconds of a beat before and after its R wave: as much as fits into the fastest rhythm."""
REST = (0.36, 0.16)
"""From so long after a beat to so long before the next lies its rest."""
RHYTHMS = ("fast", "irregular", "pause")
ECTOPIC = ("premature", "couplet", "trigeminy", "bigeminy")
"""No rhythms that this device is to alarm: single premature beats, as in the record, two of them in a row
once, one after each two usual beats, and one after each usual beat."""
FAST_S = 0.34
IRREGULAR_S = (0.36, 1.0)
FADE = 8


class SplicedOnset(NamedTuple):
    """One constructed onset.

    Attributes:
        rhythm: One of ``RHYTHMS`` or ``ECTOPIC``.
        ecg: mV, shape (n,).
        onset_s: First beat that comes too early, or when the next beat was due; from the begin.
        beats_s: Beats after the onset, or when they were due.
    """

    rhythm: str
    ecg: Array
    onset_s: float
    beats_s: Array

    def delay_beats(self, alarm_s: float) -> float:
        """How many beats after the onset an alarm comes: 1.0 is with the next beat."""
        return float(np.interp(alarm_s, self.beats_s, np.arange(len(self.beats_s))))


def spliced(record: BeatRecording, rhythm: str, seed: int) -> SplicedOnset:
    """One onset at a place of the record that the seed draws: after a normal beat."""
    rng = np.random.default_rng([seed, (*RHYTHMS, *ECTOPIC).index(rhythm)])
    after_s = AFTER_S if rhythm in ("fast", "pause") else LONG_S
    normal = [k for k in range(20, len(record.at_s) - 20) if record.symbol[k] == "N"]
    last = int(rng.choice(normal))
    at, usual = float(record.at_s[last]), float(np.median(np.diff(record.at_s[last - 8 : last + 1])))
    begin = round((at - BEFORE_S) * RATE_HZ)
    end = round((at + REST[0]) * RATE_HZ)
    head = record.ecg[begin:end]
    rest = _rest(record, last, round(after_s * RATE_HZ), rng)
    ecg = np.concatenate([head, rest - rest[:FADE].mean() + head[-FADE:].mean()])
    beats = _times(rhythm, usual, rng)
    if rhythm != "pause":
        for later in beats:
            _put(ecg, record, normal, round((at + later) * RATE_HZ) - begin, rng)
    first = BEFORE_S + float(beats[0])
    return SplicedOnset(rhythm, ecg, first, BEFORE_S + beats)


def _times(rhythm: str, usual: float, rng: np.random.Generator) -> Array:
    """Seconds after the last normal beat at which beats follow, or were due."""
    if rhythm == "pause":
        return usual * np.arange(1, 12)
    if rhythm == "fast":
        steps = np.full(int((AFTER_S - 0.5) / FAST_S), FAST_S) * rng.normal(1.0, 0.02, 1)
        return np.cumsum(steps) + 0.12
    if rhythm == "irregular":
        times = np.cumsum(rng.uniform(*IRREGULAR_S, int(LONG_S / IRREGULAR_S[0]))) + 0.05
    else:
        times = np.cumsum(usual * _with_premature(rhythm, rng))
    return np.asarray(times[times < LONG_S - 0.3])


def _with_premature(rhythm: str, rng: np.random.Generator) -> Array:
    """Intervals in units of the usual one: those of premature beats, and the pauses after them."""
    early, pause = (0.55, 0.8), (1.1, 1.4)
    found: list[float] = []
    while len(found) < 120:
        number = 2 if rhythm == "couplet" and not found else 1
        found += [float(rng.uniform(*early)) for _ in range(number)]
        between = {"trigeminy": 1, "bigeminy": 0}.get(rhythm, int(rng.integers(4, 12)))
        more = 120 if rhythm == "couplet" else between
        found += [float(rng.uniform(*pause)), *(1 + rng.normal(0, 0.015, more)).tolist()]
    return np.array(found)


def _rest(record: BeatRecording, near: int, count: int, rng: np.random.Generator) -> Array:
    """So many samples of rest, each piece as it stands between two beats nearby, joined end to end."""
    made, level = np.empty(0), 0.0
    while len(made) < count:
        k = int(rng.integers(max(near - 15, 0), near))
        first, end = record.at_s[k] + REST[0], record.at_s[k + 1] - REST[1]
        piece = record.ecg[round(first * RATE_HZ) : round(end * RATE_HZ)]
        if len(piece) <= 2 * FADE:
            continue
        piece = piece - np.linspace(piece[:FADE].mean(), piece[-FADE:].mean(), len(piece))
        made = np.concatenate([made, piece + level])
    return made[:count]


def _put(ecg: Array, record: BeatRecording, normal: list[int], at: int, rng: np.random.Generator) -> None:
    """Adds a real beat, cut out around its R wave and levelled at both ends."""
    source = round(record.at_s[int(rng.choice(normal))] * RATE_HZ)
    before, after = round(CUT[0] * RATE_HZ), round(CUT[1] * RATE_HZ)
    beat = record.ecg[source - before : source + after].copy()
    beat -= np.linspace(beat[:4].mean(), beat[-4:].mean(), len(beat))
    fade = np.linspace(0.0, 1.0, FADE)
    beat[:FADE] *= fade
    beat[-FADE:] *= fade[::-1]
    if at - before >= 0 and at + after <= len(ecg):
        ecg[at - before : at + after] += beat
