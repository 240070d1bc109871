"""Gates on sameness: from the raw window on, the graph computes what the training library computes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.gates.holdout import Holdout, Score
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.bundle_files import BundleFiles
from model_service.models.factory_models import TOLERANCE
from model_service.models.fault_bank import FaultBank
from model_service.models.golden import golden_feeds, golden_outputs, golden_windows
from model_service.models.profile_golden import golden_features, golden_recent, golden_rows
from model_service.models.runtime import OrtGraph
from schemas.output_names import PRIMARY
from schemas.profile import Profile

Array = NDArray[np.float64]

PARITY, GOLDEN = "parity", "golden"


def judge_parity(
    graph: Score,
    reference: Score,
    holdout: Holdout,
    bank: FaultBank | None,
    bound: float,
    *,
    reads_recent: bool = False,
) -> GateVerdict:
    """Largest difference of a score between the candidate's bytes and a computation without them.

    Args:
        graph: Scores rows by the candidate's operators.
        reference: Scores them from parameters in float64, or by scikit-learn.
        holdout: Rows to compare on, with faults, so that they cover the whole range of scores.
        bank: Faults to inject; None: none are known.
        bound: Largest difference allowed.
        reads_recent: Both read recent levels: then each row has another one's features for them, and every
            third row none.
    """
    faults = holdout.faults(bank)
    sets = [holdout.healthy, holdout.labelled, *(rows for kind in faults.values() for rows in kind)]
    # Both get the features as the lake holds them: in float32.
    rows = np.concatenate([s.features for s in sets]).astype(np.float32).astype(np.float64)
    if not len(rows):
        return not_shown(PARITY, "no row to compare on", bound)
    if reads_recent:
        recent = np.roll(rows, 1, axis=0)
        recent[::3] = np.nan
        rows = np.hstack([rows, recent])
    worst = largest_difference(graph(rows), reference(rows))
    text = f"scores differ by at most {worst:.2g} from the training library's; {bound:g} is allowed"
    return GateVerdict(PARITY, worst <= bound, worst, bound, detail={"says": text, "rows": len(rows)})


def judge_golden(
    candidate: BundleFiles,
    champion: BundleFiles,
    reference: Score,
    profile: Profile,
    further: Score | None = None,
) -> GateVerdict:
    """Golden vectors and the whole graph give what numpy computes, on the golden windows of the family.

    The tolerance is the project's own: a manifest may not widen it for its graph.

    Args:
        candidate: Its bundle.
        champion: Has the family's golden windows.
        reference: Scores rows without the candidate's graph.
        profile: Its features are computed here.
        further: Gives rows' further outputs, shape (n, O), without the candidate's graph; None: there are
            none.
    """
    windows = golden_windows(candidate.golden)
    if not np.array_equal(windows, golden_windows(champion.golden), equal_nan=True):
        return not_shown(GOLDEN, "its windows are not the family's golden windows", 1.0)
    features = golden_features(profile, windows)
    recent = golden_recent(features) if candidate.manifest.recent else None
    wanted = np.column_stack([features, reference(golden_rows(features, recent))])
    if further is not None:
        wanted = np.column_stack([wanted, further(features)])
    computed = graph_outputs(candidate)
    stated = golden_outputs(candidate.golden)
    pairs = zip([*computed, *stated], [*wanted, *wanted], strict=True)
    worst = max(_excess(got, want) for got, want in pairs)
    own = candidate.manifest.tolerance
    if own.absolute > TOLERANCE.absolute or own.relative > TOLERANCE.relative:
        return not_shown(GOLDEN, "its manifest widens the tolerance", 1.0)
    text = f"{len(windows)} golden windows: {worst:.2g} tolerances from what numpy computes; 1 is allowed"
    return GateVerdict(GOLDEN, worst <= 1.0, worst, 1.0, detail={"says": text, "windows": len(windows)})


def largest_difference(got: Array, want: Array) -> float:
    """Largest absolute difference; infinite where only one of them has a number."""
    if not np.array_equal(np.isnan(got), np.isnan(want)):
        return float("inf")
    return float(np.nanmax(np.abs(got - want), initial=0.0))


def graph_outputs(candidate: BundleFiles) -> Array:
    """Features, score and further outputs of the golden windows by the graph, shape (n, F + 1 + O)."""
    manifest = candidate.manifest
    graph, names = (
        OrtGraph(candidate.model, manifest.version),
        ("features", PRIMARY, *manifest.output_columns),
    )
    rows = []
    for feed in golden_feeds(candidate.golden, manifest):
        features, *scores = graph.run(names, feed)
        rows.append(np.concatenate([features[0], *scores]))
    return np.array(rows, dtype=np.float64)


def _excess(got: Array, want: Array) -> float:
    """Largest difference as a multiple of the tolerance."""
    if got.shape != want.shape or not np.array_equal(np.isnan(got), np.isnan(want)):
        return float("inf")
    allowed = TOLERANCE.absolute + TOLERANCE.relative * np.abs(want)
    return float(np.nanmax(np.abs(got - want) / allowed, initial=0.0))
