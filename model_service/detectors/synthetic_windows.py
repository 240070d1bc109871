"""Windows for golden vectors: made up from the profile's usual ranges, so that no recording leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.models.rounding import rounded
from schemas.profile import Profile

COUNT = 8
NOISE, SPREAD = 0.02, 0.25
"""Spread within a window, and of a fault's size, as shares of a channel's usual range."""


def synthetic_windows(profile: Profile, seed: int) -> NDArray[np.float32]:
    """Eight windows, shape (8, W, C): usual ones, a step, a spike, a missing and a stuck channel.

    Args:
        profile: Gives the ranges of the channels.
        seed: Of the noise.
    """
    rng = np.random.default_rng([seed, 3])
    width, channels = profile.sampling.window_samples, len(profile.channels)
    made = np.empty((COUNT, width, channels))
    for at, channel in enumerate(profile.channels):
        low, high = channel.usual
        level = rng.uniform(low, high, (COUNT, 1))
        values = level + NOISE * (high - low) * rng.standard_normal((COUNT, width))
        values[3] += SPREAD * (high - low)
        values[4, width // 2] += 2 * SPREAD * (high - low)
        made[:, :, at] = np.clip(values, channel.min, channel.max)
    made = rounded(made)
    made[6, :, 0] = np.nan
    made[7, :, -1] = made[7, 0, -1]
    return made.astype(np.float32)
