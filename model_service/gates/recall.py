"""Gates on alarms: faults that must still be seen, and healthy windows that must stay quiet.

A fault-bank gate on new rows alone has a hole: a model that was trained on worn machines sees *more* wear
well enough, and has learnt wear as normal. So a second one asks on rows that are freed of whatever in the
shift from the champion's healthy place looks like a fault: would it be seen on a machine without it?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model_service.gates.holdout import Holdout, HoldoutRows, PairedScores, Score
from model_service.gates.statistics import MIN_DEVICES, WeightedShare, draws, interval, share
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.fault_bank import FaultBank
from model_service.models.mahalanobis import Mahalanobis

Array = NDArray[np.float64]

RECALL, LEARNT, FALSE_ALARMS = "recall", "fault_learnt", "false_alarms"
SLACK = 2.0
"""A harmless regime lies a little along some fault's signature: one kind on rows made for the purpose may
lose more than all kinds on rows as they are. Wear of a tenth loses this much, wear of a fifth four times."""
_STEPS = 200


def judge_recall(
    contest: PairedScores, reference: Mahalanobis | None, min_recall: float, max_loss: float
) -> GateVerdict:
    """Recall on faults in new-regime rows, and what it loses against the champion.

    Args:
        contest: The models and the rows.
        reference: Where the champion has healthy machines: its recall on the bank is taken there, because in
            the new regime it sees faults everywhere. None: on the same rows.
        min_recall: Over kinds and severities.
        max_loss: Most that may be lost against the champion.
    """
    if contest.present.sum() < MIN_DEVICES:
        return _too_few(RECALL, contest, min_recall)
    evidence, bank = contest.evidence, contest.bank
    faults = evidence.faults(bank)
    if not faults:
        return not_shown(RECALL, "no fault bank and no labelled fault", min_recall)
    homely = dict(faults)
    if bank is not None and reference is not None:
        _, home, _ = freed_of_faults(evidence, reference, bank)
        homely |= evidence.faults(bank, home)
    new, old = _seen(contest.candidate, faults, contest), _seen(contest.champion, homely, contest)
    value, before = _mean_recall(new), _mean_recall(old)
    counts = draws(contest.drawable)
    drawn = [np.mean([s.drawn(counts) for s in severities], axis=0) for severities in new.values()]
    low, high = interval(np.mean(drawn, axis=0))
    bound = max(min_recall, before - max_loss)
    says = (
        f"sees {value:.1%} of the faults, the champion in its own regime {before:.1%}; at least {bound:.1%}"
    )
    detail = {
        "says": says,
        "champion": before,
        "champion_here": _mean_recall(_seen(contest.champion, faults, contest)),
        "kinds": {kind: [s.mean() for s in severities] for kind, severities in new.items()},
        "fault_bank": bank.digest if bank is not None else None,
    }
    return GateVerdict(RECALL, value >= bound, value, bound, low, high, detail)


def judge_learnt(
    contest: PairedScores, bank: FaultBank, reference: Mahalanobis, min_recall: float, max_loss: float
) -> GateVerdict:
    """Whether the candidate took a fault for the new normal; the worst kind counts.

    Args:
        contest: The models and the rows.
        bank: Faults.
        reference: Where the champion has healthy machines.
        min_recall: Of each kind.
        max_loss: Most that a kind may lose against the champion in its own regime; ``SLACK`` times it here.
    """
    if contest.present.sum() < MIN_DEVICES:
        return _too_few(LEARNT, contest, min_recall)
    evidence = contest.evidence
    freed, home, likeness = freed_of_faults(evidence, reference, bank)
    new = _seen(contest.candidate, evidence.faults(bank, freed), contest)
    old = _seen(contest.champion, evidence.faults(bank, home), contest)
    recalls, before = ({k: _mean_recall({k: v}) for k, v in seen.items()} for seen in (new, old))
    bounds = {k: max(min_recall, before[k] - SLACK * max_loss) for k in recalls}
    worst = min(recalls, key=lambda k: recalls[k] - bounds[k])
    says = (
        f"on machines without the fault sees {recalls[worst]:.1%} of {worst}, the champion in its own regime "
        f"{before[worst]:.1%}; at least {bounds[worst]:.1%}"
    )
    detail = {"says": says, "recall": recalls, "champion": before, "likeness": likeness, "worst": worst}
    return GateVerdict(LEARNT, recalls[worst] >= bounds[worst], recalls[worst], bounds[worst], detail=detail)


def judge_false_alarms(contest: PairedScores, max_gain: float) -> GateVerdict:
    """Share of healthy windows that would alarm: at most so much above the champion's."""
    rows = contest.evidence.healthy
    if not contest.present.any():
        return not_shown(FALSE_ALARMS, "no healthy row in the holdout")
    new, old = (
        share((score(rows.features) >= contest.enter).astype(float), rows, contest.devices)
        for score in (contest.candidate, contest.champion)
    )
    low, high = interval(new.drawn(draws(contest.present)))
    value, bound = new.mean(), old.mean() + max_gain
    says = f"alarms in {value:.2%} of healthy windows, the champion in {old.mean():.2%}; at most {bound:.2%}"
    detail = {"says": says, "champion": old.mean()}
    return GateVerdict(FALSE_ALARMS, value <= bound, value, bound, low, high, detail)


def freed_of_faults(
    evidence: Holdout, reference: Mahalanobis, bank: FaultBank
) -> tuple[HoldoutRows, HoldoutRows, dict[str, float]]:
    """The healthy rows without what in their shift looks like a fault, and without any shift at all.

    Returns:
        Rows shifted back along the faults' signatures, rows shifted back to the champion's healthy place, and
        how far along each signature they lay, in standard deviations.
    """
    rows = evidence.healthy
    z = reference.standardised(rows.features)
    mass = np.bincount(rows.device, rows.weights, minlength=len(evidence.devices))
    shift = (rows.weights / mass[rows.device] / (mass > 0).sum()) @ z
    signatures = np.array([bank.signature(kind, reference.std) for kind in bank.kinds])
    along = nonnegative(signatures, shift)
    freed, home = (
        rows.with_features(reference.unstandardised(z - off)) for off in (along @ signatures, shift)
    )
    return freed, home, {kind: float(c) for kind, c in zip(bank.kinds, along, strict=True)}


def nonnegative(directions: Array, target: Array) -> Array:
    """Coefficients ≥ 0 whose combination of unit vectors (k, F) lies nearest to a target (F,).

    By coordinate descent, which converges for least squares (Tseng 2001).
    """
    found = np.zeros(len(directions))
    for _ in range(_STEPS):
        for k, direction in enumerate(directions):
            found[k] = max(0.0, found[k] + float(direction @ (target - found @ directions)))
    return found


def _seen(
    score: Score, faults: Mapping[str, Sequence[HoldoutRows]], contest: PairedScores
) -> dict[str, list[WeightedShare]]:
    """Whether each faulty row is seen, by kind and severity; a row without a score is not."""
    return {
        kind: [
            share((score(rows.features) >= contest.enter).astype(float), rows, contest.devices)
            for rows in severities
        ]
        for kind, severities in faults.items()
    }


def _mean_recall(seen: Mapping[str, Sequence[WeightedShare]]) -> float:
    return float(np.mean([np.mean([s.mean() for s in severities]) for severities in seen.values()]))


def _too_few(gate: str, contest: PairedScores, bound: float) -> GateVerdict:
    why = f"holdout rows of {int(contest.present.sum())} devices; {MIN_DEVICES} are needed"
    return not_shown(gate, why, bound)
