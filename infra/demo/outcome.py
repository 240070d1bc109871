"""Scores a demo: alarms against the injected faults, drift verdicts against the injected drift, latencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import FaultSpan
from infra.line_watch import QueryableFrontier

GRACE = timedelta(seconds=15)
"""An alarm this long after a fault's end still counts as an alarm of that fault."""


@dataclass(frozen=True)
class AlarmScore:
    """Alarms against the injected faults.

    Attributes:
        true: Alarms of a device within one of its faults.
        false: All others.
        missed: Faults without any alarm.
    """

    true: int
    false: int
    missed: int


@dataclass(frozen=True)
class DriftScore:
    """Verdicts against what was injected.

    Attributes:
        verdicts: Verdicts of the whole run.
        false: Verdicts whose window ended before anything was injected.
        delay_s: Event time from the injected drift to the end of the window that gave the first verdict on
            its channel; None: no such verdict.
    """

    verdicts: int
    false: int
    delay_s: float | None


@dataclass(frozen=True)
class Latency:
    """Sensed to queryable, seconds, over the rows of devices that had a network; context is left out.

    A later window has context sent, so its wait is no delay.
    """

    n: int
    p50: float | None
    p99: float | None


def score_alarms(alarms: Sequence[tuple[str, datetime]], truth: Sequence[FaultSpan]) -> AlarmScore:
    """Score alarms, given as (device, event time), against the injected faults."""
    faults = [s for s in truth if s.is_fault]
    hit = dict.fromkeys(faults, 0)
    for device, at in alarms:
        for fault in faults:
            if fault.device_id == device and _within(at, fault):
                hit[fault] += 1
                break
    true = sum(hit.values())
    return AlarmScore(true, len(alarms) - true, sum(n == 0 for n in hit.values()))


def _within(at: datetime, span: FaultSpan) -> bool:
    return span.start <= at and (span.end is None or at <= span.end + GRACE)


def score_drift(
    verdicts: Sequence[tuple[str, datetime]], channel: str, injected: datetime, first_change: datetime
) -> DriftScore:
    """Score drift verdicts against the injected drift.

    Args:
        verdicts: Feature and end of the window that gave the verdict.
        channel: Channel that the injected drift moves.
        injected: UTC instant of that drift.
        first_change: UTC instant before which nothing had changed.
    """
    false = sum(detected <= first_change for _feature, detected in verdicts)
    on_channel = [at for feature, at in verdicts if feature.startswith(f"{channel}_") and at > injected]
    delay_s = (min(on_channel) - injected).total_seconds() if on_channel else None
    return DriftScore(len(verdicts), false, delay_s)


def queryable_latency(
    rows: Mapping[str, NDArray[np.float64] | NDArray[np.int64]], frontier: QueryableFrontier
) -> Latency:
    """Latency of rows from sensed to queryable.

    Args:
        rows: Columns ``sensed`` (seconds since 1970), ``partition``, ``offset``, each of shape (n,).
        frontier: What was noted while the rows came.
    """
    places = zip(rows["partition"].tolist(), rows["offset"].tolist(), strict=True)
    when = [frontier.when(int(p), int(o)) for p, o in places]
    seconds = [t - s for t, s in zip(when, rows["sensed"].tolist(), strict=True) if t is not None]
    if not seconds:
        return Latency(0, None, None)
    return Latency(len(seconds), float(np.percentile(seconds, 50)), float(np.percentile(seconds, 99)))
