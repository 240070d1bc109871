"""Measures how well two models scored the same windows: 1 - Brier score, recall and precision, by device.

The Brier score (Brier 1950) is the mean of (score - truth)² with truth 1 in a fault and 0 outside: 0 is
perfect, 0.25 is a coin toss. Summaries hold n, mean and m2 of all scores of a period, sent or not, so it is
exact: the sum of (s - y)² over a period is m2 + n (mean - y)². Outputs are summarised apart, so that each can
be held against the faults that it is to find. The device is the unit: intervals come from drawing devices
(Efron and Tibshirani 1993, percentile bootstrap), and two models are compared on exactly the periods in which
both scored the same windows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.output_names import PRIMARY

DRAWS = 2000
_TAIL = 0.025

Array = NDArray[np.float64]


class LabelledSpan(NamedTuple):
    """A span of one device's time of which it is known whether it was in a fault.

    Attributes:
        start: UTC.
        end: UTC; None: it lasts.
        output: Column of the output that is to find the fault; empty: every one is.
    """

    device_id: str
    start: datetime
    end: datetime | None
    is_fault: bool = True
    output: str = ""


@dataclass(frozen=True)
class ScoredPeriod:
    """One device's scores by one model over one summary period.

    Attributes:
        boot_id: Start of the device.
        start: UTC start of the period.
        n: Windows with a score.
        mean: Mean score.
        m2: Sum of squared deviations from it.
        above: Windows in alarm, of the output that raises most; None: not known.
        output: Column of the model's output that the scores are of.
    """

    device_id: str
    boot_id: int
    model_version: str
    start: datetime
    n: int
    mean: float
    m2: float
    above: int | None = None
    output: str = PRIMARY

    @property
    def key(self) -> tuple[str, int, datetime, str]:
        """Equal for the periods of two models over the same windows."""
        return self.device_id, self.boot_id, self.start, self.output


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval, from n devices."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        """For the report."""
        return {"value": self.value, "low": self.low, "high": self.high, "devices": self.n}


@dataclass(frozen=True)
class QualityComparison:
    """Two models on the same windows.

    Attributes:
        gain: new - old, paired by device. Of several outputs it is their mean.
        windows: Windows that both scored.
    """

    old: Interval
    new: Interval
    gain: Interval
    windows: int

    @property
    def is_better(self) -> bool:
        """Whether the new model is better, its interval clear of zero."""
        return self.gain.low > 0


class SpanTruth:
    """Whether a device was in a fault during a period.

    Args:
        spans: What is known. Of a fault that one output is to find, the others are to say nothing.
        period_s: Length of a summary period.
        complete: Every fault is among the spans, so a device was healthy outside them; else nothing is known
            there.
    """

    def __init__(self, spans: Iterable[LabelledSpan], period_s: float, *, complete: bool) -> None:
        self._length = timedelta(seconds=period_s)
        self._complete = complete
        self._spans: dict[str, list[LabelledSpan]] = defaultdict(list)
        for span in spans:
            if span.is_fault or not complete:
                self._spans[span.device_id].append(span)

    def of(self, period: ScoredPeriod) -> float | None:
        """1.0 in a fault, 0.0 outside, None where that is not known or changes within the period."""
        end, covering = period.start + self._length, None
        for span in self._spans[period.device_id]:
            if span.output not in ("", period.output):
                continue
            if span.start <= period.start and (span.end is None or end <= span.end):
                covering = span if covering is None or span.is_fault else covering
            elif span.is_fault and span.start < end and (span.end is None or period.start < span.end):
                return None
        if covering is not None:
            return float(covering.is_fault)
        return 0.0 if self._complete else None


def quality(periods: Sequence[ScoredPeriod], truth: SpanTruth) -> Interval | None:
    """1 - Brier score of one model over these periods; None if no period has a clear truth."""
    sums = _by_device([(p, truth.of(p)) for p in periods])
    return _interval(sums) if sums else None


def same_windows(
    periods: Sequence[ScoredPeriod], old: str, new: str
) -> list[tuple[ScoredPeriod, ScoredPeriod]]:
    """Pairs of periods in which both versions scored the same windows: of the old one, and of the new one."""
    scored = {(p.model_version, p.key): p for p in periods}
    return [
        (a, b)
        for (version, key), a in scored.items()
        if version == old and (b := scored.get((new, key))) is not None and a.n == b.n and a.n > 0
    ]


def compare(
    periods: Sequence[ScoredPeriod], old: str, new: str, truth: SpanTruth
) -> QualityComparison | None:
    """Compare two models where both scored the same windows; None if there are no such windows.

    Args:
        periods: Those of other models are left out.
        old: Version of the old model.
        new: Version of the new model.
        truth: What is known of faults.
    """
    pairs = same_windows(periods, old, new)
    before = _by_device([(a, truth.of(a)) for a, _ in pairs])
    after = _by_device([(b, truth.of(b)) for _, b in pairs])
    if not before:
        return None
    differences = {d: (before[d][0] - after[d][0], before[d][1]) for d in before}
    judged: dict[tuple[str, int, datetime], int] = {}
    for a, _ in pairs:
        if truth.of(a) is not None:
            judged[a.key[:3]] = max(a.n, judged.get(a.key[:3], 0))
    windows = sum(judged.values())
    return QualityComparison(_interval(before), _interval(after), _interval(differences, 0.0, 1.0), windows)


class AlarmQuality(NamedTuple):
    """How one model's alarms fit what is known, by windows; None: not estimable.

    Attributes:
        share: Share of all windows in alarm.
        recall: Share of the windows in a fault that were in alarm.
        precision: Share of the windows in alarm that were in a fault, among those of which it is known.
    """

    share: float | None
    recall: float | None
    precision: float | None


def alarm_quality(periods: Sequence[ScoredPeriod], truth: SpanTruth) -> AlarmQuality:
    """How a model's alarms fit the truth over these periods."""
    counted = [p for p in periods if p.above is not None]
    judged = [(p, y) for p in counted if (y := truth.of(p)) is not None]
    faulty = sum(p.n for p, y in judged if y)
    right = sum(p.above or 0 for p, y in judged if y)
    known = sum(p.above or 0 for p, _ in judged)
    windows = sum(p.n for p in counted)
    return AlarmQuality(
        share=sum(p.above or 0 for p in counted) / windows if windows else None,
        recall=right / faulty if faulty else None,
        precision=right / known if known else None,
    )


def agreement(pairs: Sequence[tuple[ScoredPeriod, ScoredPeriod]]) -> float | None:
    """Largest share of the windows on which both were in alarm or both were not; None: not known."""
    known = [(a.above, b.above, a.n) for a, b in pairs if a.above is not None and b.above is not None]
    windows = sum(n for _, _, n in known)
    return 1 - sum(abs(a - b) for a, b, _ in known) / windows if windows else None


def _by_device(judged: Sequence[tuple[ScoredPeriod, float | None]]) -> Mapping[str, tuple[float, float]]:
    """Sum of squared errors and number of windows of each device."""
    sums: dict[str, tuple[float, float]] = {}
    for period, y in judged:
        if y is None or not period.n:
            continue
        error, n = sums.get(period.device_id, (0.0, 0.0))
        sums[period.device_id] = (error + period.m2 + period.n * (period.mean - y) ** 2, n + period.n)
    return dict(sorted(sums.items()))


def _interval(
    sums: Mapping[str, tuple[float, float]], offset: float = 1.0, sign: float = -1.0, seed: int = 0
) -> Interval:
    """The value offset + sign · Σ error / Σ n over devices, with the bootstrap interval."""
    # Draw whole devices, not windows: the windows of one device are alike.
    table: Array = np.array(list(sums.values()), dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(table), (DRAWS, len(table)))
    totals = table[drawn].sum(axis=1)
    values = offset + sign * totals[:, 0] / totals[:, 1]
    whole = table.sum(axis=0)
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
    return Interval(float(offset + sign * whole[0] / whole[1]), float(low), float(high), len(table))
