"""The bundle of an imported model: its graph behind our features, golden vectors, baselines. Pure.

The same file, rows and windows give the same bytes, so the gate can build it again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.first_model import stretches
from model_service.detectors.history import FeatureHistory
from model_service.detectors.imported_score import ImportedScore
from model_service.detectors.synthetic_windows import synthetic_windows
from model_service.models.bundle_files import BundleFiles, build_bundle
from model_service.models.factory_models import TOLERANCE, anomaly_graph, baseline_of, feature_edges
from model_service.models.features import Ends
from model_service.models.graph import OPSET
from model_service.models.imported_graph import ImportedGraph, imported_graph
from model_service.models.learnt_model import score_names
from model_service.models.profile_golden import check_kinds, golden_of
from model_service.models.runtime import OrtGraph
from model_service.models.score_check import STRETCHES, check_scores
from schemas.calendar_features import CALENDAR, Calendar, golden_ends
from schemas.errors import BundleError, DatasetError
from schemas.manifest import Baseline, Calibration, Input, Lineage, Manifest, TrainingFacts
from schemas.profile import Profile

Array = NDArray[np.float64]
Windows = NDArray[np.floating]

SCRIPT = "model_service/detectors/imported_bundle.py"
IMPORTED, IMPORTED_WINDOW = "imported", "imported_window"
"""Detectors of manifests: of an imported graph that reads features, and of one that reads the raw window."""
SAME = 1e-6
"""Largest difference between two runs of the same windows."""
NO_CALIBRATION = Calibration(middle=0.5, slope=1.0)
"""An imported graph gives the score itself: nothing maps a distance to it."""


@dataclass(frozen=True, slots=True, eq=False)
class ImportedModel:
    """An import as trainer and gate read it.

    Attributes:
        graph: Checked.
        windows: Raw windows of the history's last part, in order, shape (n, W, C); empty for a graph that
            reads features: rows of the lake are enough for it.
    """

    graph: ImportedGraph
    windows: NDArray[np.float32]


def is_imported(manifest: Manifest) -> bool:
    """Whether a model came as a graph from elsewhere."""
    return manifest.detector in (IMPORTED, IMPORTED_WINDOW)


def check_import(data: bytes, profile: Profile, output: str, seed: int = 0) -> ImportedGraph:
    """The graph of a file that a device can run on this profile's windows.

    Raises:
        BundleError: It cannot; the message says what to do.
    """
    graph = imported_graph(data, profile, output)
    windows = synthetic_windows(profile, seed)
    stretched = np.concatenate([windows * np.float32(s) for s in STRETCHES])
    ends = np.tile(golden_ends(len(windows)), len(STRETCHES))
    score, again = ImportedScore(graph, profile), ImportedScore(graph, profile)
    once = score.all_of_windows(stretched, ends)
    alone = np.concatenate(
        [again.all_of_windows(w[np.newaxis], e) for w, e in zip(stretched, ends[:, None], strict=True)]
    )
    if not np.allclose(once, alone, rtol=0, atol=SAME, equal_nan=True):
        raise BundleError(
            "it gives a window another score the second time, or alone: it must not depend on what came "
            "before, on chance, or on the other windows of a batch"
        )
    ours = OrtGraph(anomaly_graph(profile, score), "of the bundle")
    got = graph_scores(ours, profile, stretched, ends)
    if not np.allclose(got, once, rtol=0, atol=TOLERANCE.absolute, equal_nan=True):
        off = float(np.nanmax(np.abs(got - once)))
        raise BundleError(f"behind our features it scores otherwise, by up to {off:.3g}: use float32")
    return graph


def graph_scores(graph: OrtGraph, profile: Profile, windows: Windows, ends_us: Ends) -> Array:
    """Score and further outputs that a profile's graph gives for windows (n, W, C), shape (n, 1 + O)."""
    calendar = Calendar.of(profile.features)
    rows = calendar.rows(ends_us).astype(np.float32)
    found = []
    for number, window in enumerate(np.asarray(windows, dtype=np.float32)):
        feed = {"window": window[np.newaxis]}
        if calendar.width:
            feed[CALENDAR] = rows[number, np.newaxis]
        found.append([float(scores[0]) for scores in graph.run(score_names(profile), feed)])
    return np.array(found, dtype=np.float64)


def build_imported(
    profile: Profile,
    history: FeatureHistory,
    given: ImportedModel,
    lineage: Lineage | None,
    seed: int,
    major: int,
) -> BundleFiles:
    """The bundle.

    Args:
        profile: Gives channels, window and features.
        history: The part that trains; here it gives the baselines.
        given: The import.
        lineage: Goes into the manifest as it is; None: no row of a lake is behind it.
        seed: Of the golden windows.
        major: First number of the version.

    Raises:
        DatasetError: No healthy row.
        BundleError: Its scores leave [0, 1].
    """
    if not history.healthy.any():
        raise DatasetError("no healthy row in the part of the history that trains")
    if given.graph.reads == "window" and not len(given.windows):
        raise DatasetError(
            "the import reads raw windows, and none came with it: import it with --from HISTORY"
        )
    score, specs = ImportedScore(given.graph, profile), profile.feature_specs()
    windows = synthetic_windows(profile, seed)
    ends = golden_ends(len(windows))
    features, every = score.features(windows, ends), score.all_of_windows(windows, ends)
    golden = golden_of(profile, windows, features, every[:, 0], every[:, 1:])
    healthy = stretches(history, None)
    baselines = {s.name: baseline_of(healthy, at) for at, s in enumerate(specs)}
    manifest = Manifest(
        name=profile.model.family,
        version="",
        featureset=profile.featureset,
        channels=tuple(Input(name=c.name, unit=c.unit) for c in profile.channels),
        window_samples=profile.sampling.window_samples,
        rate_hz=profile.sampling.rate_hz,
        features=profile.feature_names,
        opset=OPSET,
        calibration=NO_CALIBRATION,
        bin_edges=feature_edges(profile, np.concatenate([s for d in healthy for s in d])),
        baselines={**baselines, "score": _score_baseline(score, healthy, given.windows)},
        training=_facts(history, seed),
        detector=IMPORTED_WINDOW if score.reads_window else IMPORTED,
        outputs=profile.model.outputs,
        calendar=profile.features.calendar,
        time_zone=profile.calendar_zone,
        lineage=lineage,
        tolerance=TOLERANCE,
        files={},
    )
    graph = anomaly_graph(profile, score)
    return check_kinds(check_scores(build_bundle(manifest, graph, golden.to_arrow(), major)), profile)


def _score_baseline(
    score: ImportedScore, healthy: list[list[NDArray[np.float64]]], windows: NDArray[np.float32]
) -> Baseline:
    if not score.reads_window:
        return baseline_of([[score.of_features(s)[:, np.newaxis] for s in d] for d in healthy], 0)
    # Their times are not kept; a graph that reads raw windows knows no calendar.
    found = score.of_windows(windows, golden_ends(len(windows)))
    return baseline_of([[found[np.isfinite(found)][:, np.newaxis]]], 0)


def _facts(history: FeatureHistory, seed: int) -> TrainingFacts:
    healthy = history.healthy
    devices = len(np.unique(history.device[healthy]))
    return TrainingFacts(script=SCRIPT, seed=seed, devices=devices, windows=int(healthy.sum()))
