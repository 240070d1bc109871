"""Golden vectors of a profile's own model, and the check that its feature kinds are twice the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model_service.models.bundle_files import BundleFiles
from model_service.models.features import profile_features
from model_service.models.golden import Golden, golden_feeds, golden_windows
from model_service.models.learnt_model import ScoresRows, sums_read, with_outputs
from model_service.models.recent_rows import weight_read
from model_service.models.rounding import rounded, rounded_or_nan
from model_service.models.runtime import OrtGraph
from schemas.calendar_features import golden_ends
from schemas.errors import BundleError
from schemas.history_spec import HISTORY, golden_history
from schemas.profile import Profile
from schemas.recent_level import RECENT

Array = NDArray[np.float64]


def golden_features(profile: Profile, windows: NDArray[np.floating]) -> Array:
    """Features of golden windows (n, W, C), shape (n, F): their event times are always the same."""
    return profile_features(profile, windows, golden_ends(len(windows)))


def profile_golden(profile: Profile, windows: NDArray[np.float32], model: ScoresRows) -> Golden:
    """Golden vectors of a model on given windows, shape (n, W, C).

    Raises:
        DatasetError: The profile names outputs, and the model gives none.
    """
    features = golden_features(profile, windows)
    further = np.empty((0, 0))
    if profile.model.outputs:
        further = with_outputs(model, profile).further(features)
    recent = golden_recent(features) if weight_read(model) else None
    score = model.score(golden_rows(features, recent))
    made = golden_of(profile, windows, features, score, further)
    sums = sums_read(model)
    if recent is not None:
        made = replace(made, extra={**made.extra, RECENT: recent})
    return replace(made, extra={**made.extra, HISTORY: golden_history(len(sums))}) if sums else made


def golden_recent(features: Array) -> Array:
    """The recent levels of every golden window, shape (1, F): the middle of the windows' own.

    The last one is not known, where there are several: the graph does without.
    """
    middle = np.where(np.isfinite(features), features, 0.0).mean(axis=0, keepdims=True)
    recent = rounded(middle).astype(np.float32)
    if recent.shape[1] > 1:
        recent[0, -1] = np.nan
    return np.asarray(recent)


def golden_rows(features: Array, recent: Array | None) -> Array:
    """Features of golden windows (n, F) as a model reads them: (n, 2F) with recent levels (1, F), if any."""
    if recent is None:
        return features
    return np.hstack([features, np.repeat(recent.astype(np.float64), len(features), axis=0)])


def golden_of(
    profile: Profile, windows: NDArray[np.float32], features: Array, score: Array, further: Array
) -> Golden:
    """Golden vectors of computed features (n, F), scores (n,) and further outputs (n, O)."""
    ends = golden_ends(len(windows)) if profile.features.calendar else np.empty(0, dtype=np.int64)
    return Golden(
        windows,
        rounded_or_nan(features),
        rounded_or_nan(score),
        outputs=rounded_or_nan(further),
        ends_us=ends,
    )


def check_kinds(bundle: BundleFiles, profile: Profile) -> BundleFiles:
    """The bundle, if the graph computes the kinds of packages as numpy does, on its golden windows.

    Raises:
        BundleError: It does not; names the column.
    """
    ours = [at for at, s in enumerate(profile.feature_specs()) if s.sources and not s.built_in]
    if not ours:
        return bundle
    manifest, tolerance = bundle.manifest, bundle.manifest.tolerance
    wanted = golden_features(profile, golden_windows(bundle.golden))
    graph = OrtGraph(bundle.model, manifest.version)
    feeds = golden_feeds(bundle.golden, manifest)
    got = np.concatenate([graph.run(("features",), feed)[0] for feed in feeds]).astype(np.float64)
    for at in ours:
        if not np.allclose(got[:, at], wanted[:, at], tolerance.relative, tolerance.absolute, equal_nan=True):
            raise BundleError(
                f"the feature {profile.feature_names[at]}: its kind gives one number in numpy and another in "
                "the graph, on the model's golden windows: make `compute` and `write` of its package agree"
            )
    return bundle
