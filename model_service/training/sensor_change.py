"""Whether a shift that devices have in common is what a sensor's gain or offset does to its channel. Pure.

A gain multiplies all spreads of a channel's samples by the same factor, whatever their frequency, and an
offset changes none of them. A fault changes the signal: it moves one part of the spectrum more than another.
So a shift of one channel whose measures of spread disagree is no recalibration, whichever of them moved.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.models.feature_kind import kind_of
from schemas.feature_set import FeatureSpec
from schemas.profile import Profile

Array = NDArray[np.float64]

SPREAD_KINDS = ("std", "peak", "band_low", "band_mid", "band_high")
"""Kinds that a gain multiplies and an offset leaves as they are; ``rms`` moves with the offset as well."""


def moved_channels(common: Array, profile: Profile) -> frozenset[str]:
    """Channels with a feature that moved in common.

    Args:
        common: Common shift, 0 where most devices did not move clearly, shape (F,).
        profile: Its features, in column order.
    """
    return frozenset(s.channel for s, x in zip(profile.feature_specs(), common, strict=True) if x)


def _scales(spec: FeatureSpec) -> bool:
    """Whether a gain or offset of its channel moves a feature; a package says so of its own kinds."""
    return spec.scales or (not spec.built_in and len(spec.sources) == 1 and kind_of(spec).scales)


def sensor_changed(common: Array, whole: Array, least: Array, log_unit: Array, profile: Profile) -> bool:
    """Whether a gain or an offset of one channel explains a shift.

    Args:
        common: As for ``moved_channels``.
        whole: Median shift of the devices that moved, in spreads, of every feature, shape (F,).
        least: Smallest difference that counts, in spreads, shape (F,).
        log_unit: One spread of each feature that is compared by logarithm; NaN for the others, shape (F,).
        profile: Its features, in column order.
    """
    specs = profile.feature_specs()
    if len(channels := moved_channels(common, profile)) != 1:
        return False
    if any(not _scales(s) for s, x in zip(specs, common, strict=True) if x):
        return False
    spreads = np.array([s.channel in channels and s.kind in SPREAD_KINDS for s in specs])
    spreads &= np.isfinite(log_unit)
    if spreads.sum() <= 1:
        return True
    factors = whole[spreads] * log_unit[spreads]
    apart = np.abs(factors - np.median(factors)) / log_unit[spreads]
    return bool((apart < least[spreads]).all())
