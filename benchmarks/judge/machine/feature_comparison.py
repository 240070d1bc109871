"""Our generator beside the judge: what each feature is on healthy machines, and where each fault moves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.machine.rig_fleets import CELLS, FAULT_KINDS, PROFILE, STEADY, judged_fleet
from benchmarks.judge.machine.rig_playback import SEED
from benchmarks.learning.fleet_story import machine_story
from edge_producer.sources.scenario import Injection
from edge_producer.verticals.machine.rotating_machine import RotatingMachine
from model_service.models.features import compute, logged_features
from schemas.profile_file import find_profile

Array = NDArray[np.float64]
MACHINES, WINDOWS, FIRST_S = 12, 120, 30.0


def compared(cache: Path, seeds: range) -> dict[str, Any]:
    """Medians and spreads by feature, and shifts of whole faults in healthy spreads of the same source.

    Args:
        cache: Of the judge.
        seeds: Of the judge's fleets to look at.
    """
    profile = find_profile(PROFILE)
    logged = logged_features(profile)
    ours = _shown(logged, machine_story(STEADY, SEED, MACHINES, WINDOWS).features[:, 5:], {
        kind: _generated(kind) for kind in ("imbalance", "bearing_wear")
    })  # fmt: skip
    faulty: dict[str, list[Array]] = {kind: [] for kind in FAULT_KINDS}
    for cell in FAULT_KINDS:
        for seed in seeds:
            fleet = judged_fleet(cell, seed, cache)
            if fleet.severity == 1.0:
                since = fleet.at + int(fleet.ramp_s)
                hit = fleet.faulty[:, -1]
                faulty[cell].append(fleet.features[hit, since:].reshape(-1, fleet.features.shape[2]))
    healthy = np.concatenate([judged_fleet(STEADY, s, cache).features[:, 5:] for s in seeds[:2]])
    theirs = _shown(logged, healthy, {k: np.concatenate(v) for k, v in faulty.items() if v})
    return {"features": list(profile.feature_names), "generator": ours, "judge": theirs}


def _shown(logged: NDArray[np.bool_], healthy: Array, faulty: Mapping[str, Array]) -> dict[str, Any]:
    rows = healthy.reshape(-1, healthy.shape[-1])
    scaled = _scaled(rows, logged)
    middle, spread = np.median(scaled, axis=0), scaled.std(axis=0)
    shifts = {
        kind: ((np.median(_scaled(found, logged), axis=0) - middle) / spread).round(2).tolist()
        for kind, found in faulty.items()
    }
    low, high = np.quantile(rows, (0.05, 0.95), axis=0)
    return {
        "median": np.median(rows, axis=0).round(4).tolist(), "low": low.round(4).tolist(),
        "high": high.round(4).tolist(), "shifts": shifts,
    }  # fmt: skip


def _scaled(rows: Array, logged: NDArray[np.bool_]) -> Array:
    return np.asarray(np.where(logged, np.log(np.maximum(rows, 1e-9)), rows))


def _generated(kind: str) -> Array:
    """Rows of our generator's machines with a whole fault."""
    profile, found = find_profile(PROFILE), []
    rate, size = profile.sampling.rate_hz, profile.sampling.window_samples
    fault = Injection(kind=kind, start_s=0.0, ramp_s=1.0)
    for machine in range(MACHINES):
        sensors = RotatingMachine(SEED, f"m-{machine:02d}", rate, (fault,), FIRST_S)
        raw = sensors.block(0, size * 40).reshape(40, size, -1)
        columns = [sensors.channels.index(c) for c in profile.channel_names]
        found.append(compute(raw[:, :, columns], profile.feature_specs(), profile.channel_names))
    return np.concatenate(found)


assert set(FAULT_KINDS) < set(CELLS)
