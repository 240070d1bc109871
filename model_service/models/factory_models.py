"""The bundles that ship in the wheel: the factory model of `machine`, and the generic `robust`.

Pure: windows in, files out. `python -m infra.factory` simulates the windows and writes the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_service.models.bundle_files import BundleFiles, build_bundle
from model_service.models.feature_graph import write_features
from model_service.models.features import all_kinds, compute
from model_service.models.golden import Golden
from model_service.models.graph import FLOAT, OPSET, GraphWriter, tensor
from model_service.models.mahalanobis import fit
from model_service.models.robust import CALIBRATION, build_robust, robust_score
from model_service.models.rounding import rounded, rounded_or_nan
from model_service.models.score_check import check_scores
from schemas.manifest import (
    ANY_FEATURESET,
    SCORE_EDGES,
    Baseline,
    Calibration,
    Input,
    Lineage,
    Manifest,
    Tolerance,
    TrainingFacts,
)
from schemas.profile import FEATURE_KINDS, Profile

Array = NDArray[np.float64]
Windows = NDArray[np.float32]

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
LOGGED_KINDS = frozenset({"std", "rms", "peak", "crest", "kurtosis", "band_low", "band_mid", "band_high"})
TOLERANCE = Tolerance(absolute=1e-4, relative=1e-4)


class ScoreWriter(Protocol):
    """Whatever can be written behind the feature graph."""

    def write(self, writer: GraphWriter, features: str) -> str:
        """Adds it to a graph: (B, F) features to (B,) score; returns the score's name."""
        ...


class LearntModel(ScoreWriter, Protocol):
    """What a bundle is made of: a model of features, in numpy, as parameters and as operators."""

    @property
    def calibration(self) -> Calibration:
        """From distance to score."""
        ...

    def score(self, features: Array) -> Array:
        """Score in [0, 1] of each row of (n, F); NaN where a feature is missing."""
        ...

    def parameters(self) -> dict[str, tuple[float, ...]]:
        """Everything but the calibration, as a manifest holds it."""
        ...


def factory_bundle(
    profile: Profile, healthy: Sequence[Sequence[Array]], golden: Windows, training: TrainingFacts
) -> BundleFiles:
    """The bundle of a model that was fitted to healthy windows.

    Args:
        profile: Gives channels, window and features.
        healthy: Per device, stretches of features of consecutive windows, each (m, F), m the same for all.
        golden: Windows of the golden vectors, shape (n, W, C).
        training: Where the windows came from, for the manifest.
    """
    every_window = np.concatenate([stretch for device in healthy for stretch in device])
    model = fit(every_window, [s.kind in LOGGED_KINDS for s in profile.feature_specs()])
    return learnt_bundle(profile, profile.model.family, model, healthy, golden, training)


def learnt_bundle(  # noqa: PLR0913, PLR0917  (the bytes depend on each of them, and on nothing else)
    profile: Profile,
    family: str,
    model: LearntModel,
    healthy: Sequence[Sequence[Array]],
    golden: Windows,
    training: TrainingFacts,
    detector: str = "",
    major: int = 0,
    lineage: Lineage | None = None,
) -> BundleFiles:
    """The bundle of a model that was learnt from healthy windows, of whatever kind.

    Args:
        profile: Gives channels, window and features.
        family: Name of the model family.
        model: The model.
        healthy: As for ``factory_bundle``; of the baselines and bin edges.
        golden: Windows of the golden vectors, shape (n, W, C).
        training: Where the windows came from, for the manifest.
        detector: Which kind it is; empty: the Mahalanobis distance.
        major: First number of the version; the factory's is 0.
        lineage: What it was trained from; None: nothing in a lake.
    """
    specs = profile.feature_specs()
    every_window = np.concatenate([stretch for device in healthy for stretch in device])
    expected = compute(golden, specs, profile.channel_names)
    vectors = Golden(golden, rounded_or_nan(expected), rounded_or_nan(model.score(expected)))
    columns = [*profile.feature_names, "score"]
    scored = [[np.column_stack([stretch, model.score(stretch)]) for stretch in device] for device in healthy]
    manifest = Manifest(
        name=family,
        version="",
        featureset=profile.featureset,
        channels=tuple(Input(name=c.name, unit=c.unit) for c in profile.channels),
        window_samples=profile.sampling.window_samples,
        rate_hz=profile.sampling.rate_hz,
        features=profile.feature_names,
        opset=OPSET,
        calibration=model.calibration,
        bin_edges=quantile_edges(every_window, profile.feature_names),
        baselines={c: baseline_of(scored, i) for i, c in enumerate(columns)},
        training=training,
        parameters=model.parameters(),
        detector=detector,
        lineage=lineage,
        tolerance=TOLERANCE,
        files={},
    )
    return check_scores(
        build_bundle(manifest, anomaly_graph(profile, model, family), vectors.to_arrow(), major)
    )


def robust_bundle(seed: int) -> BundleFiles:
    """The generic bundle; among its golden windows are gaps, a dead channel and a constant channel."""
    rng = np.random.default_rng([seed, 1])
    windows = np.round(rng.uniform(-50.0, 50.0, (6, 24, 2)), 2).astype(np.float32)
    windows[1, ::3] = np.nan
    windows[2, :, 1] = np.nan
    windows[3] = 7.5
    windows[4] = np.nan
    windows[5] *= 20
    every = all_kinds(windows).reshape(len(windows), -1)
    columns = np.arange(2 * len(FEATURE_KINDS), dtype=np.int64)
    center = np.tile(np.linspace(-5, 5, len(FEATURE_KINDS)), 2).round(2)
    spread = np.full(len(center), 12.5)
    extra = {"columns": columns, "center": center, "spread": spread}
    score = robust_score(every, center, spread)
    golden = Golden(windows, rounded_or_nan(every), rounded_or_nan(score), extra)
    manifest = Manifest(
        name="robust",
        version="",
        featureset=ANY_FEATURESET,
        opset=OPSET,
        calibration=CALIBRATION,
        bin_edges={"score": SCORE_EDGES},
        tolerance=TOLERANCE,
        files={},
    )
    return check_scores(build_bundle(manifest, build_robust(), golden.to_arrow()))


def anomaly_graph(profile: Profile, model: ScoreWriter, family: str = "") -> bytes:
    """The graph's bytes: raw window in, features and score out; named after the family."""
    writer = GraphWriter()
    features = write_features(writer, profile.feature_specs(), profile.channel_names)
    writer.op("Identity", features, output="features")
    writer.op("Identity", model.write(writer, features), output="score")
    shape: list[int | str] = ["batch", profile.sampling.window_samples, len(profile.channels)]
    outputs = [
        tensor("features", FLOAT, ["batch", len(profile.feature_names)]),
        tensor("score", FLOAT, ["batch"]),
    ]
    return writer.build(family or profile.model.family, [tensor("window", FLOAT, shape)], outputs)


def quantile_edges(features: Array, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Bin edges by feature, at quantiles of rows (n, F), and those of the score."""
    edges = rounded(np.quantile(features, QUANTILES, axis=0).T)
    by_name = {n: tuple(sorted(set(row.tolist()))) for n, row in zip(names, edges, strict=True)}
    return {**by_name, "score": SCORE_EDGES}


def baseline_of(healthy: Sequence[Sequence[Array]], column: int) -> Baseline:
    """Baseline of one column of stretches (m, F) by device, as for ``factory_bundle``."""
    stretches = [[stretch[:, column] for stretch in device] for device in healthy]
    values = np.concatenate([stretch for device in stretches for stretch in device])
    device_means = [float(np.concatenate(device).mean()) for device in stretches]
    # How far a device's mean over m windows wanders, with the differences between devices taken out.
    centred_means = [
        float(stretch.mean()) - mean
        for device, mean in zip(stretches, device_means, strict=True)
        for stretch in device
    ]
    spreads = rounded(np.array([values.mean(), values.std(), np.std(device_means), np.std(centred_means)]))
    mean, std, device_std, mean_std = spreads.tolist()
    return Baseline(
        n=len(values),
        mean=mean,
        std=std,
        device_std=device_std,
        mean_std=mean_std,
        mean_windows=len(stretches[0][0]),
    )
