"""Gates on what a score may be: within [0, 1], and without a channel that the model can do without."""

from __future__ import annotations

import numpy as np

from model_service.gates.holdout import Holdout, PairedScores, Score
from model_service.gates.statistics import share
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.bundle_files import BundleFiles
from model_service.models.fault_bank import FaultBank
from model_service.models.score_check import largest_excess, stretched_scores
from schemas.errors import BundleError
from schemas.profile import Profile
from schemas.score_range import ROUNDING

SCORE_RANGE, MASKED = "score_range", "masked_channels"


def judge_score_range(
    candidate: BundleFiles, score: Score, holdout: Holdout, bank: FaultBank | None
) -> GateVerdict:
    """No score lies outside [0, 1] by more than rounding: on golden and stretched windows, rows and faults.

    Args:
        candidate: Its graph is run on windows.
        score: Scores rows by the candidate's own operators.
        holdout: Rows to score.
        bank: Faults to inject into them; None: none are known.
    """
    faults = holdout.faults(bank)
    sets = [holdout.healthy, holdout.labelled, *(rows for kind in faults.values() for rows in kind)]
    try:
        given = [stretched_scores(candidate).astype(np.float64)]
    except BundleError as exc:
        return not_shown(SCORE_RANGE, str(exc), ROUNDING)
    given += [score(s.features) for s in sets if len(s.features)]
    scores = np.concatenate(given)
    worst = largest_excess(scores)
    text = f"{len(scores)} scores lie at most {worst:.2g} outside [0, 1]; rounding allows {ROUNDING:g}"
    return GateVerdict(SCORE_RANGE, worst <= ROUNDING, worst, ROUNDING, detail={"says": text})


def judge_masked_channels(
    candidate: BundleFiles, paired: PairedScores, profile: Profile, max_gain: float
) -> GateVerdict:
    """A channel that the manifest calls optional may be missing: there is a score, and no alarm for it.

    Args:
        candidate: Names the channels that it can do without.
        paired: Its scores, and the healthy rows of the holdout.
        profile: Says which features are whose.
        max_gain: Largest rise of the share of healthy windows that raise an alarm.
    """
    optional, rows = candidate.manifest.optional_channels, paired.holdout.healthy
    if not optional:
        return GateVerdict(MASKED, True, 0.0, max_gain, detail={"says": "requires all of its channels"})
    if not len(rows.features):
        return not_shown(MASKED, "no healthy row in the holdout", max_gain)
    usual = share(
        (paired.candidate(rows.features) >= paired.enter).astype(float), rows, paired.devices
    ).mean()
    gains = {}
    for channel in optional:
        masked = rows.features.copy()
        masked[:, [channel in s.sources for s in profile.feature_specs()]] = np.nan
        scores = paired.candidate(masked)
        if not np.isfinite(scores).all():
            return not_shown(MASKED, f"has no score without {channel}, which it calls optional", max_gain)
        gains[channel] = share((scores >= paired.enter).astype(float), rows, paired.devices).mean() - usual
    worst = max(gains, key=lambda name: gains[name])
    text = f"without {worst}, {gains[worst]:+.2%} of healthy windows raise an alarm; at most {max_gain:+.2%}"
    return GateVerdict(
        MASKED, gains[worst] <= max_gain, gains[worst], max_gain, detail={"says": text, "gains": gains}
    )
