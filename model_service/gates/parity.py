"""Gates on sameness: the graph computes what the training library does, from the raw window on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.gates.holdout import Holdout, Score
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.bundle_files import BundleFiles
from model_service.models.factory_models import TOLERANCE
from model_service.models.fault_bank import FaultBank
from model_service.models.features import compute
from model_service.models.golden import golden_outputs, golden_windows
from model_service.models.runtime import OrtGraph
from schemas.profile import Profile

Array = NDArray[np.float64]

PARITY, GOLDEN = "parity", "golden"


def judge_parity(
    graph: Score, reference: Score, evidence: Holdout, bank: FaultBank | None, bound: float
) -> GateVerdict:
    """Largest difference of a score between the candidate's bytes and a computation without them.

    Args:
        graph: Scores rows by the candidate's operators.
        reference: The same by parameters in float64, or by scikit-learn.
        evidence: Rows to try; with the bank's faults, so that the whole range of scores is.
        bank: Faults; None: none are known.
        bound: Largest difference allowed.
    """
    faults = evidence.faults(bank)
    sets = [evidence.healthy, evidence.labelled, *(rows for kind in faults.values() for rows in kind)]
    # What both see is what the lake holds: float32.
    rows = np.concatenate([s.features for s in sets]).astype(np.float32).astype(np.float64)
    if not len(rows):
        return not_shown(PARITY, "no row to compare on", bound)
    worst = largest_difference(graph(rows), reference(rows))
    says = f"scores differ by at most {worst:.2g} from the training library's; {bound:g} is allowed"
    return GateVerdict(PARITY, worst <= bound, worst, bound, detail={"says": says, "rows": len(rows)})


def judge_golden(
    candidate: BundleFiles, champion: BundleFiles, reference: Score, profile: Profile
) -> GateVerdict:
    """Golden vectors say what numpy says, so does the whole graph, and they are the family's windows.

    The tolerance is the project's own: a manifest may not widen it for its graph.
    """
    windows = golden_windows(candidate.golden)
    if not np.array_equal(windows, golden_windows(champion.golden), equal_nan=True):
        return not_shown(GOLDEN, "its windows are not the family's", 1.0)
    features = compute(windows, profile.feature_specs(), profile.channel_names)
    wanted = np.column_stack([features, reference(features)])
    graph = OrtGraph(candidate.model, candidate.manifest.version)
    made = [_one(graph, window) for window in windows]
    stated = golden_outputs(candidate.golden)
    worst = max(_excess(got, want) for got, want in zip([*made, *stated], [*wanted, *wanted], strict=True))
    own = candidate.manifest.tolerance
    if own.absolute > TOLERANCE.absolute or own.relative > TOLERANCE.relative:
        return not_shown(GOLDEN, "its manifest widens the tolerance", 1.0)
    says = f"{len(windows)} golden windows lie {worst:.2g} tolerances off what numpy gives; 1 is allowed"
    return GateVerdict(GOLDEN, worst <= 1.0, worst, 1.0, detail={"says": says, "windows": len(windows)})


def largest_difference(got: Array, want: Array) -> float:
    """Largest absolute difference; infinite where one has a number and the other has none."""
    if not np.array_equal(np.isnan(got), np.isnan(want)):
        return float("inf")
    return float(np.nanmax(np.abs(got - want), initial=0.0))


def _one(graph: OrtGraph, window: NDArray[np.float32]) -> Array:
    features, score = graph.run(("features", "score"), {"window": window[np.newaxis]})
    return np.append(features[0], score[0]).astype(np.float64)


def _excess(got: Array, want: Array) -> float:
    """Difference as a multiple of the tolerance."""
    if got.shape != want.shape or not np.array_equal(np.isnan(got), np.isnan(want)):
        return float("inf")
    allowed = TOLERANCE.absolute + TOLERANCE.relative * np.abs(want)
    return float(np.nanmax(np.abs(got - want) / allowed, initial=0.0))
