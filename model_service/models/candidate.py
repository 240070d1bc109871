"""Builds a candidate's bundle from training rows and the champion that it is meant to replace.

Pure and reproducible: the same rows (in any order), champion, moved features, lineage and seed give the same
bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_service.models.adapt import AdaptableModel, RegimeRows, adapt
from model_service.models.bundle_files import BundleFiles, build_bundle
from model_service.models.classifier import train_classifier
from model_service.models.factory_models import anomaly_graph
from model_service.models.golden import Golden, golden_windows
from model_service.models.mahalanobis import Mahalanobis
from model_service.models.profile_golden import check_kinds, profile_golden
from model_service.models.recent_rows import weight_read
from model_service.models.rounding import rounded, rounded_number
from model_service.models.score_check import check_scores
from model_service.models.training_rows import TrainingRows, training_part
from schemas.manifest import Baseline, Lineage, Manifest, TrainingFacts
from schemas.profile import Profile

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

SCRIPT = "model_service/training/candidate.py"
"""Name of this script in manifests, as 0.2.0 wrote it: the gate rebuilds its candidates byte for byte."""


def build_candidate(  # noqa: PLR0913, PLR0917  (the bytes depend on each of them, and on nothing else)
    profile: Profile,
    rows: pa.Table,
    champion: BundleFiles,
    moved: Collection[str],
    lineage: Lineage,
    seed: int,
    major: int,
    kind: str = "anomaly",
    read: Callable[[Manifest], AdaptableModel] = Mahalanobis.of,
    *,
    one_cause: bool = False,
) -> BundleFiles:
    """The candidate's bundle.

    Args:
        profile: Gives channels, window and features.
        rows: As ``feature_store.point_in_time.training_rows`` gives them; only part ``train`` is used.
        champion: Model in force: the prior of an anomaly model, and the source of golden windows.
        moved: Features or channels that moved; all features of such a channel count as moved.
        lineage: Goes into the manifest as it is.
        seed: Of the classifier's trees.
        major: First number of the version.
        kind: ``anomaly`` or ``classifier``.
        read: Reads the champion's anomaly model from its manifest.
        one_cause: What moved, one cause moved (``adapt``).

    Raises:
        DatasetError: Too few devices, or labels of one class only.
        BundleError: The champion's manifest holds no parameters, or a score lies outside [0, 1].
    """
    chosen = training_part(rows, profile)
    if kind == "classifier":
        manifest, graph, golden = _classifier(profile, chosen, champion, seed)
    else:
        before, flags = read(champion.manifest), moved_features(profile, moved)
        manifest, graph, golden = _anomaly(profile, chosen, champion, flags, before, one_cause=one_cause)
    training = TrainingFacts(
        script=SCRIPT, seed=seed, devices=chosen.rows.devices, windows=len(chosen.rows.features)
    )
    complete = manifest.model_copy(update={"training": training, "lineage": lineage, "files": {}})
    return check_kinds(check_scores(build_bundle(complete, graph, golden.to_arrow(), major)), profile)


def moved_features(profile: Profile, names: Collection[str]) -> Flags:
    """Flags of the features, shape (F,), whose channel is among the names or has a feature among them."""
    specs = profile.feature_specs()
    channels = {channel for s in specs for channel in s.sources if channel in names or s.name in names}
    return np.array([not channels.isdisjoint(s.sources) for s in specs])


def _anomaly(
    profile: Profile,
    chosen: TrainingRows,
    champion: BundleFiles,
    moved: Flags,
    before: AdaptableModel,
    *,
    one_cause: bool,
) -> tuple[Manifest, bytes, Golden]:
    old = champion.manifest
    model = adapt(before, chosen.rows, moved, old.baselines["score"].mean, one_cause=one_cause)
    golden = profile_golden(profile, golden_windows(champion.golden), model)
    # What did not move keeps the champion's baselines and bin edges: its summaries stay comparable.
    baselines = {
        name: _baseline(old.baselines[name], before, model, chosen.rows, at)
        if moved[at]
        else old.baselines[name]
        for at, name in enumerate(profile.feature_names)
    }
    baselines["score"] = old.baselines["score"]
    if not weight_read(model):  # rows of a sample have no recent levels
        mean_score = float(chosen.rows.balanced() @ model.score(chosen.rows.features))
        baselines["score"] = old.baselines["score"].model_copy(update={"mean": rounded_number(mean_score)})
    edges = {
        name: _edges(old.bin_edges[name], before, model, at) if moved[at] else old.bin_edges[name]
        for at, name in enumerate(profile.feature_names)
    }
    manifest = old.model_copy(
        update={
            "version": "",
            "kind": "anomaly",
            "calibration": model.calibration,
            "bin_edges": {**edges, "score": old.bin_edges["score"]},
            "baselines": baselines,
            "parameters": model.parameters(),
        }
    )
    return manifest, anomaly_graph(profile, model), golden


def _classifier(
    profile: Profile, chosen: TrainingRows, champion: BundleFiles, seed: int
) -> tuple[Manifest, bytes, Golden]:
    """A classifier. Its manifest keeps the champion's parameters: the next anomaly model may start there."""
    model = train_classifier(chosen.rows, chosen.labels, seed)
    golden = profile_golden(profile, golden_windows(champion.golden), model)
    manifest = champion.manifest.model_copy(update={"version": "", "kind": "classifier", "recent": 0.0})
    return manifest, model.graph(profile), golden


def _baseline(
    old: Baseline, before: AdaptableModel, model: AdaptableModel, rows: RegimeRows, at: int
) -> Baseline:
    """Baseline of a feature that moved; new spread is counted as spread between devices."""
    mean = float(rows.balanced() @ rows.features[:, at])
    gain = mean / old.mean if before.logged[at] else 1.0
    std = old.std * gain * float(model.std[at] / before.std[at])
    within = max(old.std**2 - old.device_std**2, 0.0) * gain**2
    return Baseline(
        n=len(rows.features),
        mean=rounded_number(mean),
        std=rounded_number(std),
        device_std=rounded_number(max(std**2 - within, 0.0) ** 0.5),
        mean_std=rounded_number(old.mean_std * gain),
        mean_windows=old.mean_windows,
    )


def _edges(
    edges: tuple[float, ...], before: AdaptableModel, model: AdaptableModel, at: int
) -> tuple[float, ...]:
    """Bin edges at the same quantiles of the feature's distribution as before."""
    logged, values = bool(before.logged[at]), np.array(edges)
    z = ((np.log(values) if logged else values) - before.mean[at]) / before.std[at]
    moved = z * model.std[at] + model.mean[at]
    return tuple(sorted(set(rounded(np.exp(moved) if logged else moved).tolist())))
