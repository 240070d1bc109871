"""Gate on a model's further outputs: each within [0, 1], and the same without the candidate's graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.gates.holdout import Holdout, Score
from model_service.gates.parity import largest_difference
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.fault_bank import FaultBank
from model_service.models.score_check import largest_excess
from schemas.profile import Profile
from schemas.score_range import ROUNDING

Array = NDArray[np.float64]

OUTPUTS = "outputs"


def judge_outputs(
    profile: Profile, graph: Score, reference: Score, holdout: Holdout, bank: FaultBank | None
) -> tuple[GateVerdict, ...]:
    """The verdict on holdout rows, healthy, labelled and with faults; none where there are no outputs.

    Args:
        profile: Names the outputs, and bounds how far the two may differ.
        graph: Gives rows' outputs, shape (n, O), by the candidate's own operators.
        reference: Gives them without its graph.
        holdout: Rows to compare on.
        bank: Faults to inject into them; None: none are known.
    """
    if not profile.model.outputs:
        return ()
    faults = holdout.faults(bank)
    sets = [holdout.healthy, holdout.labelled, *(rows for kind in faults.values() for rows in kind)]
    # Both get the features as the lake holds them: in float32.
    rows = np.concatenate([s.features for s in sets]).astype(np.float32).astype(np.float64)
    if not len(rows):
        return (not_shown(OUTPUTS, "no row to compare on", profile.gates.parity),)
    return outputs_verdicts(profile, graph(rows), reference(rows))


def outputs_verdicts(profile: Profile, got: Array, want: Array) -> tuple[GateVerdict, ...]:
    """The verdict on outputs (n, O) by the graph and without it; none where there are no outputs."""
    if not profile.model.outputs:
        return ()
    bound, excess = profile.gates.parity, largest_excess(got)
    apart = {
        name: largest_difference(got[:, at], want[:, at]) for at, name in enumerate(profile.model.outputs)
    }
    worst = max(apart, key=lambda name: apart[name])
    given = {n: float(np.isfinite(got[:, at]).mean()) for at, n in enumerate(profile.model.outputs)}
    text = (
        f"{worst} differs by at most {apart[worst]:.2g} from a computation without the graph ({bound:g} is "
        f"allowed); outputs lie at most {excess:.2g} outside [0, 1] ({ROUNDING:g} is allowed)"
    )
    passed = apart[worst] <= bound and excess <= ROUNDING
    detail = {"says": text, "rows": len(got), "given": given}
    return (GateVerdict(OUTPUTS, passed, apart[worst], bound, detail=detail),)
