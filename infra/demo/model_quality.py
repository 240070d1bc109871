"""Measures how well models scored the same windows: 1 - Brier score against the injected truth, by device.

The Brier score (Brier 1950) is the mean of (score - truth)² with truth 1 in a fault and 0 outside: 0 is
perfect, 0.25 is a coin toss. Summaries hold n, mean and m2 of all scores of a period, sent or not, so it is
exact: the sum of (s - y)² over a period is m2 + n (mean - y)². The device is the unit: intervals come from
drawing devices (Efron and Tibshirani 1993, percentile bootstrap), and two models are compared on exactly
the periods in which both scored the same windows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import FaultSpan

DRAWS = 2000
_TAIL = 0.025

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredPeriod:
    """One device's scores by one model over one summary period.

    Attributes:
        boot_id: Start of the device.
        start: UTC start of the period.
        n: Windows with a score.
        mean: Mean score.
        m2: Sum of squared deviations from it.
    """

    device_id: str
    boot_id: int
    model_version: str
    start: datetime
    n: int
    mean: float
    m2: float

    @property
    def key(self) -> tuple[str, int, datetime]:
        """Equal for the periods of two models over the same windows."""
        return self.device_id, self.boot_id, self.start


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
        gain: new - old, paired by device.
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


class FaultTruth:
    """Whether a device was in a fault during a period.

    Args:
        spans: Ground truth of the scenario.
        period_s: Length of a summary period.
    """

    def __init__(self, spans: Iterable[FaultSpan], period_s: float) -> None:
        self._length = timedelta(seconds=period_s)
        self._faults: dict[str, list[FaultSpan]] = defaultdict(list)
        for span in spans:
            if span.is_fault:
                self._faults[span.device_id].append(span)

    def of(self, period: ScoredPeriod) -> float | None:
        """1.0 in a fault, 0.0 outside, None where a fault begins or ends within the period."""
        end = period.start + self._length
        for span in self._faults[period.device_id]:
            if span.start <= period.start and (span.end is None or end <= span.end):
                return 1.0
            if span.start < end and (span.end is None or period.start < span.end):
                return None
        return 0.0


def quality(periods: Sequence[ScoredPeriod], truth: FaultTruth) -> Interval | None:
    """1 - Brier score of one model over these periods; None if no period has a clear truth."""
    sums = _by_device([(p, truth.of(p)) for p in periods])
    return _interval(sums) if sums else None


def compare(
    periods: Sequence[ScoredPeriod], old: str, new: str, truth: FaultTruth
) -> QualityComparison | None:
    """Compare two models where both scored the same windows; None if there are no such windows.

    Args:
        periods: Those of other models are left out.
        old: Version of the old model.
        new: Version of the new model.
        truth: The injected faults.
    """
    scored = {(p.model_version, p.key): p for p in periods}
    pairs = [
        (a, b)
        for (version, key), a in scored.items()
        if version == old and (b := scored.get((new, key))) is not None and a.n == b.n and a.n > 0
    ]
    before = _by_device([(a, truth.of(a)) for a, _ in pairs])
    after = _by_device([(b, truth.of(b)) for _, b in pairs])
    if not before:
        return None
    differences = {d: (before[d][0] - after[d][0], before[d][1]) for d in before}
    windows = int(sum(n for _, n in before.values()))
    return QualityComparison(_interval(before), _interval(after), _interval(differences, 0.0, 1.0), windows)


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
