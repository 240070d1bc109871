"""Gates on what a score may be: within [0, 1], and without a channel that the model can do without."""

from __future__ import annotations

import numpy as np

from model_service.gates.holdout import Holdout, Score
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.bundle_files import BundleFiles
from model_service.models.fault_bank import FaultBank
from model_service.models.score_check import largest_excess, stretched_scores
from schemas.errors import BundleError
from schemas.score_range import ROUNDING

SCORE_RANGE = "score_range"


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
