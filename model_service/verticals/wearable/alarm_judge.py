"""Guards a prior's rollout by its wearers' alarms: ``wearer_alarms`` of ``edgeloop.config_judges``.

Personal baselines alarm where no score does, so the score's histograms, which the built-in judge reads, do
not show them. This one reads the alarms themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from model_service.rollout.config_evidence import ConfigEvidence, ConfigFinding
from model_service.rollout.config_spans import SHOWN_P
from schemas.output_names import PRIMARY

HARM_P = 0.001
"""Level of a rise that aborts, at each look."""
MORE_A_DAY = 0.5
"""Alarms that a wearer's day may have more than before the switch."""
LEAST_DAYS = 1.0
"""Days sensed before the switch, of all treated wearers together, that a comparison needs."""


class AlarmRate(NamedTuple):
    """Alarms of some wearers in some span.

    Attributes:
        alarms: Hours of a wearer that had one.
        days: Sensed by them, together.
    """

    alarms: int
    days: float


def wearer_alarms(evidence: ConfigEvidence) -> ConfigFinding:
    """Whether alarms rose where the prior is in force: counts against a Poisson rate from before the switch.

    Hours of a wearer with an alarm are counted, for alarms of one hour belong together. The rate before,
    with one alarm more than were seen, may rise by ``MORE_A_DAY``, and by as much as it rose where the
    prior is not in force.
    """
    alarms = evidence.alarms().to_pylist()
    summaries = [r for r in evidence.summaries.to_pylist() if r["feature"] == PRIMARY and r["part"] >= 0]
    start = datetime.min.replace(tzinfo=UTC)
    spans = {"before": (start, evidence.switched_at), "after": (evidence.switched_at, evidence.now)}
    treated, held = (
        {when: _rate(evidence, units.values(), alarms, summaries, span) for when, span in spans.items()}
        for units in (evidence.treated, evidence.held)
    )
    before, after = treated["before"], treated["after"]
    if before.days < LEAST_DAYS or not after.days:
        return ConfigFinding(open="too little was sensed before or since the switch to compare alarms")
    others = _rise(held["before"], held["after"])
    usual = (before.alarms + 1) / before.days
    allowed = (usual * others + MORE_A_DAY) * after.days
    text = (
        f"{after.alarms / after.days:.2f} alarms a wearer-day since the switch, "
        f"{before.alarms / before.days:.2f} before; allowed {allowed / after.days:.2f}"
    )
    numbers: dict[str, object] = {"alarms": after.alarms, "days": after.days, "allowed": allowed}
    units = len(evidence.treated)
    if 1 - poisson_cdf(after.alarms - 1, allowed) < HARM_P:
        return ConfigFinding(harm=f"more alarms: {text}", units=units, numbers=numbers)
    is_shown = poisson_cdf(after.alarms, allowed) < SHOWN_P / evidence.looks
    return ConfigFinding(open="" if is_shown else text, text=text, units=units, numbers=numbers)


def poisson_cdf(count: int, mean: float) -> float:
    """Chance of at most so many events, where ``mean`` are expected.

    >>> round(poisson_cdf(2, 1.0), 4), poisson_cdf(-1, 1.0)
    (0.9197, 0.0)
    """
    return min(
        math.fsum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1)), 1.0
    )


def _rise(before: AlarmRate, after: AlarmRate) -> float:
    """Factor by which the rate of those without the prior rose; 1 where that is not known, or it fell."""
    if before.days < LEAST_DAYS or not after.days or not before.alarms:
        return 1.0
    return max((after.alarms / after.days) / (before.alarms / before.days), 1.0)


def _rate(
    evidence: ConfigEvidence,
    units: Iterable[Sequence[str]],
    alarms: Sequence[Mapping[str, Any]],
    summaries: Sequence[Mapping[str, Any]],
    span: tuple[datetime, datetime],
) -> AlarmRate:
    devices, (begin, end) = {device for ids in units for device in ids}, span
    hours = {
        (row["device_id"], row["event_time"].replace(minute=0, second=0, microsecond=0))
        for row in alarms
        if row["device_id"] in devices and begin <= row["event_time"] < end
    }
    hop = timedelta(seconds=evidence.profile.sampling.hop_s)
    windows = sum(
        row["n"] + row["n_missing"]
        for row in summaries
        if row["device_id"] in devices and begin <= row["period_start"] < end
    )
    return AlarmRate(len(hours), windows * hop / timedelta(days=1))
