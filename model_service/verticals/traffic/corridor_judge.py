"""Guards a plan's rollout: queues of each corridor against its own history and held-out corridors.

Entry point ``corridor_delay`` of ``edgeloop.config_judges``. The mean number of waiting vehicles stands for
delay: by Little's law it is the arrival rate times the mean delay.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from statistics import fmean, stdev
from typing import Any

from model_service.rollout.config_evidence import ConfigEvidence, ConfigFinding
from model_service.rollout.config_spans import (
    FEWEST,
    SHOWN_P,
    Rise,
    Span,
    earlier_days,
    just_before,
    last_look,
    spans,
)
from schemas.verticals.traffic.standard_junction import NAMES

FEATURES = frozenset(f"queue_{name}_queued_mean" for name in NAMES)
"""One more than the mean queue."""
WORSE = 0.1
"""Share by which queues may grow: the logarithm of their ratio is compared with its own."""
FEWEST_WINDOWS = 30
LEAST_QUEUE = 0.1
"""Vehicles in the mean: added to each queue, so that an empty night has no ratio."""

Queues = Mapping[str, float]


def corridor_delay(evidence: ConfigEvidence) -> ConfigFinding:
    """Whether queues grew where the plan is in force, by Student's prediction interval over earlier spans."""
    rows = [
        r
        for r in evidence.summaries.to_pylist()
        if r["feature"] in FEATURES and r["part"] >= 0 and r["n"] > 0
    ]
    period = timedelta(seconds=evidence.profile.summaries.period_s)
    newest = max((r["period_start"] for r in rows), default=evidence.switched_at) + period
    look = last_look(evidence.switched_at, newest, period)
    if look is not None and (found := _risen(evidence, rows, look.span)) is not None:
        harm = _finding(evidence, *found, look.level(evidence.looks))
        if harm.harm:
            return harm
    since, _ = spans(evidence.switched_at, newest, period)
    if (found := _risen(evidence, rows, since)) is None:
        return ConfigFinding(open=f"fewer than {FEWEST} spans to compare with, or too few windows in them")
    return _finding(evidence, *found, None)


def _risen(
    evidence: ConfigEvidence, rows: Sequence[Mapping[str, Any]], since: Span
) -> tuple[Rise, dict[str, Rise]] | None:
    """How far queues of a span lie above earlier ones, of all units and of each; None: too few spans."""
    before = [_queues(evidence, rows, span) for span in earlier_days(evidence.switched_at, since)]
    if sum(bool(span) for span in before) < FEWEST:
        before = [_queues(evidence, rows, span) for span in just_before(evidence.switched_at, since)]
    after, units = _queues(evidence, rows, since), sorted(evidence.treated)
    whole = _rise(units, evidence.held, after, before)
    if whole is None:
        return None
    each = {u: rise for u in units if (rise := _rise([u], evidence.held, after, before)) is not None}
    return whole, each


def _finding(
    evidence: ConfigEvidence, whole: Rise, each: Mapping[str, Rise], level: float | None
) -> ConfigFinding:
    """What a rise shows; harm is looked for at a level, half of it for all units and half for each."""
    bound = math.log1p(WORSE)
    text = (
        f"queues {math.expm1(whole.value):+.1%} against {whole.spans} earlier spans"
        f"{' and held-out corridors' if evidence.held else ''}; allowed {WORSE:+.0%}"
    )
    numbers: dict[str, object] = {
        "change": math.expm1(whole.value),
        "bound": WORSE,
        "units": {unit: math.expm1(rise.value) for unit, rise in each.items()},
    }
    share = 0.0 if level is None else level / 2
    worse = [u for u, rise in each.items() if share and rise.least(share / max(len(each), 1)) > bound]
    if worse or (share and whole.least(share) > bound):
        at = f" at {', '.join(worse[:5])}" if worse else ""
        return ConfigFinding(harm=f"longer{at}: {text}", units=len(evidence.treated), numbers=numbers)
    is_shown = whole.end(SHOWN_P / evidence.looks) <= bound
    return ConfigFinding(
        open="" if is_shown else text, text=text, units=len(evidence.treated), numbers=numbers
    )


def _queues(evidence: ConfigEvidence, rows: Sequence[Mapping[str, Any]], span: Span) -> dict[str, float]:
    """Mean queue of an intersection's phase in each unit, units with too few windows left out."""
    both = {**evidence.held, **evidence.treated}
    unit_of = {device: unit for unit, ids in both.items() for device in ids}
    windows: dict[str, int] = defaultdict(int)
    waited: dict[str, float] = defaultdict(float)
    for row in rows:
        unit = unit_of.get(row["device_id"])
        if unit is not None and span.start <= row["period_start"] < span.end:
            windows[unit] += row["n"]
            waited[unit] += row["n"] * (row["mean"] - 1.0)
    return {u: waited[u] / n for u, n in windows.items() if n >= FEWEST_WINDOWS * len(NAMES)}


def _rise(units: Sequence[str], held: Iterable[str], after: Queues, before: Sequence[Queues]) -> Rise | None:
    """How far the logarithm of these units' queues, less that of held-out ones, lies above earlier spans."""
    now = _beyond(units, held, after)
    known = [y for span in before if (y := _beyond(units, held, span)) is not None]
    if now is None or len(known) < FEWEST:
        return None
    return Rise(now - fmean(known), stdev(known) * math.sqrt(1 + 1 / len(known)), len(known))


def _beyond(units: Iterable[str], held: Iterable[str], queues: Queues) -> float | None:
    treated = [math.log(queues[u] + LEAST_QUEUE) for u in units if u in queues]
    others = [math.log(queues[u] + LEAST_QUEUE) for u in held if u in queues]
    return fmean(treated) - (fmean(others) if others else 0.0) if treated else None
