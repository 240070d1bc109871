"""One simulated wearer: when the heart beats, how it shows in an ECG, when the wearer moves. Closed forms.

Everything depends on seed, wearer and time alone, so samples of any stretch can be made by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection

Array = NDArray[np.float64]

FAST_HZ = 1.8
"""Beats a second that ``tachycardia`` of severity 1 adds."""
IRREGULAR_HZ, IRREGULAR_SHARE = 0.5, 0.3
"""Beats a second that ``irregular_rhythm`` of severity 1 adds, and how far its beats stray, in intervals."""
PREMATURE = 0.3
"""Share of an interval by which a premature beat comes early."""
SLOT_S = 600.0
"""The wearer's movements are drawn for each ten minutes."""
WALK_HZ_SHARE = 0.35
"""By how much a walk of intensity 1 raises the heart rate."""
WARM_S = 25.0
DRAWN = 64
GRID_S = 0.02

WAVES = {
    "P": (-0.17, 0.022, 0.12),
    "Q": (-0.033, 0.010, -0.09),
    "R": (0.0, 0.011, 1.15),
    "S": (0.030, 0.012, -0.22),
    "T": (0.28, 0.050, 0.28),
}
"""Place in seconds from R, width in seconds, height in mV of each wave at an interval of one second."""


class Beats(NamedTuple):
    """Beats of a stretch.

    Attributes:
        at_s: When, seconds, ascending.
        interval_s: Mean interval around each.
        ectopic: Which start in the ventricle: wide, without a P wave.
        without_p: Which have no P wave.
    """

    at_s: Array
    interval_s: Array
    ectopic: NDArray[np.bool_]
    without_p: NDArray[np.bool_]


class WearerMove(NamedTuple):
    """One stretch in which the wearer moves: ``walks`` raise the heart rate, short ones do not."""

    start_s: float
    end_s: float
    strength: float
    walks: bool


@dataclass(frozen=True, slots=True)
class WearerConstants:
    """What one wearer is; drawn once.

    Attributes:
        rate_hz: Beats a second at rest.
        swings: Of the rate: frequency in Hz, share, phase; shape (3, 3).
        jitter: Standard deviation of a beat's time, in intervals.
        premature: Share of beats that come early.
        ventricular: Whether these start in the ventricle.
        waves: Factor on the height of each wave, shape (5,).
        gain: Of the electrodes.
        noise_mv, mains_mv, breath_mv: Standard deviation, amplitudes.
        coupling_mv: Artefact in the ECG for each g of motion.
        pulse: Height of the pulse wave.
    """

    rate_hz: float
    swings: Array
    jitter: float
    premature: float
    ventricular: bool
    waves: Array
    gain: float
    noise_mv: float
    mains_mv: float
    breath_mv: float
    coupling_mv: float
    pulse: float


def constants(key: Sequence[int]) -> WearerConstants:
    """The wearer of a key."""
    rng = np.random.default_rng(list(key))
    swings = np.array(
        [
            [rng.uniform(0.20, 0.30), rng.uniform(0.02, 0.06), rng.uniform(0, 6.28)],
            [rng.uniform(0.08, 0.12), rng.uniform(0.01, 0.03), rng.uniform(0, 6.28)],
            [1 / rng.uniform(60.0, 300.0), rng.uniform(0.02, 0.05), rng.uniform(0, 6.28)],
        ]
    )
    return WearerConstants(
        rate_hz=rng.uniform(0.9, 1.4),
        swings=swings,
        jitter=rng.uniform(0.005, 0.02),
        premature=float(rng.choice([0.0, 0.002, 0.01])),
        ventricular=bool(rng.random() < 0.5),
        waves=np.exp(rng.normal(0.0, 0.1, len(WAVES))),
        gain=float(np.exp(rng.normal(0.0, 0.12))),
        noise_mv=rng.uniform(0.005, 0.015),
        mains_mv=rng.uniform(0.002, 0.015),
        breath_mv=rng.uniform(0.02, 0.08),
        coupling_mv=rng.uniform(0.5, 2.5),
        pulse=float(np.exp(rng.normal(0.0, 0.12))),
    )


class Wearer:
    """When one wearer's heart beats, and how strongly the wearer moves.

    Args:
        key: Seeds everything that is drawn.
        injections: Those that hit the wearer.
    """

    def __init__(self, key: Sequence[int], injections: Sequence[Injection]) -> None:
        self._key = list(key)
        self.constants = constants(key)
        self._injections = tuple(injections)
        self._slots: list[tuple[WearerMove, ...]] = []
        self._walked: list[float] = [0.0]

    def of(self, *kinds: str) -> list[Injection]:
        """Its injections of some kinds."""
        return [i for i in self._injections if i.kind in kinds]

    def beats(self, begin_s: float, end_s: float) -> Beats:
        """Beats of a stretch, without those of an asystole."""
        steps = np.arange(np.floor(begin_s / GRID_S) - 1, np.ceil(end_s / GRID_S) + 2)
        t = steps * GRID_S
        phase = self._phase(t)
        numbers = np.arange(np.ceil(phase[0]), np.floor(phase[-1]) + 1)
        at = np.interp(numbers, phase, t)
        interval = np.interp(numbers + 0.5, phase, t) - np.interp(numbers - 0.5, phase, t)
        interval = np.maximum(interval, 0.25)
        drawn = self._drawn(numbers)
        early = drawn[:, 1] < self.constants.premature
        stray = self.constants.jitter * drawn[:, 0] - PREMATURE * early
        irregular = np.zeros(len(at), dtype=bool)
        for item in self.of("irregular_rhythm"):
            mine = (at >= item.start_s) & (at < item.end_s)
            stray = np.where(mine, IRREGULAR_SHARE * item.severity * (2 * drawn[:, 2] - 1), stray)
            irregular |= mine
        early &= ~irregular
        kept = np.ones(len(at), dtype=bool)
        for item in self.of("asystole"):
            kept &= ~((at >= item.start_s) & (at < item.end_s))
        ectopic = early & self.constants.ventricular
        fast = np.zeros(len(at), dtype=bool)
        for item in self.of("tachycardia"):
            fast |= (at >= item.start_s) & (at < item.end_s)
        bare = ectopic | irregular | fast
        return Beats((at + stray * interval)[kept], interval[kept], ectopic[kept], bare[kept])

    def motion_g(self, t: Array) -> Array:
        """Strength of the wearer's motion at times, g."""
        level = np.zeros_like(t)
        for slot in range(int(t[0] // SLOT_S), int(t[-1] // SLOT_S) + 1):
            for move in self._slot(slot):
                level = np.maximum(level, move.strength * _inside(t, move.start_s, move.end_s))
        for item in self.of("motion"):
            end = min(item.end_s, float(t[-1]) + 10.0)
            level = np.maximum(level, 0.5 * item.severity * _inside(t, item.start_s, end))
        return level

    def _phase(self, t: Array) -> Array:
        """Beats since time 0: the integral of the rate."""
        c = self.constants
        hz, share, phase = c.swings.T
        angle = 2 * np.pi * np.multiply.outer(t, hz) + phase
        swing = ((np.cos(phase) - np.cos(angle)) * share / (2 * np.pi * hz)).sum(axis=1)
        beats = c.rate_hz * (t + swing + WALK_HZ_SHARE * self._walked_by(t))
        for item in self.of("tachycardia", "irregular_rhythm"):
            extra = FAST_HZ if item.kind == "tachycardia" else IRREGULAR_HZ
            beats = beats + item.severity * extra * np.clip(t - item.start_s, 0.0, item.end_s - item.start_s)
        return np.asarray(beats)

    def _walked_by(self, t: Array) -> Array:
        """Seconds walked up to times, as the heart notices them: it warms up, and calms down after."""
        total = np.zeros_like(t)
        first = max(int(t[0] // SLOT_S) - 1, 0)
        for slot in range(first, int(t[-1] // SLOT_S) + 1):
            for move in self._slot(slot):
                if move.walks:
                    total += move.strength * (_warm(t - move.start_s) - _warm(t - move.end_s))
        while len(self._walked) <= first:
            done = (m.strength * (m.end_s - m.start_s) for m in self._slot(len(self._walked) - 1) if m.walks)
            self._walked.append(self._walked[-1] + sum(done))
        return total + self._walked[first]

    def _slot(self, number: int) -> tuple[WearerMove, ...]:
        """Movements of ten minutes: a walk in one of three, and a few short ones."""
        while len(self._slots) <= max(number, 0):
            at = len(self._slots)
            rng = np.random.default_rng([*self._key, 11, at])
            begin = at * SLOT_S
            moves = []
            if rng.random() < 1 / 3 and at:
                start = begin + rng.uniform(20.0, 300.0)
                moves.append(
                    WearerMove(start, start + rng.uniform(60.0, 240.0), rng.uniform(0.08, 0.35), walks=True)
                )
            for start in begin + rng.uniform(0.0, SLOT_S - 6.0, rng.poisson(3.0)):
                moves.append(
                    WearerMove(start, start + rng.uniform(1.0, 5.0), rng.uniform(0.1, 0.9), walks=False)
                )
            self._slots.append(tuple(moves))
        return self._slots[number] if number >= 0 else ()

    def _drawn(self, numbers: Array) -> Array:
        """A normal and two uniform draws for each beat, by its number; shape (n, 3)."""
        found = np.empty((len(numbers), 3))
        blocks = (numbers // DRAWN).astype(np.int64)
        for block in np.unique(blocks):
            rng = np.random.default_rng([*self._key, 7, int(block) + 1])
            table = np.column_stack([rng.normal(0.0, 1.0, DRAWN), rng.random((DRAWN, 2))])
            mine = blocks == block
            found[mine] = table[(numbers[mine] - block * DRAWN).astype(np.int64)]
        return found


def ecg_of(beats: Beats, t: Array, wearer: WearerConstants) -> Array:
    """The heart's part of an ECG, mV: a sum of bell curves around each beat."""
    signal = np.zeros_like(t)
    for at, interval, ectopic, bare in zip(*beats, strict=True):
        near = slice(*np.searchsorted(t, (at - 0.4, at + 0.6)))
        off, stretch = t[near] - at, float(np.sqrt(min(interval, 1.2)))
        for (name, shape), factor in zip(WAVES.items(), wearer.waves, strict=True):
            if name == "P" and bare:
                continue
            place, width, height = _shaped(name, shape, stretch, wide=bool(ectopic))
            signal[near] += factor * height * np.exp(-0.5 * ((off - place) / width) ** 2)
    return signal


def _shaped(
    name: str, shape: tuple[float, float, float], stretch: float, *, wide: bool
) -> tuple[float, float, float]:
    """Place, width and height of a wave: an ectopic beat is wide, its T wave turned."""
    place, width, height = shape
    if wide:
        width, height = 2.2 * width, (-1.2 if name == "T" else 1.2) * height
    return (place * stretch, width * stretch, height) if name in "PT" else (place, width, height)


def pulse_of(beats: Beats, t: Array, wearer: WearerConstants) -> Array:
    """The pulse wave at the wrist: a quarter of a second after each beat."""
    signal = np.zeros_like(t)
    for at in beats.at_s:
        near = slice(*np.searchsorted(t, (at, at + 1.2)))
        off = t[near] - at
        for place, width, height in ((0.33, 0.07, 1.0), (0.58, 0.09, 0.35)):
            signal[near] += wearer.pulse * height * np.exp(-0.5 * ((off - place) / width) ** 2)
    return signal


def _inside(t: Array, start_s: float, end_s: float) -> Array:
    """1 inside a span, with flanks of some tenths of a second."""
    # Clipped: so far outside nothing of the flank is left.
    rise, fall = (np.clip((t - at) / 0.1, -30.0, 30.0) for at in (start_s, end_s))
    return np.asarray(1 / (1 + np.exp(-rise)) - 1 / (1 + np.exp(-fall)))


def _warm(t: Array) -> Array:
    """Integral of 1 - exp(-t / WARM_S) from 0 on."""
    since = np.maximum(t, 0.0)
    return np.asarray(since - WARM_S * (1 - np.exp(-since / WARM_S)))
