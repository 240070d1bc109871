"""Builds a candidate's bundle from training rows and the champion that it shall replace.

Pure and reproducible: the same rows in any order, champion, moved features, lineage and seed give the same
bytes on every machine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model_service.models.adapt import RegimeRows, adapt
from model_service.models.bundle_files import BundleFiles, sealed
from model_service.models.classifier import train_classifier
from model_service.models.factory_models import anomaly_graph, rounded_or_nan
from model_service.models.features import compute
from model_service.models.golden import Golden, golden_windows
from model_service.models.mahalanobis import Mahalanobis, rounded
from schemas.errors import DatasetError
from schemas.manifest import Baseline, Lineage, Manifest, TrainingFacts
from schemas.profile import Profile

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

SCRIPT = "model_service/models/candidate.py"
KEY = ("device_id", "boot_id", "seq")
"""Identity of a row; rows are sorted by it before anything is added up."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRows:
    """The rows that may train, complete and sorted.

    Attributes:
        rows: As numbers.
        labels: Label of each row, None: none.
    """

    rows: RegimeRows
    labels: tuple[str | None, ...]


def build_candidate(  # noqa: PLR0913, PLR0917  (each is one thing that the bytes follow from)
    profile: Profile,
    rows: pa.Table,
    champion: BundleFiles,
    moved: Collection[str],
    lineage: Lineage,
    seed: int,
    major: int,
    kind: str = "anomaly",
) -> BundleFiles:
    """The candidate's bundle.

    Args:
        profile: Whose model it is.
        rows: As ``feature_store.point_in_time.training_rows`` gives them; only part ``train`` is used.
        champion: Model in force: the prior of an anomaly model, and the source of golden windows.
        moved: Features or channels that moved; of a channel all features are taken as moved.
        lineage: Goes into the manifest as it is.
        seed: Of the classifier's trees.
        major: First number of the version.
        kind: ``anomaly`` or ``classifier``.

    Raises:
        DatasetError: Too few devices, or labels of one class only.
        BundleError: The champion states no parameters.
    """
    chosen = training_part(rows, profile)
    if kind == "classifier":
        manifest, graph, golden = _classifier(profile, chosen, champion, seed)
    else:
        manifest, graph, golden = _anomaly(profile, chosen, champion, moved_features(profile, moved))
    training = TrainingFacts(
        script=SCRIPT, seed=seed, devices=chosen.rows.devices, windows=len(chosen.rows.features)
    )
    complete = manifest.model_copy(update={"training": training, "lineage": lineage, "files": {}})
    return sealed(complete, graph, golden.to_arrow(), major)


def training_part(rows: pa.Table, profile: Profile) -> TrainingRows:
    """Rows of part ``train`` with every feature, in the order of their identity.

    Raises:
        DatasetError: Rows of fewer than two devices are left.
    """
    table = rows.filter(pc.equal(rows.column("part"), "train")) if "part" in rows.column_names else rows
    table = table.sort_by([(name, "ascending") for name in KEY])
    features = np.stack([_floats(table, name) for name in profile.feature_names], axis=1)
    weights = _floats(table, "weight")
    whole = np.isfinite(features).all(axis=1) & (weights > 0)
    names, device = np.unique(np.array(table.column("device_id").to_pylist())[whole], return_inverse=True)
    if len(names) < 2:
        raise DatasetError(
            f"{int(whole.sum())} complete rows of {len(names)} devices: how devices differ cannot be told"
        )
    labels = table.column("label").to_pylist() if "label" in table.column_names else [None] * len(whole)
    kept = tuple(label for label, ok in zip(labels, whole, strict=True) if ok)
    return TrainingRows(RegimeRows(features[whole], weights[whole], device, len(names)), kept)


def moved_features(profile: Profile, names: Collection[str]) -> Flags:
    """Features, shape (F,), whose channel is named, or has a feature that is."""
    specs = profile.feature_specs()
    channels = {s.channel for s in specs if s.channel in names or s.name in names}
    return np.array([s.channel in channels for s in specs])


def _anomaly(
    profile: Profile, chosen: TrainingRows, champion: BundleFiles, moved: Flags
) -> tuple[Manifest, bytes, Golden]:
    before, stated = Mahalanobis.of(champion.manifest), champion.manifest
    model = adapt(before, chosen.rows, moved, stated.baselines["score"].mean)
    windows = golden_windows(champion.golden)
    expected = compute(windows, profile.feature_specs(), profile.channel_names)
    golden = Golden(windows, rounded_or_nan(expected), rounded_or_nan(model.score(expected)))
    baselines = {
        name: _baseline(stated.baselines[name], before, model, chosen.rows, at) if moved[at] else old
        for at, (name, old) in enumerate((n, stated.baselines[n]) for n in profile.feature_names)
    }
    usual = float(chosen.rows.balanced() @ model.score(chosen.rows.features))
    baselines["score"] = stated.baselines["score"].model_copy(update={"mean": _six(usual)})
    edges = {
        name: _edges(stated.bin_edges[name], before, model, at) if moved[at] else stated.bin_edges[name]
        for at, name in enumerate(profile.feature_names)
    }
    manifest = stated.model_copy(
        update={
            "version": "",
            "kind": "anomaly",
            "calibration": model.calibration,
            "bin_edges": {**edges, "score": stated.bin_edges["score"]},
            "baselines": baselines,
            "parameters": model.parameters(),
        }
    )
    return manifest, anomaly_graph(profile, model), golden


def _classifier(
    profile: Profile, chosen: TrainingRows, champion: BundleFiles, seed: int
) -> tuple[Manifest, bytes, Golden]:
    """The champion's parameters stay in the manifest: the next anomaly model may start from them."""
    model = train_classifier(chosen.rows, chosen.labels, seed)
    windows = golden_windows(champion.golden)
    expected = compute(windows, profile.feature_specs(), profile.channel_names)
    golden = Golden(windows, rounded_or_nan(expected), rounded_or_nan(model.score(expected)))
    stated = champion.manifest
    manifest = stated.model_copy(update={"version": "", "kind": "classifier"})
    return manifest, model.graph(profile), golden


def _baseline(old: Baseline, before: Mahalanobis, model: Mahalanobis, rows: RegimeRows, at: int) -> Baseline:
    """Baseline of a feature that moved; spread that is new is taken as one between devices."""
    mean = float(rows.balanced() @ rows.features[:, at])
    gain = mean / old.mean if before.logged[at] else 1.0
    std = old.std * gain * float(model.std[at] / before.std[at])
    within = max(old.std**2 - old.device_std**2, 0.0) * gain**2
    return Baseline(
        n=len(rows.features),
        mean=_six(mean),
        std=_six(std),
        device_std=_six(max(std**2 - within, 0.0) ** 0.5),
        mean_std=_six(old.mean_std * gain),
        mean_windows=old.mean_windows,
    )


def _edges(edges: tuple[float, ...], before: Mahalanobis, model: Mahalanobis, at: int) -> tuple[float, ...]:
    """Bin edges at the same places of the feature's distribution as before."""
    logged, values = bool(before.logged[at]), np.array(edges)
    z = ((np.log(values) if logged else values) - before.mean[at]) / before.std[at]
    moved = z * model.std[at] + model.mean[at]
    return tuple(sorted(set(rounded(np.exp(moved) if logged else moved).tolist())))


def _six(value: float) -> float:
    return float(rounded(np.array(value)))


def _floats(table: pa.Table, name: str) -> Array:
    column = table.column(name).cast(pa.float64()).fill_null(float("nan"))
    return np.asarray(column.to_numpy(), dtype=np.float64)
