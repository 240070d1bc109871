"""Which channels are missing in a window, what is required of them, and how a row says it. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_producer.window import Samples
from schemas.manifest import ANY_FEATURESET, Manifest
from schemas.profile import Profile
from schemas.row_schemas import LAST_CHANNEL_BIT, channel_bit

Channels = NDArray[np.bool_]
"""Shape (C,), in the order of the profile's channels."""


def missing_channels(samples: Samples, max_missing: float) -> Channels:
    """Channels of a window (W, C) with a larger share of missing samples than may be scored."""
    finite = np.isfinite(samples)
    if finite.all():  # as nearly every window is; the sum by channel costs ten times as much
        return np.zeros(samples.shape[1], dtype=np.bool_)
    return np.asarray(1.0 - finite.mean(axis=0) > max_missing)


def required_by_profile(profile: Profile) -> Channels:
    """Channels without which the profile wants no score."""
    return np.array([c.required for c in profile.channels], dtype=np.bool_)


def required_by_model(manifest: Manifest, profile: Profile) -> Channels:
    """Channels that the model cannot do without: those whose features it takes, unless it says otherwise."""
    if manifest.featureset == ANY_FEATURESET:
        return np.zeros(len(profile.channels), dtype=np.bool_)
    used = {name for spec in profile.feature_specs() for name in spec.sources}
    used -= set(manifest.optional_channels)
    return np.array([name in used for name in profile.channel_names], dtype=np.bool_)


def without(samples: Samples, missing: Channels) -> Samples:
    """The window without the few samples that a missing channel has left."""
    masked = samples.copy()
    masked[:, missing] = np.nan
    return masked


def channel_marks(missing: Channels) -> int:
    """The bits of ``reasons`` that say which channels were missing."""
    marks = 0
    for number in np.flatnonzero(missing[: LAST_CHANNEL_BIT + 1]).tolist():
        marks |= channel_bit(number)
    return marks | (channel_bit(LAST_CHANNEL_BIT) if missing[LAST_CHANNEL_BIT:].any() else 0)
