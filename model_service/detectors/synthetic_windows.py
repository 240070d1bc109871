"""Windows for golden vectors: made up from what is usual for each channel, so that no recording leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model_service.models.rounding import rounded
from schemas.profile import Profile

COUNT = 8


def synthetic_windows(profile: Profile, healthy: NDArray[np.floating], seed: int) -> NDArray[np.float32]:
    """Eight windows, shape (8, W, C): usual ones, a step, a spike, a missing and a stuck channel.

    Args:
        profile: Gives the ranges of the channels.
        healthy: Windows of a history, shape (n, W, C); only level and spread of each channel are used.
        seed: Of the noise.
    """
    rng = np.random.default_rng([seed, 3])
    width, channels = profile.sampling.window_samples, len(profile.channels)
    made = np.empty((COUNT, width, channels))
    given = np.where(np.isfinite(healthy), healthy, np.nan).astype(np.float64)
    for at, channel in enumerate(profile.channels):
        low, middle, high = np.nanquantile(given[:, :, at], (0.1, 0.5, 0.9))
        within = float(np.nanmedian(np.nanstd(given[:, :, at], axis=1)))
        level = rng.uniform(low, high, (COUNT, 1)) if high > low else np.full((COUNT, 1), middle)
        values = level + within * rng.standard_normal((COUNT, width))
        spread = (high - low) or 1.0
        values[3] += 2 * spread
        values[4, width // 2] += 5 * spread
        made[:, :, at] = np.clip(values, channel.min, channel.max)
    made = rounded(made)
    made[6, :, 0] = np.nan
    made[7, :, -1] = made[7, 0, -1]
    return made.astype(np.float32)
