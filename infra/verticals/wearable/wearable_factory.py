"""The factory model of wearables and their fault bank, from simulated windows of a day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection, Kind
from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.wearable.wearable_sensors import CHANNELS, WearableSensors
from infra.factory_recipe import FactoryRecipe
from model_service import BundleFiles, compute_features, factory_models, fault_bank, logged_features
from model_service.verticals.wearable.rhythm_model import NAME, fit_rhythm
from schemas.manifest import TrainingFacts
from schemas.profile import Profile
from schemas.profile_file import find_profile

SEED = 20260101
DEVICES = 40
RUNS = 3
RUN_WINDOWS = 25
DAY_HOPS = 86400 * 5
START = datetime(2026, 1, 5, tzinfo=UTC)
SCRIPT = "infra/factory.py"
FAULT_AT_S = 40.0
FAULT_DEVICES = 8
FAULTS: dict[Kind, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "tachycardia": ((0.6, 0.8, 1.0), (1.4, 3.0)),
    "irregular_rhythm": ((0.8, 1.0), (8.0, 12.0)),
    "asystole": ((1.0,), (3.5, 5.0)),
}
"""Severities of each fault, and seconds after its onset at which windows of the bank end."""

Array = NDArray[np.float64]
Windows = NDArray[np.float32]


def build_bundle(devices: int = DEVICES) -> BundleFiles:
    """The bundle of the family; the same bytes on every machine."""
    profile = find_profile("wearable")
    facts = TrainingFacts(script=SCRIPT, seed=SEED, devices=devices, windows=devices * RUNS * RUN_WINDOWS)
    healthy = [list(healthy_runs(profile, number)) for number in range(devices)]
    every = np.concatenate([run for device in healthy for run in device])
    model = fit_rhythm(every, profile.feature_names, logged_features(profile))
    golden = golden_windows(profile)
    return factory_models.learnt_bundle(profile, profile.model.family, model, healthy, golden, facts, NAME)


def build_fault_bank(devices: int = FAULT_DEVICES) -> fault_bank.BankFile:
    """The effect of each fault on each feature."""
    profile = find_profile("wearable")
    logged = tuple(logged_features(profile).tolist())
    effects = {}
    for kind, (severities, after) in FAULTS.items():
        healthy = _bank_windows(profile, devices, after, ())
        effects[kind] = {
            str(severity): fault_bank.paired_effects(
                healthy, _bank_windows(profile, devices, after, (_fault(kind, severity),)), logged
            )
            for severity in severities
        }
    return fault_bank.BankFile(
        profile=profile.name,
        featureset=profile.featureset,
        features=profile.feature_names,
        logged=logged,
        seed=SEED,
        effects=effects,
    )


def features_of(profile: Profile, samples: Windows, ends: Sequence[int]) -> Array:
    """Features (n, F) of the windows that end with these samples of a recording (n, channels)."""
    size = profile.sampling.window_samples
    every = sliding_window_view(samples, size, axis=0)
    windows = np.moveaxis(every[np.asarray(ends) - size], 2, 1)
    specs = profile.feature_specs()
    return compute_features(np.ascontiguousarray(windows), specs, profile.channel_names)


def healthy_runs(profile: Profile, number: int) -> Iterator[Array]:
    """Features of runs of consecutive windows of one healthy wearer, drawn over a day."""
    sampling, sensors = profile.sampling, wearer(f"factory-{number}")
    size, hop = sampling.window_samples, sampling.hop_samples
    blocks = size // hop + RUN_WINDOWS - 1
    for first in np.random.default_rng([SEED, number]).integers(0, DAY_HOPS, RUNS).tolist():
        samples = np.concatenate([sensors.block(k, hop) for k in range(first, first + blocks)])
        yield features_of(
            profile, samples[:, _columns(profile)], [size + k * hop for k in range(RUN_WINDOWS)]
        )


def golden_windows(profile: Profile) -> Windows:
    """Windows without a fault, of each fault, of motion, gaps, a dead and a stuck channel."""
    at = profile.sampling.window_samples / profile.sampling.rate_hz
    faults: list[tuple[Injection, ...]] = [
        (),
        (Injection(kind="tachycardia", start_s=2 * at - 2.5),),
        (Injection(kind="irregular_rhythm", start_s=0.0),),
        (Injection(kind="asystole", start_s=2 * at - 3.5),),
        *((Injection(kind="lost_electrode", start_s=2 * at - 4.0, severity=s),) for s in (0.3, 0.6, 1.0)),
        (Injection(kind="motion", start_s=0.0, severity=0.5),),
        (Injection(kind="dropout", start_s=0.0, severity=0.1),),
    ]
    size = profile.sampling.window_samples
    windows = [wearer("golden", *items).block(1, size)[:, _columns(profile)] for items in faults]
    dead, stuck = windows[0].copy(), windows[0].copy()
    dead[:, 0] = np.nan
    stuck[:, 1] = stuck[0, 1]
    return np.stack([*windows, dead, stuck])


def wearer(device_id: str, *items: Injection, seed: int = SEED) -> WearableSensors:
    """The simulated sensors of one wearer."""
    return WearableSensors.of(GeneratorRequest(seed, device_id, 250.0, items, 0.0, START))


def _bank_windows(
    profile: Profile, devices: int, after: Sequence[float], items: tuple[Injection, ...]
) -> Array:
    """Features of a few windows of each wearer of the bank, shape (n, F)."""
    sampling, made = profile.sampling, []
    ends = [round((FAULT_AT_S + s) * sampling.rate_hz) for s in after]
    for number in range(devices):
        samples = wearer(f"bank-{number}", *items).block(0, max(ends))
        made.append(features_of(profile, samples[:, _columns(profile)], ends))
    return np.concatenate(made)


def _fault(kind: Kind, severity: float) -> Injection:
    return Injection(kind=kind, start_s=FAULT_AT_S, severity=severity)


def _columns(profile: Profile) -> list[int]:
    return [CHANNELS.index(name) for name in profile.channel_names]


RECIPE = FactoryRecipe(build_bundle, build_fault_bank)
