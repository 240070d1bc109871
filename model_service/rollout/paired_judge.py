"""Judges a new model in both directions on windows that it shares with the old one. Pure.

Five measures: alarms gained, alarms lost, recall on windows that are known to be faulty, scores raised, and
late scores. Each is held against what the gate predicted of a right model (`predicted_alarms`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from model_service.count_bounds import count_lower, count_upper
from model_service.rollout.observed import PairedAlarms, PairedShadow
from model_service.rollout.paired_statistics import (
    MeanLoss,
    RunTotals,
    evidence_of_absence,
    evidence_of_excess,
    run_length,
)
from model_service.rollout.predicted_alarms import PredictedAlarms, PredictedMean

ALPHA = 0.0015
"""Error probability of each measure for aborting a model that does what was predicted."""
BETA = 0.0025
"""Error probability for letting a model go on that alarms ``NOISY`` times as often, or has lost ``DEAF``."""
NOISY = 3.0
"""Alarms, as a multiple of those predicted, that must be ruled out before a model goes on."""
DEAF = 0.30
"""Loss of recall beyond the predicted one that must be ruled out before a model goes on."""
LOSS_SLACK = 0.05
"""Loss of recall beyond the predicted one that is never held against a model."""
RISE_SLACK = 0.1
"""Rise of the mean score beyond the predicted one that is never held against a model: a tenth, as counted."""
LATE_SHARE = 0.05
"""Share of windows that may be scored too late, besides those that the old model scores too late."""
LATE_RUN = 3.0
"""Late windows that are taken for one event: a busy minute makes several."""
UNKNOWN_SPREAD, UNKNOWN_FREEDOM, LEAST_SPREAD = 0.15, 4, 0.03
"""Spread of a loss of recall over devices where the gate measured none, and how much that weighs."""

GAINED, LOST, RECALL = "alarms gained", "alarms lost", "recall lost"
RAISED, LATE = "scores raised", "late scores"
MeasureAnswer = Literal["harmful", "open", "shown", "within", "not_compared"]


@dataclass(frozen=True)
class Measure:
    """One measure of a model on some devices.

    Attributes:
        answer: ``open``: neither harm nor its absence is shown; ``within``: not beyond what was predicted,
            and nothing more is asked.
        devices: Devices that sent it.
        value: Share of windows, of the old model's alarms, or mean loss.
        expected: What was predicted.
        limit: What must be ruled out, or is allowed.
        p: Always-valid p-value of harm.
        leans: Nearer to what must be ruled out than to what was predicted.
        suspect: What must be ruled out is shown, although it may lie within the prediction's interval.
        grows: Whether a longer soak brings more of what it rests on.
        runs, scale: Runs that were counted, and the share that one of them makes.
        margin: Half of the interval, where the measure is a mean.
        why: Why it is not compared.
    """

    name: str
    answer: MeasureAnswer
    devices: int = 0
    value: float = 0.0
    expected: float = 0.0
    limit: float = 0.0
    p: float = 1.0
    leans: bool = False
    suspect: bool = False
    grows: bool = True
    runs: float = 0.0
    scale: float = 0.0
    margin: float | None = None
    why: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the value, at this look."""
        if self.margin is not None:
            return self.value - self.margin, self.value + self.margin
        low, high = count_lower(self.runs, 0.025), count_upper(self.runs, 0.025)
        return min(1.0, low * self.scale), min(1.0, high * self.scale)

    @property
    def text(self) -> str:
        """The measure in words."""
        if self.why:
            return self.why
        low, high = self.interval
        says: dict[str, str] = {
            GAINED: f"{_share(self.value)} of windows alarm under the new model alone"
            f" [{_share(low)}, {_share(high)}], predicted {_share(self.expected)};"
            f" {NOISY:g} times the predicted alarms would be {_share(self.limit)}",
            LOST: f"{self.value:.0%} of the old model's alarms are lost [{low:.0%}, {high:.0%}],"
            f" predicted {self.expected:.0%}",
            RECALL: f"the new model detects {self.value:+.1%} fewer of the known faults"
            f" [{low:+.1%}, {high:+.1%}], predicted {self.expected:+.1%}; {DEAF:.0%} must be ruled out",
            RAISED: f"the mean score rises by {self.value:+.2f} [{low:+.2f}, {high:+.2f}],"
            f" predicted {self.expected:+.2f}",
            LATE: f"{self.value:.1%} of windows are scored late [{low:.1%}, {high:.1%}],"
            f" allowed {self.limit:.1%}",
        }
        return says[self.name]

    def numbers(self) -> dict[str, Any]:
        """As JSON values."""
        low, high = self.interval
        parts = {"value": self.value, "low": low, "high": high, "expected": self.expected}
        rounded = {name: float(f"{number:.6g}") for name, number in parts.items()}
        known = {"measure": self.name, "answer": self.answer, "devices": self.devices, "text": self.text}
        return {**known, **rounded, "p": float(f"{self.p:.3g}")}


Pairs = Mapping[str, PairedShadow]
"""Newest comparison of each device, by device id."""


def measures(pairs: Pairs, labelled: Pairs, predicted: PredictedAlarms | None) -> list[Measure]:
    """All measures of some devices.

    Args:
        pairs: Newest comparisons.
        labelled: Comparisons that hold windows of known truth.
        predicted: What the gate predicted; None: nothing.
    """
    recall = None if predicted is None else predicted.recall
    return [
        alarms_gained(list(pairs.values()), predicted),
        alarms_lost(list(pairs.values()), predicted),
        recall_lost(list(labelled.values()), recall),
        scores_raised(list(pairs.values()), predicted),
        late_scores(list(pairs.values())),
    ]


def alarms_gained(pairs: Sequence[PairedShadow], predicted: PredictedAlarms | None) -> Measure:
    """Whether more windows alarm under the new model alone than predicted; shown once ``NOISY`` is out."""
    known = [(p.windows, a) for p in pairs if (a := p.alarms) is not None]
    if predicted is None or not known:
        return _missing(GAINED, predicted)
    counts = RunTotals.of((windows, a.gained, a.gained_runs, a.old) for windows, a in known)
    length = _run_length([a for _, a in known])
    most = predicted.gained.upper(ALPHA) * _busier(counts, length, predicted)
    evidence = evidence_of_excess(counts.tested_runs, most * counts.tested_windows / length)
    # Three times the alarms that were predicted: all above what the old model raises as well are gained.
    guess = predicted.gained.guess
    excessive = guess + (NOISY - 1.0) * predicted.new.guess
    # The length of a run is itself measured: few long ones would make the windows count for too much.
    runs, windows = counts.runs, counts.windows / length
    surely = windows / (1 + 1 / math.sqrt(counts.runs + 1))
    absence = evidence_of_absence(runs, guess * surely, excessive * surely, counts.devices)
    shown = absence >= 1 / BETA
    answer: MeasureAnswer = "harmful" if evidence >= 1 / ALPHA else "shown" if shown else "open"
    value = counts.events / counts.windows
    return Measure(
        GAINED,
        answer,
        counts.devices,
        value,
        guess,
        excessive,
        _p(evidence),
        leans=value > math.sqrt(guess * excessive),
        suspect=absence <= BETA,
        runs=runs,
        scale=1 / windows,
    )


def alarms_lost(pairs: Sequence[PairedShadow], predicted: PredictedAlarms | None) -> Measure:
    """Whether a larger part of the old model's alarms is lost than predicted."""
    known = [(p.windows, a) for p in pairs if (a := p.alarms) is not None]
    if predicted is None or not known:
        return _missing(LOST, predicted)
    counts = RunTotals.of((windows, a.lost, a.lost_runs, a.old) for windows, a in known)
    length = _run_length([a for _, a in known])
    old = predicted.old.value * predicted.old.windows
    lost = predicted.lost.value * predicted.lost.windows
    most = min(1.0, count_upper(lost, ALPHA) / old) if old > 0 else 1.0
    evidence = evidence_of_excess(counts.tested_runs, most * counts.tested_base / length) if most < 1 else 0.0
    expected = min(1.0, predicted.lost.guess / predicted.old.guess)
    p, base = _p(evidence), counts.base
    answer: MeasureAnswer = "harmful" if p <= ALPHA else "within"
    if not base:
        why = "the old model has raised no alarm that could be lost"
        return Measure(LOST, answer, counts.devices, expected=expected, p=p, why=why)
    value, scale = counts.events / base, length / base
    return Measure(LOST, answer, counts.devices, value, expected, most, p, runs=counts.runs, scale=scale)


def recall_lost(pairs: Sequence[PairedShadow], predicted: PredictedMean | None) -> Measure:
    """Whether fewer windows that are known to be faulty are detected than predicted."""
    losses = [(p.labelled.old - p.labelled.new) / p.labelled.windows for p in pairs if p.labelled is not None]
    if not losses:
        return Measure(RECALL, "not_compared", why="no device sent windows that are known to be faulty")
    spread, freedom, others = UNKNOWN_SPREAD, UNKNOWN_FREEDOM, 0
    expected = 0.0
    if predicted is not None:
        spread, freedom = max(predicted.spread, LEAST_SPREAD), max(predicted.devices - 1, 1)
        expected, others = max(predicted.value, 0.0), predicted.devices
    found = MeanLoss.of(losses, spread, freedom)
    p = found.p_above(expected + LOSS_SLACK, others)
    shown = found.mean + found.margin(BETA) < expected + DEAF
    answer: MeasureAnswer = "harmful" if p <= ALPHA else "shown" if shown else "open"
    return Measure(
        RECALL,
        answer,
        len(losses),
        found.mean,
        expected,
        expected + DEAF,
        p,
        leans=found.mean > expected + DEAF / 2,
        grows=False,
        margin=found.margin(0.025),
    )


def scores_raised(pairs: Sequence[PairedShadow], predicted: PredictedAlarms | None) -> Measure:
    """Whether the new model scores higher than predicted, by itself and beside the old one.

    Both must be shown: where devices are in another condition than the gate's were, the first alone rises or
    the second alone. Lower scores than predicted are no harm by themselves; faults and alarms that a model no
    longer sees are other measures.
    """
    known = [(_mean_score(p.old_scores), _mean_score(p.new_scores)) for p in pairs]
    means = [(old, new) for old, new in known if old is not None and new is not None]
    if predicted is None or predicted.score is None or predicted.rise is None or not means:
        return _missing(RAISED, predicted, "the gate or the devices count no scores")
    rises, news = [new - old for old, new in means], [new for _, new in means]
    p = max(_p_raised(rises, predicted.rise), _p_raised(news, predicted.score))
    found = MeanLoss.of(rises, max(predicted.rise.spread, LEAST_SPREAD), max(predicted.rise.devices - 1, 1))
    return Measure(
        RAISED,
        "harmful" if p <= ALPHA else "within",
        len(means),
        found.mean,
        predicted.rise.value,
        predicted.rise.value + RISE_SLACK,
        p,
        margin=found.margin(0.025),
    )


def _p_raised(values: Sequence[float], predicted: PredictedMean) -> float:
    """Always-valid p-value of a mean that is no higher than predicted, without the device that is highest."""
    tested = sorted(values)[:-1] or list(values)
    spread, freedom = max(predicted.spread, LEAST_SPREAD), max(predicted.devices - 1, 1)
    return MeanLoss.of(tested, spread, freedom).p_above(predicted.value + RISE_SLACK, predicted.devices)


def _mean_score(counts: Sequence[int]) -> float | None:
    """Mean of scores counted in tenths; None: none was counted."""
    windows = sum(counts)
    return sum(n * (i + 0.5) for i, n in enumerate(counts)) / len(counts) / windows if windows else None


def late_scores(pairs: Sequence[PairedShadow]) -> Measure:
    """Whether more windows are scored after their hop than under the old model, and more than allowed."""
    known = [p for p in pairs if p.new_took]
    if not known:
        return Measure(LATE, "not_compared", why="no device sent how long its scores take")
    counts = RunTotals.of((p.windows, p.late, round(p.late / LATE_RUN), late_old(p)) for p in known)
    allowed = LATE_SHARE + counts.base / counts.windows
    evidence = evidence_of_excess(counts.tested_runs, allowed * counts.tested_windows / LATE_RUN)
    value, runs, scale = counts.events / counts.windows, counts.events / LATE_RUN, LATE_RUN / counts.windows
    answer: MeasureAnswer = "harmful" if evidence >= 1 / ALPHA else "within"
    return Measure(
        LATE, answer, counts.devices, value, LATE_SHARE, allowed, _p(evidence), runs=runs, scale=scale
    )


def late_old(pair: PairedShadow) -> int:
    """Windows that the old model scored after their hop."""
    return pair.old_took[-1] if pair.old_took else 0


def _missing(
    name: str, predicted: PredictedAlarms | None, uncounted: str = "no device counts them"
) -> Measure:
    why = "the gate predicted nothing" if predicted is None else uncounted
    return Measure(name, "not_compared", why=why)


def _run_length(alarms: Sequence[PairedAlarms]) -> float:
    """Windows of a run, from the runs of both directions."""
    return run_length(
        sum(a.gained + a.lost for a in alarms), sum(a.gained_runs + a.lost_runs for a in alarms)
    )


def _busier(counts: RunTotals, length: float, predicted: PredictedAlarms) -> float:
    """How much more often the old model surely alarms on these devices than on the gate's; at least 1.

    Devices differ. Where the old model alarms more often than the gate saw it do, the new one may as well.
    """
    expected = predicted.old.guess * counts.windows
    if counts.base <= expected:
        return 1.0
    return max(1.0, count_lower(counts.base / length, 0.25) * length / expected)


def _p(evidence: float) -> float:
    return 1.0 if evidence <= 1.0 else 1.0 / evidence


def _share(value: float) -> str:
    return f"{value:.2%}" if value >= 0.001 else f"{value:.2g}"
