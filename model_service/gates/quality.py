"""The quality gate: whether the candidate is better than the champion on rows that trained neither of them.

Quality is 1 minus the class-balanced Brier score (Brier 1950): half the mean squared score of healthy rows,
half the mean squared miss of faults, each kind and severity alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.gates.holdout import Holdout, HoldoutRows, PairedScores, Score
from model_service.gates.home_rows import Reference, faults_at_home
from model_service.gates.statistics import MIN_DEVICES, WeightedShare, draws, interval, share
from model_service.gates.verdict import GateVerdict, not_shown

Array = NDArray[np.float64]

GATE = "quality"


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Squared errors of one model by device.

    Attributes:
        healthy: On healthy rows.
        faults: On faults, by kind, and within a kind by severity.
    """

    healthy: WeightedShare
    faults: tuple[tuple[WeightedShare, ...], ...]

    def quality(self, mean: Callable[[WeightedShare], Array]) -> Array:
        """1 less the balanced Brier score.

        Args:
            mean: Gives the mean loss of a part: over all devices, or of each bootstrap draw.
        """
        kinds = [np.mean([mean(s) for s in severities], axis=0) for severities in self.faults]
        return np.asarray(1 - (mean(self.healthy) + np.mean(kinds, axis=0)) / 2)


def losses(score: Score, holdout: Holdout, faults: Mapping[str, Sequence[HoldoutRows]]) -> Losses:
    """Losses of a model; a row without a score counts as the largest possible error."""
    devices = len(holdout.devices)

    def missed(rows: HoldoutRows, truth: float) -> WeightedShare:
        off = np.nan_to_num(score(rows.features) - truth, nan=1.0)
        return share(off**2, rows, devices)

    return Losses(
        missed(holdout.healthy, 0.0),
        tuple(tuple(missed(rows, 1.0) for rows in severities) for severities in faults.values()),
    )


def judge_quality(
    paired: PairedScores,
    min_gain: float,
    *,
    proven: bool = False,
    renewal_gain: float = 0.0,
    homes: tuple[Reference, Reference] | None = None,
) -> GateVerdict:
    """Passes if the whole interval of the gain lies above the bound.

    Args:
        paired: The models and the rows.
        min_gain: Bound.
        proven: That the devices' normal is another one is shown already, without any score. Then the gain
            itself must lie above the bound; that it is no chance is for the rollout to show, which pairs both
            models on the devices' own windows.
        renewal_gain: For a candidate whose champion knows the devices' normal already: the share of the
            champion's loss that it must take away, if that is a higher bound. What is clear of chance and
            smaller is not worth a release, and what comes next may turn it round.
        homes: Healthy references of candidate and champion, where each one's misses count in its own regime:
            beside it, where all scores are higher, faults that it does not detect would count for it.
    """
    holdout, present = paired.holdout, paired.present
    if present.sum() < MIN_DEVICES:
        why = f"holdout rows of {int(present.sum())} devices; an interval needs {MIN_DEVICES}"
        return not_shown(GATE, why, min_gain)
    faults = holdout.faults(paired.bank)
    if not faults:
        # Every alarm is then an error, and a model that never raises one would win.
        why = "no fault bank and no labelled fault: a model that never alarms would have the best quality"
        return not_shown(GATE, why, min_gain)
    new, old = (
        losses(score, holdout, faults_at_home(holdout, paired.bank, home))
        for score, home in zip((paired.candidate, paired.champion), homes or (None, None), strict=True)
    )
    counts = draws(paired.drawable)
    low, high = interval(new.quality(lambda s: s.drawn(counts)) - old.quality(lambda s: s.drawn(counts)))
    new_quality, old_quality = (float(m.quality(_mean)) for m in (new, old))
    gain = new_quality - old_quality
    bound = max(min_gain, renewal_gain * (1 - old_quality))
    passed = (gain if proven else low) > bound
    text = (
        f"quality {new_quality:.3f} against the champion's {old_quality:.3f}: "
        f"gain {gain:+.4f} [{low:+.4f}, {high:+.4f}], must lie above {bound:.2g}"
        f"{' in the middle: the drift proves itself' if proven else ''}"
        f"{', faults in the own regime of each' if homes else ''}"
        f"{f', {renewal_gain:.0%} of what the champion lacks' if bound > min_gain else ''}"
    )
    detail = {
        "says": text,
        "candidate": new_quality,
        "champion": old_quality,
        "candidate_healthy_score": _mean_score(paired.candidate, holdout),
        "champion_healthy_score": _mean_score(paired.champion, holdout),
        "rows": len(holdout.healthy.features),
        "labelled_rows": len(holdout.labelled.features),
        "devices": int(present.sum()),
        "kinds": list(faults),
        "slices": _slices(new, old, holdout, present),
    }
    return GateVerdict(GATE, passed, gain, bound, low, high, detail)


def _mean(part: WeightedShare) -> Array:
    return np.asarray(part.mean())


def _mean_score(score: Score, holdout: Holdout) -> float:
    rows = holdout.healthy
    return share(np.nan_to_num(score(rows.features), nan=1.0), rows, len(holdout.devices)).mean()


def _slices(new: Losses, old: Losses, holdout: Holdout, present: NDArray[np.bool_]) -> dict[str, object]:
    """Gain in each cohort. Reported and not judged: a cohort may have few devices."""
    found: dict[str, object] = {}
    cohort = np.array([holdout.cohorts.get(name, "unknown") for name in holdout.devices])
    for name in sorted(set(cohort[present].tolist())):
        chosen = (present & (cohort == name)).astype(np.float64)[np.newaxis]
        found[name] = {"devices": int(chosen.sum()), "gain": _gain_within(new, old, chosen)}
    return found


def _gain_within(new: Losses, old: Losses, chosen: Array) -> float:
    """Gain over some devices; a kind of fault that none of them has adds nothing to either model."""

    def mean(part: WeightedShare) -> Array:
        return np.nan_to_num(part.drawn(chosen))

    return float((new.quality(mean) - old.quality(mean))[0])
