"""Devices as the counts that they report: alarms come in runs, devices differ, windows are not simulated."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np

from model_service.rollout.observed import LabelledWindows, PairedAlarms, PairedShadow
from model_service.rollout.predicted_alarms import PredictedAlarms, PredictedMean, PredictedShare
from schemas.updates import SCORE_BINS

Kind = Literal["unchanged", "recalibrated", "noisy", "deaf", "slow"]
KINDS: tuple[Kind, ...] = ("unchanged", "recalibrated", "noisy", "deaf", "slow")
GOOD = ("unchanged", "recalibrated")
GROUPS, RATES = (20, 5, 100), (0.1, 1.0, 10.0)

DAY_S, HOP_S = 86400.0, 1.0
RUN_WINDOWS = 2.0
"""Mean windows of a run of alarms; geometric."""
SHARED = 0.7
"""Part of a right model's alarms that the old one raises as well, where nothing was recalibrated."""
DRIFTED, DRIFTED_SHARED = 20.0, 0.5
"""Before a recalibration the old model alarms so often for each right alarm; part of these that it raises."""
SPREAD = 0.5
"""Coefficient of variation of the rate of alarms over devices."""
GATE_DAYS = 2.1
"""Days of each device that the gate judges on: the last 30 % of a week."""
FAULTY_WINDOWS, RECALL, LOSS_SPREAD = 60, 0.9, 0.05
"""Windows of known faults in a trial, the old model's recall there, spread of the loss over devices."""
DEAF_LOSS, NOISY_TIMES = 0.30, 3.0
LATE = 0.10
"""Windows that the slow model scores late."""
MEAN_SCORE, SCORE_SPREAD, RISE_SPREAD = 0.25, 0.05, 0.03
"""Of a right model's scores: mean, its spread over devices, and the spread of its rise above the old mean."""
DRIFTED_SCORE = 0.2
"""By how much the old model's mean lies higher before a recalibration; its spread is half of it."""


@dataclass(frozen=True)
class Cell:
    """One kind of model in one kind of group.

    Attributes:
        rate: Alarms that a right model raises on a healthy device in a day.
    """

    kind: Kind
    devices: int
    rate: float

    @property
    def name(self) -> str:
        """Unique, for the journal."""
        return f"{self.kind}/{self.devices}/{self.rate:g}"


@dataclass(frozen=True)
class Rates:
    """Runs of alarms a device-day: raised by both models, by the new one alone, by the old one alone."""

    both: float
    gained: float
    lost: float


def right_rates(cell: Cell) -> Rates:
    """Rates of a right model in the place of this cell's: what the gate measures."""
    if cell.kind == "recalibrated":
        both = DRIFTED_SHARED * cell.rate
        return Rates(both, cell.rate - both, DRIFTED * cell.rate - both)
    both = SHARED * cell.rate
    return Rates(both, cell.rate - both, cell.rate - both)


def live_rates(cell: Cell, predicted: PredictedAlarms) -> Rates:
    """Rates of the cell's model on the devices."""
    right = right_rates(cell)
    if cell.kind == "noisy":
        stated = predicted.new.guess * DAY_S / HOP_S / RUN_WINDOWS
        return Rates(right.both, NOISY_TIMES * max(stated, cell.rate) - right.both, right.lost)
    if cell.kind == "deaf":
        missed = DEAF_LOSS * right.both
        return Rates(right.both - missed, right.gained, right.lost + missed)
    return right


def predict(cell: Cell, rng: np.random.Generator) -> PredictedAlarms:
    """What the gate says of a right model, from its part of the history of the group's devices."""
    rates, windows = right_rates(cell), cell.devices * GATE_DAYS * DAY_S / HOP_S
    differ = _differences(cell.devices, rng)
    days = float(differ.sum()) * GATE_DAYS
    both, gained, lost = (_runs(rate * days, rng)[1] for rate in (rates.both, rates.gained, rates.lost))
    independent = windows / (2 * RUN_WINDOWS - 1)  # of a geometric length, mean square over mean
    events = {"old": both + lost, "new": both + gained, "gained": gained, "lost": lost}
    shares = {name: PredictedShare(min(1.0, n / windows), independent) for name, n in events.items()}
    losses = [_loss(0.0, rng) for _ in range(cell.devices)]
    scores = np.array([_mean_scores(cell, rng) for _ in range(cell.devices)])
    means = (losses, scores[:, 1], scores[:, 1] - scores[:, 0])
    recall, score, rise = (
        PredictedMean(float(np.mean(own)), float(np.std(own, ddof=1)), cell.devices) for own in means
    )
    return PredictedAlarms(**shares, recall=recall, score=score, rise=rise)


class ReportingDevice:
    """One device's counts since its commit."""

    def __init__(self, cell: Cell, rates: Rates, differs: float, rng: np.random.Generator) -> None:
        self._cell, self._rates, self._differs, self._rng = cell, rates, differs, rng
        self.windows = self.late = self.both = 0
        self._gained, self._lost = [0, 0], [0, 0]
        self._means = _mean_scores(cell, rng)
        self._scores = np.zeros((2, SCORE_BINS), np.int64)

    def trial(self, windows: int) -> PairedShadow:
        """The comparison of its trial, with known faults over its own windows."""
        self.compare(windows)
        hits = self._rng.binomial(FAULTY_WINDOWS, RECALL)
        lost = DEAF_LOSS if self._cell.kind == "deaf" else 0.0
        new = np.clip(hits - round(_loss(lost, self._rng) * FAULTY_WINDOWS), 0, FAULTY_WINDOWS)
        found = self.paired(LabelledWindows(FAULTY_WINDOWS, int(hits), int(new)))
        self.windows = self.late = self.both = 0  # the watch counts anew
        self._gained, self._lost = [0, 0], [0, 0]
        self._scores[:] = 0
        return found

    def compare(self, windows: int) -> None:
        """Have both models score so many more windows."""
        days = windows * HOP_S / DAY_S * self._differs
        self.windows += windows
        self.both += _runs(self._rates.both * days, self._rng)[1]
        for count, rate in ((self._gained, self._rates.gained), (self._lost, self._rates.lost)):
            runs, events = _runs(rate * days, self._rng)
            count[0] += runs
            count[1] += events
        self._scores += [self._rng.multinomial(windows, _in_tenths(mean)) for mean in self._means]
        if self._cell.kind == "slow":
            self.late += int(self._rng.binomial(windows, LATE))

    @property
    def new_share(self) -> float:
        """Share of windows with an alarm of the new model."""
        return min(1.0, (self.both + self._gained[1]) / self.windows)

    @property
    def old_share(self) -> float:
        """Share of windows with an alarm of the old model."""
        return min(1.0, (self.both + self._lost[1]) / self.windows)

    def paired(self, labelled: LabelledWindows | None = None) -> PairedShadow:
        """The comparison as a report carries it."""
        most = self.windows
        gained, lost = min(self._gained[1], most), min(self._lost[1], most)
        old, new = min(self.both + lost, most), min(self.both + gained, most)
        alarms = PairedAlarms(old, new, gained, lost, self._gained[0], self._lost[0])
        took = (most - self.late, 0, 0, 0, 0, 0, 0, self.late)
        gain = max(-1.0, min(1.0, (new - old) / most))
        old_scores, new_scores = (tuple(counts.tolist()) for counts in self._scores)
        return PairedShadow(
            most, gain, self.late, alarms, labelled, (most,) + (0,) * 7, took, old_scores, new_scores
        )


def devices_of(cell: Cell, predicted: PredictedAlarms, rng: np.random.Generator) -> list[ReportingDevice]:
    """The group's devices."""
    rates = live_rates(cell, predicted)
    return [ReportingDevice(cell, rates, float(d), rng) for d in _differences(cell.devices, rng)]


def _differences(devices: int, rng: np.random.Generator) -> np.ndarray:
    shape = 1 / SPREAD**2
    return rng.gamma(shape, 1 / shape, devices)


def _mean_scores(cell: Cell, rng: np.random.Generator) -> tuple[float, float]:
    """Mean score of the old and of the new model on one device."""
    new = MEAN_SCORE + SCORE_SPREAD * rng.standard_normal()
    old = new - RISE_SPREAD * rng.standard_normal()
    if cell.kind == "recalibrated":
        old += DRIFTED_SCORE * (1 + 0.5 * rng.standard_normal())
    return min(0.9, max(0.1, float(old))), min(0.9, max(0.1, float(new)))


def _in_tenths(mean: float) -> np.ndarray:
    """Shares of windows by score in tenths, with this mean: binomial."""
    p, most = (mean * SCORE_BINS - 0.5) / (SCORE_BINS - 1), SCORE_BINS - 1
    return np.array([comb(most, k) * p**k * (1 - p) ** (most - k) for k in range(SCORE_BINS)])


def _runs(mean: float, rng: np.random.Generator) -> tuple[int, int]:
    """Runs and their windows."""
    runs = int(rng.poisson(mean))
    return runs, runs + (int(rng.negative_binomial(runs, 1 / RUN_WINDOWS)) if runs else 0)


def _loss(mean: float, rng: np.random.Generator) -> float:
    """Measured loss of recall of one device: its own, and what so few windows add."""
    own = mean + LOSS_SPREAD * rng.standard_normal()
    return float(own + np.sqrt(2 * RECALL * (1 - RECALL) / FAULTY_WINDOWS) * rng.standard_normal())
