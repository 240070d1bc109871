"""A first model from rows of the lake alone: no file and no raw window is at hand. Pure.

Generic faults are then injected into windows made up from each row's levels and spreads.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model_service.detectors.first_model import TimedHistory
from model_service.detectors.fitted_candidate import event_times_us, lake_history, ordered_rows
from model_service.detectors.generic_bank import generic_bank
from model_service.models.fault_bank import BankFile
from schemas.errors import DatasetError
from schemas.profile import Profile

Array = NDArray[np.float64]

SHARE = 0.02
"""Spread within a made-up window, as a share of the channel's usual range, where no feature tells it."""
MOST = 2000
"""Rows, spread over the history, that windows are made up for."""


def timed_rows(profile: Profile, rows: pa.Table) -> TimedHistory:
    """Rows as ``feature_store.point_in_time.training_rows`` gives them; the holdout is the test part.

    Raises:
        DatasetError: There is none.
    """
    if not rows.num_rows:
        raise DatasetError(f"the lake holds no row of profile {profile.name} that may train: give files")
    table = ordered_rows(rows)
    devices = np.unique(np.array(table.column("device_id").to_pylist())).tolist()
    end_us = event_times_us(table)
    early = np.asarray(pc.equal(table.column("part"), "train").to_numpy(zero_copy_only=False), dtype=bool)
    return TimedHistory(tuple(devices), end_us, lake_history(profile, rows), early)


def bank_of_rows(profile: Profile, timed: TimedHistory, seed: int = 0) -> BankFile:
    """Generic faults in windows made up from the healthy rows that are not the test part.

    Raises:
        DatasetError: Too few rows.
    """
    healthy = timed.history.features[timed.history.healthy & timed.early]
    if len(healthy) > MOST:
        healthy = healthy[np.linspace(0, len(healthy) - 1, MOST).astype(int)]
    return generic_bank(profile, made_up_windows(profile, healthy, seed), seed)


def made_up_windows(profile: Profile, features: Array, seed: int) -> Array:
    """Raw windows (n, W, C) that have the levels and spreads of rows of features (n, F)."""
    width, rng = profile.sampling.window_samples, np.random.default_rng([seed, 7])
    made = np.empty((len(features), width, len(profile.channels)))
    at = {(s.channel, s.kind): i for i, s in enumerate(profile.feature_specs())}
    for number, channel in enumerate(profile.channels):
        low, high = channel.usual
        known = {kind: features[:, i] for (name, kind), i in at.items() if name == channel.name}
        level = known.get("mean", known.get("last", np.full(len(features), (low + high) / 2)))
        spread = known.get("std", np.full(len(features), SHARE * (high - low)))
        noise = rng.standard_normal((len(features), width))
        noise -= noise.mean(axis=1, keepdims=True)
        noise /= np.maximum(noise.std(axis=1, keepdims=True), 1e-9)
        samples = level[:, np.newaxis] + spread[:, np.newaxis] * noise
        made[:, :, number] = np.clip(samples, channel.min, channel.max)
    return made
