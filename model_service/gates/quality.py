"""The quality gate: is the candidate better than the champion on rows that neither was trained on?

Quality is 1 minus the class-balanced Brier score (Brier 1950): half the mean squared score of healthy rows,
half the mean squared miss of faults, each kind and severity alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.gates.holdout import Holdout, HoldoutRows, PairedScores, Score
from model_service.gates.statistics import MIN_DEVICES, WeightedShare, draws, interval, share
from model_service.gates.verdict import GateVerdict, not_shown

Array = NDArray[np.float64]

GATE = "quality"


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Squared errors of one model by device.

    Attributes:
        healthy: On healthy rows.
        faults: On faults: kinds, and within a kind severities.
    """

    healthy: WeightedShare
    faults: tuple[tuple[WeightedShare, ...], ...]

    def quality(self, mean: Callable[[WeightedShare], Array]) -> Array:
        """1 - Brier, from what ``mean`` makes of each part."""
        kinds = [np.mean([mean(s) for s in severities], axis=0) for severities in self.faults]
        return np.asarray(1 - (mean(self.healthy) + np.mean(kinds, axis=0)) / 2)


def losses(score: Score, evidence: Holdout, faults: Mapping[str, Sequence[HoldoutRows]]) -> Losses:
    """Losses of a model; a row without a score is as wrong as can be."""
    devices = len(evidence.devices)

    def missed(rows: HoldoutRows, truth: float) -> WeightedShare:
        off = np.nan_to_num(score(rows.features) - truth, nan=1.0)
        return share(off**2, rows, devices)

    return Losses(
        missed(evidence.healthy, 0.0),
        tuple(tuple(missed(rows, 1.0) for rows in severities) for severities in faults.values()),
    )


def judge_quality(contest: PairedScores, min_gain: float) -> GateVerdict:
    """Passes where the whole interval of the gain lies above ``min_gain``."""
    evidence, present = contest.evidence, contest.present
    if present.sum() < MIN_DEVICES:
        why = f"holdout rows of {int(present.sum())} devices; an interval needs {MIN_DEVICES}"
        return not_shown(GATE, why, min_gain)
    faults = evidence.faults(contest.bank)
    if not faults:
        why = "no fault bank and no labelled fault: a deaf model would look better than a good one"
        return not_shown(GATE, why, min_gain)
    new, old = (losses(score, evidence, faults) for score in (contest.candidate, contest.champion))
    counts = draws(contest.drawable)
    gains = new.quality(lambda s: s.drawn(counts)) - old.quality(lambda s: s.drawn(counts))
    low, high = interval(gains)
    new_quality, old_quality = (float(m.quality(_mean)) for m in (new, old))
    gain = new_quality - old_quality
    passed = low > min_gain
    says = (
        f"quality {new_quality:.3f} against the champion's {old_quality:.3f}: "
        f"gain {gain:+.4f} [{low:+.4f}, {high:+.4f}], must lie above {min_gain:g}"
    )
    detail = {
        "says": says,
        "candidate": new_quality,
        "champion": old_quality,
        "candidate_healthy_score": _mean_score(contest.candidate, evidence),
        "champion_healthy_score": _mean_score(contest.champion, evidence),
        "rows": len(evidence.healthy.features),
        "labelled_rows": len(evidence.labelled.features),
        "devices": int(present.sum()),
        "kinds": list(faults),
        "slices": _slices(new, old, evidence, present),
    }
    return GateVerdict(GATE, passed, gain, min_gain, low, high, detail)


def _mean(part: WeightedShare) -> Array:
    return np.asarray(part.mean())


def _mean_score(score: Score, evidence: Holdout) -> float:
    rows = evidence.healthy
    return share(np.nan_to_num(score(rows.features), nan=1.0), rows, len(evidence.devices)).mean()


def _slices(new: Losses, old: Losses, evidence: Holdout, present: NDArray[np.bool_]) -> dict[str, object]:
    """Gain in each cohort; reported, not judged: few devices each."""
    found: dict[str, object] = {}
    cohort = np.array([evidence.cohorts.get(name, "unknown") for name in evidence.devices])
    for name in sorted(set(cohort[present].tolist())):
        mine = (present & (cohort == name)).astype(np.float64)[np.newaxis]
        found[name] = {"devices": int(mine.sum()), "gain": _gain_within(new, old, mine)}
    return found


def _gain_within(new: Losses, old: Losses, mine: Array) -> float:
    """Gain over some devices. Real faults may be elsewhere: what they have none of does not count."""

    def mean(part: WeightedShare) -> Array:
        return np.nan_to_num(part.drawn(mine))

    return float((new.quality(mean) - old.quality(mean))[0])
