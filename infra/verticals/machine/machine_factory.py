"""The factory model of rotating machines and their fault bank, from simulated windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection, Kind
from edge_producer.verticals.machine.rotating_machine import RotatingMachine
from infra.factory_recipe import FactoryRecipe
from model_service import BundleFiles, compute_features, factory_models, fault_bank, logged_features
from schemas.manifest import TrainingFacts
from schemas.profile import Profile
from schemas.profile_file import find_profile

SEED = 20260101
DEVICES = 120
RUNS = 6
RUN_WINDOWS = 15
HORIZON_WINDOWS = 1800
REGIMES = (0.0, 0.0, 0.3)
"""Severity of the change of load of each device, in turn: the model learns more than one regime."""
SCRIPT = "infra/factory.py"
FAULTS: tuple[Kind, ...] = ("bearing_wear", "imbalance")
SEVERITIES = (0.2, 0.3, 0.4, 0.6, 1.0)
FAULT_MACHINES = 8
FAULT_START_S = 40.0
FAULT_WINDOWS = (60, 66, 72)
"""20 to 32 s after the fault begins: the vibration has grown, the heat has not; a later alarm is too late."""

Array = NDArray[np.float64]


def build_bundle() -> BundleFiles:
    """The bundle of the family `machine`."""
    profile = find_profile("machine")
    training = TrainingFacts(script=SCRIPT, seed=SEED, devices=DEVICES, windows=DEVICES * RUNS * RUN_WINDOWS)
    healthy = [list(_healthy_runs(profile, number)) for number in range(DEVICES)]
    return factory_models.factory_bundle(profile, healthy, _golden_windows(profile), training)


def build_fault_bank() -> fault_bank.BankFile:
    """The effect of each fault on each feature of `machine`."""
    profile = find_profile("machine")
    logged = tuple(logged_features(profile).tolist())
    healthy = _bank_windows(profile, ())
    effects = {
        kind: {
            str(severity): fault_bank.paired_effects(
                healthy,
                _bank_windows(profile, (Injection(kind=kind, start_s=FAULT_START_S, severity=severity),)),
                logged,
            )
            for severity in SEVERITIES
        }
        for kind in FAULTS
    }
    return fault_bank.BankFile(
        profile=profile.name,
        featureset=profile.featureset,
        features=profile.feature_names,
        logged=logged,
        seed=SEED,
        effects=effects,
    )


def _bank_windows(profile: Profile, faults: tuple[Injection, ...]) -> Array:
    """Features of a few windows of each machine of the bank, shape (n, F)."""
    rate_hz = profile.sampling.rate_hz
    made = [
        _windows(profile, RotatingMachine(SEED, f"bank-{number}", rate_hz, faults), range(k, k + 1))
        for number in range(FAULT_MACHINES)
        for k in FAULT_WINDOWS
    ]
    return compute_features(np.concatenate(made), profile.feature_specs(), profile.channel_names)


def _healthy_runs(profile: Profile, number: int) -> Iterator[Array]:
    """Features of a few runs of consecutive windows of one healthy machine."""
    regime = Injection(kind="new_regime", start_s=0.0, severity=REGIMES[number % len(REGIMES)])
    sensors = RotatingMachine(SEED, f"factory-{number}", profile.sampling.rate_hz, (regime,))
    rng = np.random.default_rng([SEED, number])
    for first in rng.integers(0, HORIZON_WINDOWS, RUNS):
        windows = _windows(profile, sensors, range(int(first), int(first) + RUN_WINDOWS))
        yield compute_features(windows, profile.feature_specs(), profile.channel_names)


def _golden_windows(profile: Profile) -> NDArray[np.float32]:
    """Two healthy windows, a worn bearing, an imbalance, gaps, a dead and a stuck channel."""
    faults = [
        (),
        (Injection(kind="bearing_wear", start_s=0.0),),
        (Injection(kind="imbalance", start_s=0.0),),
        (Injection(kind="dropout", start_s=0.0, severity=0.1),),
    ]
    rate_hz = profile.sampling.rate_hz
    made = [
        _windows(profile, RotatingMachine(SEED, "golden", rate_hz, items), range(9, 11)) for items in faults
    ]
    windows = np.concatenate(made)
    windows[6, :, 1] = np.nan
    windows[7, :, 2] = windows[7, 0, 2]
    return windows


def _windows(profile: Profile, sensors: RotatingMachine, numbers: range) -> NDArray[np.float32]:
    """Consecutive windows, shape (n, W, C); the profile's windows do not overlap."""
    columns = [sensors.channels.index(c) for c in profile.channel_names]
    size = profile.sampling.window_samples
    return np.stack([sensors.block(k, size)[:, columns] for k in numbers])


RECIPE = FactoryRecipe(build_bundle, build_fault_bank)
