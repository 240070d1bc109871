"""Recordings that are made up, seeded: runs in the form of the pump test bed, and single channels like NAB's.

They stand in for recordings that are not at hand, and choose between detectors: no threshold and no setting
is fitted to one of them alone. What wanders, and how, is stated by kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.labelled_recordings import TEST_BED_HISTORY, LabelledRecording, NabRecording
from benchmarks.detection.nab_score import NabFile

Array = NDArray[np.float64]
Generator = np.random.Generator

RUNS = 34
CHANNELS = (
    "vibration_1",
    "vibration_2",
    "current",
    "pressure",
    "temperature",
    "thermocouple",
    "voltage",
    "flow",
)
_LEVEL = np.array([0.03, 0.04, 1.0, 0.1, 70.0, 27.0, 230.0, 32.0])
_NOISE = np.array([0.002, 0.002, 0.1, 0.1, 0.3, 0.05, 8.0, 0.6])
_WANDERS = np.array([0.2, 0.2, 0.5, 0.2, 3.0, 6.0, 0.5, 0.5])
"""How far each channel wanders over a run, in spreads of its noise: temperatures above all."""
FAULTS: dict[str, dict[int, tuple[float, float]]] = {
    "valve nearly closed": {7: (-4.0, 1.0), 3: (1.5, 1.0), 2: (-1.0, 1.0)},
    "valve half closed": {7: (-1.5, 1.0), 2: (-0.7, 1.2)},
    "imbalance": {0: (2.0, 2.0), 1: (1.5, 2.0)},
    "cavitation": {0: (0.5, 2.5), 1: (0.5, 2.5), 3: (0.0, 2.0), 7: (-0.5, 2.0)},
    "leak": {7: (-1.0, 1.0), 3: (-1.5, 1.0)},
    "bearing": {1: (1.5, 1.5), 2: (0.7, 1.0), 4: (2.0, 1.0)},
    "heating": {4: (4.0, 1.0), 5: (4.0, 1.0)},
    "supply": {6: (-1.0, 2.0), 2: (0.7, 1.5)},
}
"""By fault and channel: shift of its level in spreads of its noise, and factor on the noise."""

SINGLES, STEPS, STEP_S = 6, 4000, 300
"""Single channels of each kind, their rows, and the seconds between them."""
SINGLE_KINDS = ("steady", "walk", "season", "season and walk", "regimes", "bursts")


def pump_runs(seed: int, wander: float = 1.0, size: float = 1.0) -> Iterator[LabelledRecording]:
    """34 runs at 1 Hz, eight channels, the first 400 rows healthy.

    Args:
        seed: Of everything.
        wander: Factor on how far channels wander.
        size: Factor on the faults.
    """
    for number in range(RUNS):
        rng = np.random.default_rng([seed, number])
        rows = int(rng.integers(1050, 1250))
        begin = TEST_BED_HISTORY + int(rng.integers(80, 220))
        end = min(begin + int(rng.integers(330, 450)), rows - 60)
        moves = np.stack([_moves(rng, rows) for _ in CHANNELS], axis=1)
        values = rng.standard_normal((rows, len(CHANNELS))) + wander * _WANDERS * moves
        kind = list(FAULTS)[number % len(FAULTS)]
        slow = np.minimum(np.arange(end - begin) / float(rng.integers(1, 60)), 1.0)
        for at, (shift, factor) in FAULTS[kind].items():
            noise = rng.standard_normal(end - begin) * np.sqrt(factor**2 - 1.0) * slow * size
            values[begin:end, at] += size * shift * slow + noise
        faulty = np.zeros(rows, dtype=bool)
        faulty[begin:end] = True
        us = 1_700_000_000_000_000 + 1_000_000 * np.arange(rows, dtype=np.int64)
        given = np.round(_LEVEL + _NOISE * values, 5)
        yield LabelledRecording(f"{number:02d} {kind}", CHANNELS, us, given, faulty, TEST_BED_HISTORY)


def _moves(rng: Generator, rows: int) -> Array:
    """How a channel of a run wanders, of about unit size: one of four kinds, drawn."""
    at = np.arange(rows) / rows
    kinds: tuple[Callable[[], Array], ...] = (
        lambda: np.cumsum(rng.standard_normal(rows)) / np.sqrt(rows),
        lambda: rng.choice((-1.0, 1.0)) * 2 * (1 - np.exp(-at / rng.uniform(0.2, 1.0))),
        lambda: np.sin(2 * np.pi * (at * rng.uniform(0.7, 3.0) + rng.uniform())),
        lambda: _reverting(rng, rows, rows / 12),
    )
    return kinds[int(rng.integers(len(kinds)))]()


def _reverting(rng: Generator, rows: int, memory: float) -> Array:
    """A wandering that comes back, of unit spread."""
    share, steps = float(np.exp(-1 / memory)), rng.standard_normal(rows)
    found = np.empty(rows)
    level = steps[0]
    for row, step in enumerate(steps):
        level = share * level + np.sqrt(1 - share**2) * step
        found[row] = level
    return found


def single_channels(seed: int) -> Iterator[NabRecording]:
    """Single channels at five minutes, two faults each, labelled as NAB labels: a tenth of the rows."""
    for kind in SINGLE_KINDS:
        for number in range(SINGLES):
            yield _single(kind, number, np.random.default_rng([seed, SINGLE_KINDS.index(kind), number]))


def kind_of(name: str) -> str:
    """Kind of a single channel, by its recording's name."""
    return name.rsplit(" ", 1)[0]


def _single(kind: str, number: int, rng: Generator) -> NabRecording:
    values = rng.standard_normal(STEPS) + _course(kind, rng)
    width = STEPS // 20
    places = [int(rng.integers(0.22 * STEPS, 0.5 * STEPS)), int(rng.integers(0.62 * STEPS, 0.95 * STEPS))]
    windows = []
    for place in places:
        length, size = int(rng.integers(6, 100)), float(rng.choice((-1, 1)) * rng.uniform(5, 10))
        forms = (
            np.full(length, size),
            size * np.linspace(0.3, 1.0, length),
            size * 0.7 * rng.standard_normal(length),
        )
        part = forms[int(rng.integers(len(forms)))][: STEPS - place]
        values[place : place + len(part)] += part
        windows.append((place - width // 2, min(place + width // 2, STEPS - 1)))
    file = NabFile(STEPS, tuple(windows))
    faulty = np.zeros(STEPS, dtype=bool)
    for first, last in windows:
        faulty[first : last + 1] = True
    us = 1_700_000_000_000_000 + 1_000_000 * STEP_S * np.arange(STEPS, dtype=np.int64)
    given = np.round(50 + 5 * values, 4)[:, np.newaxis]
    name = f"{kind} {number}"
    return NabRecording(LabelledRecording(name, ("value",), us, given, faulty, file.probation), file)


def _course(kind: str, rng: Generator) -> Array:
    """Where a single channel's level goes, in spreads of its noise."""
    day = 86400 // STEP_S
    at = np.arange(STEPS) / day
    season = 2.5 * np.sin(2 * np.pi * (at + rng.uniform())) + 0.8 * np.sin(4 * np.pi * (at + rng.uniform()))
    walk = np.cumsum(rng.standard_normal(STEPS)) * 6 / np.sqrt(STEPS)
    if kind == "regimes":
        ends = np.sort(rng.integers(0, STEPS, 6))
        return np.asarray(2.0 * rng.standard_normal(7)[np.searchsorted(ends, np.arange(STEPS))])
    if kind == "bursts":
        return np.asarray(rng.exponential(1.0, STEPS) ** 1.6)
    return {"steady": 0 * at, "walk": walk, "season": season, "season and walk": season + walk}[kind]
