"""The bundles that ship in the wheel: the factory model of `machine`, and the generic `robust`.

Pure: windows in, files out. `python -m infra.factory` simulates the windows and writes the files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_service.models.bundle_files import BundleFiles, build_bundle
from model_service.models.calendar_season import Season, fit_season, middle_hour, table_weights
from model_service.models.feature_graph import graph_inputs, graph_outputs, write_profile_features
from model_service.models.feature_kind import kind_of
from model_service.models.features import all_kinds, logged_features
from model_service.models.golden import Golden
from model_service.models.graph import OPSET, GraphWriter
from model_service.models.learnt_model import LearntModel, ScoreWriter, score_names, sums_read, write_scores
from model_service.models.mahalanobis import fit, logarithms
from model_service.models.profile_golden import check_kinds, profile_golden
from model_service.models.recent_rows import weight_read
from model_service.models.robust import CALIBRATION, build_robust, robust_score
from model_service.models.rounding import rounded, rounded_number, rounded_or_nan
from model_service.models.score_check import check_scores
from schemas.feature_set import FEATURE_KINDS
from schemas.manifest import (
    ANY_FEATURESET,
    SCORE_EDGES,
    Baseline,
    Input,
    Lineage,
    Manifest,
    Tolerance,
    TrainingFacts,
)
from schemas.profile import Profile

Array = NDArray[np.float64]
Windows = NDArray[np.float32]

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
TOLERANCE = Tolerance(absolute=1e-4, relative=1e-4)


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
    model = fit(every_window, logged_features(profile).tolist())
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
        healthy: As for ``factory_bundle``; of the baselines and bin edges. Stretches (m, 2F) have recent
            levels behind the features, for a model that reads them.
        golden: Windows of the golden vectors, shape (n, W, C).
        training: Where the windows came from, for the manifest.
        detector: Which kind it is; empty: the Mahalanobis distance.
        major: First number of the version; the factory's is 0.
        lineage: What it was trained from; None: nothing in a lake.
    """
    columns, width = [*profile.feature_names, "score"], len(profile.feature_names)
    measured = [[stretch[:, :width] for stretch in device] for device in healthy]
    every_window = np.concatenate([stretch for device in measured for stretch in device])
    vectors = profile_golden(profile, golden, model)
    season = season_of(profile, measured)
    scored = [[_with_score(stretch, width, model) for stretch in device] for device in healthy]
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
        bin_edges=feature_edges(profile, every_window),
        baselines={c: _at_one_hour(baseline_of(scored, i), i, season) for i, c in enumerate(columns)},
        training=training,
        parameters=model.parameters(),
        detector=detector,
        outputs=profile.model.outputs,
        calendar=profile.features.calendar,
        time_zone=profile.calendar_zone,
        seasons=_seasons(profile, season),
        history=sums_read(model),
        recent=weight_read(model),
        lineage=lineage,
        tolerance=TOLERANCE,
        files={},
    )
    graph = anomaly_graph(profile, model, family)
    return check_kinds(check_scores(build_bundle(manifest, graph, vectors.to_arrow(), major)), profile)


def _with_score(stretch: Array, width: int, model: LearntModel) -> Array:
    return np.column_stack([stretch[:, :width], model.score(stretch)])


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
    """The graph's bytes: raw window in, features, score and further outputs out; named after the family.

    Raises:
        DatasetError: The profile names outputs, and the model gives none; or a kind of a package fails.
    """
    writer = GraphWriter()
    features = write_profile_features(writer, profile)
    for name, scores in zip(
        score_names(profile), write_scores(profile, model, writer, features), strict=True
    ):
        writer.op("Identity", scores, output=name)
    inputs = graph_inputs(profile, history=bool(sums_read(model)), recent=bool(weight_read(model)))
    return writer.build(family or profile.model.family, inputs, graph_outputs(profile))


def season_of(profile: Profile, healthy: Sequence[Sequence[Array]]) -> Season | None:
    """What the profile's calendar explains of its measured features, what it leaves in their own units.

    Args:
        profile: Its features; calendar ones are columns of the rows.
        healthy: As for ``factory_bundle``.

    Returns:
        None: the calendar tells no hour, or there are too few stretches.
    """
    stretches = [(number, stretch) for number, device in enumerate(healthy) for stretch in device]
    means = np.array([stretch.mean(axis=0) for _, stretch in stretches])
    measured = np.array([bool(spec.sources) for spec in profile.feature_specs()])
    calendar, middles = profile.features.calendar, means[:, ~measured]
    if "hour" in calendar:
        at = calendar.index("hour")
        column = int(np.flatnonzero(~measured)[at])
        middles[:, at] = [middle_hour(stretch[:, column]) for _, stretch in stretches]
    weights = table_weights(calendar, middles)
    if weights is None or not np.isfinite(means).all():
        return None
    logged = logged_features(profile) & measured
    found = fit_season(weights, logarithms(means, logged), np.array([number for number, _ in stretches]))
    if found is None:
        return None
    own_unit = np.where(logged, np.abs(means.mean(axis=0)), 1.0)
    return Season(np.where(measured[:, None], found.tables, 0.0), found.left * own_unit)


def _at_one_hour(baseline: Baseline, column: int, season: Season | None) -> Baseline:
    """The baseline of a column with the season, if it has one, taken out of how far a device wanders."""
    if season is None or column >= len(season.left) or not season.tables[column].any():
        return baseline
    left = float(season.left[column])
    return baseline.model_copy(update={"mean_std": rounded_number(left)})


def _seasons(profile: Profile, season: Season | None) -> dict[str, tuple[float, ...]]:
    """Tables by feature; what is of the calendar itself has none."""
    if season is None:
        return {}
    return {
        spec.name: tuple(table.tolist())
        for spec, table in zip(profile.feature_specs(), season.tables, strict=True)
        if spec.sources
    }


def feature_edges(profile: Profile, features: Array) -> dict[str, tuple[float, ...]]:
    """Bin edges by column of a profile's rows (n, F): quantiles, or what a kind of a package rules."""
    edges = quantile_edges(features, profile.feature_names)
    usual = {c.name: c.usual for c in profile.channels}
    for spec in profile.feature_specs():
        if spec.sources and not spec.built_in:
            ruled = kind_of(spec).edges([usual[name] for name in spec.sources])
            edges[spec.name] = tuple(sorted({float(e) for e in ruled})) or edges[spec.name]
    return edges | dict.fromkeys(profile.model.output_columns, SCORE_EDGES)


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
