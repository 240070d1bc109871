"""Gates on alarms: faults must still be detected, and healthy windows must raise no more alarms than before.

Faults that are injected into new rows alone are not enough: a model that was trained on worn machines detects
*more* wear well, and has still learnt wear as normal. So a second gate (``judge_learnt``) injects faults into
rows from which everything in the shift from the champion's healthy reference that looks like a fault has been
removed, and asks whether they are detected there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model_service.gates.holdout import Holdout, HoldoutRows, PairedScores, Score
from model_service.gates.home_rows import (
    Reference,
    at_home,
    faults_at_home,
    group_shifts,
    positions,
    values,
)
from model_service.gates.prediction import KEY, prediction
from model_service.gates.statistics import MIN_DEVICES, WeightedShare, draws, interval, share
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.fault_bank import FaultBank

Array = NDArray[np.float64]

RECALL, LEARNT, FALSE_ALARMS = "recall", "fault_learnt", "false_alarms"
Flags = NDArray[np.bool_]
SLACK = 2.0
"""Multiple of the allowed loss of recall that one kind of fault may lose in ``judge_learnt``: a harmless
regime, too, lies a little along some fault's signature. Wear of severity 0.1 loses this much, of 0.2 four
times as much."""
_STEPS = 200
"""Rounds of coordinate descent; for a handful of faults it has converged long before."""


def judge_recall(
    paired: PairedScores, reference: Reference | None, min_recall: float, max_loss: float
) -> GateVerdict:
    """Recall on faults in rows of the new regime, and how much it lies below the champion's.

    Args:
        paired: The models and the rows.
        reference: The champion's healthy reference. The champion's recall on the bank is measured there,
            because in the new regime it takes everything for a fault. None: it is measured on the same rows.
        min_recall: Mean over kinds and severities.
        max_loss: Largest loss of recall against the champion.
    """
    if paired.present.sum() < MIN_DEVICES:
        return _too_few(RECALL, paired, min_recall)
    holdout, bank = paired.holdout, paired.bank
    faults = holdout.faults(bank)
    if not faults:
        return not_shown(RECALL, "no fault bank and no labelled fault", min_recall)
    new = _detected(paired.candidate, faults, paired)
    old = _detected(paired.champion, faults_at_home(holdout, bank, reference), paired)
    value, before = _mean_recall(new), _mean_recall(old)
    counts = draws(paired.drawable)
    drawn = [np.mean([s.drawn(counts) for s in severities], axis=0) for severities in new.values()]
    low, high = interval(np.mean(drawn, axis=0))
    bound = max(min_recall, before - max_loss)
    text = (
        f"detects {value:.1%} of the faults, the champion in its own regime {before:.1%}; "
        f"must detect at least {bound:.1%}"
    )
    detail = {
        "says": text,
        "champion": before,
        "champion_here": _mean_recall(_detected(paired.champion, faults, paired)),
        "kinds": {kind: [s.mean() for s in severities] for kind, severities in new.items()},
        "fault_bank": bank.digest if bank is not None else None,
    }
    return GateVerdict(RECALL, value >= bound, value, bound, low, high, detail)


def judge_learnt(
    paired: PairedScores,
    bank: FaultBank,
    reference: Reference,
    min_recall: float,
    max_loss: float,
    announced: Collection[int] = (),
) -> GateVerdict:
    """Whether the candidate learnt a fault as normal; the worst kind of fault decides.

    Args:
        paired: The models and the rows.
        bank: Known faults.
        reference: The champion's healthy reference.
        min_recall: Of each kind.
        max_loss: Times ``SLACK``: the largest loss of recall on a kind, against the champion in its regime.
        announced: Places of features whose change a person announced.
    """
    if paired.present.sum() < MIN_DEVICES:
        return _too_few(LEARNT, paired, min_recall)
    holdout = paired.holdout
    cleaned, at_reference, likeness = without_faults(holdout, reference, bank, announced)
    new = _detected(paired.candidate, holdout.faults(bank, cleaned), paired)
    old = _detected(paired.champion, holdout.faults(bank, at_reference), paired)
    recalls, before = ({k: _mean_recall({k: v}) for k, v in kinds.items()} for kinds in (new, old))
    bounds = {k: max(min_recall, before[k] - SLACK * max_loss) for k in recalls}
    worst = min(recalls, key=lambda k: recalls[k] - bounds[k])
    text = (
        f"on machines without the fault, detects {recalls[worst]:.1%} of {worst}, the champion in its own "
        f"regime {before[worst]:.1%}; must detect at least {bounds[worst]:.1%}"
    )
    detail = {"says": text, "recall": recalls, "champion": before, "likeness": likeness, "worst": worst}
    return GateVerdict(LEARNT, recalls[worst] >= bounds[worst], recalls[worst], bounds[worst], detail=detail)


def judge_false_alarms(paired: PairedScores, max_gain: float) -> GateVerdict:
    """Share of healthy windows that would raise an alarm: at most ``max_gain`` above the champion's.

    Its detail also holds what the rollout's guard is to expect.
    """
    rows = paired.holdout.healthy
    if not paired.present.any():
        return not_shown(FALSE_ALARMS, "no healthy row in the holdout")
    new, old = (
        share((score(rows.features) >= paired.enter).astype(float), rows, paired.devices)
        for score in (paired.candidate, paired.champion)
    )
    low, high = interval(new.drawn(draws(paired.present)))
    value, bound = new.mean(), old.mean() + max_gain
    text = f"alarms in {value:.2%} of healthy windows, the champion in {old.mean():.2%}; at most {bound:.2%}"
    detail = {"says": text, "champion": old.mean(), KEY: prediction(paired)}
    return GateVerdict(FALSE_ALARMS, value <= bound, value, bound, low, high, detail)


def without_faults(
    holdout: Holdout, reference: Reference, bank: FaultBank, announced: Collection[int] = ()
) -> tuple[HoldoutRows, HoldoutRows, dict[str, float]]:
    """The healthy rows, moved back by the part of their shift that looks like a fault, and by all of it.

    Args:
        holdout: Gives the rows.
        reference: The champion's healthy reference.
        bank: Known faults.
        announced: Places of features whose change was announced: none of it is looked at for a fault.

    Returns:
        Rows moved back along the faults' signatures, rows moved back to the champion's healthy reference, and
        how far the shift reached along each signature, in standard deviations: of the devices that moved.
    """
    rows = holdout.healthy
    signatures = np.array([bank.signature(kind, reference.std) for kind in bank.kinds])
    cleaned = positions(rows, reference)
    groups, along = group_shifts(rows, cleaned), []
    for group in groups:
        shift = group.shift.copy()
        shift[list(announced)] = 0.0
        # The part that known faults explain; coefficients below 0 would be a fault in reverse.
        along.append(nonnegative_fit(signatures, shift))
        cleaned[group.rows] -= along[-1] @ signatures
    likeness = {kind: float(c) for kind, c in zip(bank.kinds, along[0], strict=True)}
    return rows.with_features(values(reference, cleaned)), at_home(rows, reference), likeness


def nonnegative_fit(directions: Array, target: Array) -> Array:
    """Coefficients ≥ 0 whose combination of unit vectors (k, F) lies nearest to a target (F,).

    Coordinate descent, which converges for least squares (Tseng 2001).
    """
    found = np.zeros(len(directions))
    for _ in range(_STEPS):
        for k, direction in enumerate(directions):
            found[k] = max(0.0, found[k] + float(direction @ (target - found @ directions)))
    return found


def _detected(
    score: Score, faults: Mapping[str, Sequence[HoldoutRows]], paired: PairedScores
) -> dict[str, list[WeightedShare]]:
    """Share of faulty rows that are detected, by kind and severity; a row without a score is not detected."""
    return {
        kind: [
            share((score(rows.features) >= paired.enter).astype(float), rows, paired.devices)
            for rows in severities
        ]
        for kind, severities in faults.items()
    }


def _mean_recall(detected: Mapping[str, Sequence[WeightedShare]]) -> float:
    return float(np.mean([np.mean([s.mean() for s in severities]) for severities in detected.values()]))


def _too_few(gate: str, paired: PairedScores, bound: float) -> GateVerdict:
    why = f"holdout rows of {int(paired.present.sum())} devices; {MIN_DEVICES} are needed"
    return not_shown(gate, why, bound)
