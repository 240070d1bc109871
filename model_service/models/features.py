"""Window features in numpy, float64: models are trained on them, and the ONNX graph is checked with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model_service.models.feature_kind import computed, kind_of
from schemas.calendar_features import Calendar
from schemas.feature_set import FEATURE_KINDS, FeatureSpec
from schemas.profile import Profile

Array = NDArray[np.float64]
Ends = NDArray[np.int64]
"""Event times of windows, microseconds since 1970, shape (n,)."""
LOGGED_KINDS = frozenset({"std", "rms", "peak", "crest", "kurtosis", "band_low", "band_mid", "band_high"})
"""Built-in kinds that are scales: closer to normal as logarithms."""


def all_kinds(windows: NDArray[np.floating]) -> Array:
    """Every feature kind of every channel.

    Definitions (`docs/profiles.md`): missing samples (NaN, infinities) are left out of every kind; in the
    spectrum they count as the mean, so that low² + mid² + high² = std². A window of equal samples has
    crest and kurtosis 0. Of a channel without any sample, every kind is NaN.

    Args:
        windows: Shape (n, w, c).

    Returns:
        Shape (n, c, len(FEATURE_KINDS)), kinds in the order of ``FEATURE_KINDS``.
    """
    x = np.moveaxis(np.asarray(windows, dtype=np.float64), 1, 2)
    valid = np.isfinite(x)
    n = valid.sum(axis=2).astype(np.float64)
    n[n == 0] = np.nan  # makes every kind of an empty channel NaN, by division or by ``+ 0.0 * n``
    filled = np.where(valid, x, 0.0)
    mean = filled.sum(axis=2) / n
    centred = np.where(valid, x - mean[..., None], 0.0)
    # Rounding of the mean leaves tiny deviations in a constant window: they count as 0.
    tiny = 1e-12 * np.abs(filled).max(axis=2)
    centred[np.abs(centred).max(axis=2) <= tiny] = 0.0
    var = (centred**2).sum(axis=2) / n
    std = np.sqrt(var)
    peak = np.abs(centred).max(axis=2) + 0.0 * n
    with np.errstate(divide="ignore", invalid="ignore"):
        crest = np.where(std == 0.0, 0.0, peak / std)
        kurtosis = np.where(std == 0.0, 0.0, (centred**4).sum(axis=2) / n / var**2)
    low, mid, high = _bands(centred, n)
    kinds = {
        "last": _last(filled, valid) + 0.0 * n,
        "mean": mean,
        "std": std,
        "min": np.where(valid, x, np.inf).min(axis=2) + 0.0 * n,
        "max": np.where(valid, x, -np.inf).max(axis=2) + 0.0 * n,
        "rms": np.sqrt((filled**2).sum(axis=2) / n),
        "peak": peak,
        "crest": crest,
        "kurtosis": kurtosis,
        "band_low": low,
        "band_mid": mid,
        "band_high": high,
    }
    return np.stack([kinds[k] for k in FEATURE_KINDS], axis=2)


def compute(windows: NDArray[np.floating], specs: Sequence[FeatureSpec], channels: Sequence[str]) -> Array:
    """Features of each window, shape (n, f), columns in the order of ``specs``; none of the calendar.

    Raises:
        DatasetError: A kind of a package is not installed here, or fails.
    """
    kinds = list(FEATURE_KINDS)
    every = all_kinds(windows)
    columns = [
        every[:, channels.index(s.channel), kinds.index(s.kind)]
        if s.built_in
        else _of_package(s, windows, channels)
        for s in specs
    ]
    return np.stack(columns, axis=1)


def profile_features(profile: Profile, windows: NDArray[np.floating], ends_us: Ends) -> Array:
    """Features of each window (n, W, C) that ended at these times, shape (n, F), as a device computes them.

    Raises:
        DatasetError: As ``compute``.
    """
    specs = [s for s in profile.feature_specs() if s.sources]
    measured = compute(windows, specs, profile.channel_names)
    calendar = Calendar.of(profile.features)
    return np.hstack([measured, calendar.rows(ends_us)]) if calendar.width else measured


def logged_features(profile: Profile) -> NDArray[np.bool_]:
    """Which features are taken as logarithms, shape (F,).

    Raises:
        DatasetError: A kind of a package is not installed here.
    """
    specs = profile.feature_specs()
    return np.array(
        [s.kind in LOGGED_KINDS if s.built_in or not s.sources else kind_of(s).logged for s in specs]
    )


def _of_package(spec: FeatureSpec, windows: NDArray[np.floating], channels: Sequence[str]) -> Array:
    given = np.asarray(windows, dtype=np.float64)[:, :, [channels.index(name) for name in spec.sources]]
    return computed(spec, np.where(np.isfinite(given), given, np.nan))


def _last(filled: Array, valid: NDArray[np.bool_]) -> Array:
    width = filled.shape[2]
    index = np.maximum(np.where(valid, np.arange(width), -1).max(axis=2), 0)
    return np.take_along_axis(filled, index[..., None], axis=2)[..., 0]


def _bands(centred: Array, n: Array) -> tuple[Array, Array, Array]:
    """RMS below 1/8, between 1/8 and 1/4, and from 1/4 of the sampling rate on, by Parseval's theorem."""
    width = centred.shape[2]
    power = np.abs(np.fft.rfft(centred, axis=2)) ** 2
    k = np.arange(power.shape[2])
    # One-sided spectrum: each line counts twice but for the mean and the line at half the sampling rate.
    twice = np.where((k == 0) | (2 * k == width), 1.0, 2.0)
    power = power * twice * (k > 0)
    low, mid, high = 8 * k < width, (8 * k >= width) & (4 * k < width), 4 * k >= width
    scale = width * n
    rms = [np.sqrt((power * band).sum(axis=2) / scale) for band in (low, mid, high)]
    return rms[0], rms[1], rms[2]
