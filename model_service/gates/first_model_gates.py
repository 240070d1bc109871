"""Gates on a profile's first model: the budget and a plain detector stand in for a champion.

It is judged on the holdout alone, which took no part in choosing or fitting it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_service.detectors.choosing import LABELS, LEAST_LABELLED, bank_recall, plain_reference
from model_service.detectors.first_model import alarm_rule
from model_service.detectors.fitted_candidate import budget_of, enter_of, lake_history
from model_service.gates.holdout import Score
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.fault_bank import FaultBank
from model_service.models.features import logged_features
from model_service.models.recent_rows import with_fault
from model_service.models.training_rows import part_of
from schemas.profile import Profile

Array = NDArray[np.float64]

BUDGET, GENERIC_RECALL = "alarm_budget", "generic_recall"
DEVIATIONS = 3.0
"""Standard deviations by which alarms may exceed the budget: a short holdout has few alarms either way."""
LEAST_ALLOWED = 2.0


def judge_budget(score: Score, profile: Profile, rows: pa.Table, recent: float = 0.0) -> GateVerdict:
    """False alarms in the healthy rows of the holdout are no more than the budget allows, but for chance.

    Rows that labels call faulty are left out. Rows that were not sent cannot alarm here, so this is a lower
    bound where a device sends a sample.

    Args:
        score: Scores rows by the candidate's own operators.
        profile: Gives budget and rules.
        rows: Of the lake.
        recent: Weight of the newest window in the recent levels that the candidate reads; 0: it reads none.
    """
    history = lake_history(profile, part_of(rows, "holdout"))
    healthy = history.healthy
    if not healthy.any():
        return not_shown(BUDGET, "no healthy row in the holdout")
    rule = alarm_rule(profile, budget_of(profile))
    scores = history.by_device(score(history.rows(recent)), healthy)
    alarms = float(rule.count(scores, enter_of(profile)))
    days = float(healthy.sum()) / rule.windows_per_day
    return budget_verdict(alarms, days, rule.per_device_day, "the holdout")


def budget_verdict(alarms: float, days: float, per_day: float, where: str) -> GateVerdict:
    """The verdict on alarms in healthy device-days."""
    expected = per_day * days
    allowed = max(LEAST_ALLOWED, expected + DEVIATIONS * math.sqrt(expected))
    text = (
        f"{alarms:.0f} false alarms in {days:.3g} device-days of {where}; the budget of {per_day:g} a day "
        f"allows {allowed:.1f}"
    )
    return GateVerdict(BUDGET, alarms <= allowed, alarms, allowed, detail={"says": text})


def judge_generic_recall(
    score: Score, profile: Profile, rows: pa.Table, bank: FaultBank, max_loss: float, recent: float = 0.0
) -> GateVerdict:
    """It detects hardly fewer generic faults than a plain robust reference at the same budget.

    Args:
        score: Scores rows by the candidate's own operators.
        profile: Gives budget and rules.
        rows: Of the lake.
        bank: Generic faults.
        max_loss: How much less it may detect.
        recent: As for ``judge_budget``.
    """
    train, held = (lake_history(profile, part_of(rows, part)) for part in ("train", "holdout"))
    healthy = held.features[held.healthy]
    if not len(healthy):
        return not_shown(GENERIC_RECALL, "no healthy row in the holdout")
    detector, limit = plain_reference(
        train, logged_features(profile), alarm_rule(profile, budget_of(profile))
    )
    if min(train.labelled.sum(), held.labelled.sum()) >= LEAST_LABELLED:
        # It was chosen by labels: what generic faults it was not chosen by proves less than these.
        faulty, read = held.features[held.labelled], held.rows(recent)[held.labelled]
        mine = float((np.nan_to_num(score(read)) >= enter_of(profile)).mean())
        plain = float((np.nan_to_num(detector.distance(faulty)) >= limit).mean())
        return recall_verdict(mine, plain, max_loss, {"origin": LABELS}, "labelled faults")
    mine = _recall(score, held.rows(recent)[held.healthy], bank, enter_of(profile), recent)
    by_kind = bank_recall(detector, healthy, bank, limit)
    plain = float(np.mean([share for shares in by_kind.values() for share in shares]))
    named = {"fault_bank": bank.digest, "origin": bank.origin or "known"}
    return recall_verdict(mine, plain, max_loss, named)


def recall_verdict(
    found: float,
    plain: float,
    max_loss: float,
    named: Mapping[str, object],
    faults: str = "generic faults",
) -> GateVerdict:
    """The verdict on the shares of faults that a model and a plain robust reference detect."""
    bound = max(0.0, plain - max_loss)
    text = (
        f"detects {found:.1%} of the {faults}, a plain robust reference {plain:.1%}; must detect at "
        f"least {bound:.1%}"
    )
    detail = {"says": text, "plain": plain, **named}
    return GateVerdict(GENERIC_RECALL, found >= bound, found, bound, detail=detail)


def _recall(score: Score, healthy: Array, bank: FaultBank, enter: float, recent: float) -> float:
    found = [
        float((np.nan_to_num(score(with_fault(bank, healthy, kind, size, recent))) >= enter).mean())
        for kind in bank.kinds
        for size in bank.severities(kind)
    ]
    return float(np.mean(found))
