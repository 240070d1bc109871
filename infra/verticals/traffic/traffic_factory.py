"""The factory model of intersections and their fault bank, from simulated windows of a fortnight."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection, Kind
from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.traffic.intersection_sensors import CHANNELS, CHUNK_S, IntersectionSensors
from infra.factory_recipe import FactoryRecipe
from infra.verticals.traffic.forecast_fit import fitted_forecasts
from model_service import (
    BundleFiles,
    bundle_files,
    compute_features,
    factory_models,
    fault_bank,
    logged_features,
)
from model_service.verticals.traffic.intersection_model import NAME, fit_intersection
from schemas.calendar_features import Calendar
from schemas.manifest import TrainingFacts
from schemas.profile import Profile
from schemas.profile_file import find_profile

SEED = 20260101
DEVICES = 40
RUNS = 12
RUN_WINDOWS = 60
RUN_STRIDE = 7
"""Of all windows of a quarter of an hour every seventh: 14 s lie between two, four fifths are shared."""
FORTNIGHT_CHUNKS = 14 * 86400 // CHUNK_S
START = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday."""
SCRIPT = "infra/factory.py"
EVENING = 68
"""Quarter of an hour that begins at 17 h."""
FAULT_AT_S = EVENING * CHUNK_S - 300.0
FAULT_DEVICES = 8
FAULT_WINDOWS = (20, 40)
"""Of the quarter's windows; five minutes and more after the fault began."""
FAULTS: dict[Kind, tuple[float, ...]] = {"incident": (0.5, 0.75, 1.0)}
"""A failed detector is none of them: the score does not tell it from an empty street or a long red."""
FAULTY_CHANNELS = ("queue_n", "queue_e", "queue_ns", "queue_ew")
"""Approaches and whole through phases, in turn: turning ones are often empty, which hides a fault."""

SLOWED_SHARE, MOST_SLOWED = 0.05, 0.3
"""Share of an approach's windows in which a van unloads, and how much of the flow it takes at most."""

Array = NDArray[np.float64]
Windows = NDArray[np.float32]


def build_bundle(devices: int = DEVICES) -> BundleFiles:
    """The bundle of the family; the same bytes on every machine."""
    profile = find_profile("traffic")
    facts = TrainingFacts(script=SCRIPT, seed=SEED, devices=devices, windows=devices * RUNS * RUN_WINDOWS)
    healthy = [list(healthy_runs(profile, number)) for number in range(devices)]
    rows = np.concatenate([run for device in healthy for run in device])
    model = fit_intersection(profile, rows, fitted_forecasts(profile, healthy, SEED))
    golden, family = golden_windows(profile), profile.model.family
    return of_any_rate(factory_models.learnt_bundle(profile, family, model, healthy, golden, facts, NAME))


def of_any_rate(made: BundleFiles) -> BundleFiles:
    """The bundle for any sampling rate: a sample is a second of the street, however fast that is played."""
    manifest = made.manifest.model_copy(update={"rate_hz": None, "version": "", "files": {}})
    return bundle_files.build_bundle(manifest, made.model, made.golden)


def build_fault_bank(devices: int = FAULT_DEVICES) -> fault_bank.BankFile:
    """The effect of each fault on each feature, at the evening peak."""
    profile = find_profile("traffic")
    logged = tuple(logged_features(profile).tolist())
    healthy = _bank_windows(profile, devices, None, 0.0)
    effects = {
        kind: {
            str(severity): fault_bank.paired_effects(
                healthy, _bank_windows(profile, devices, kind, severity), logged
            )
            for severity in severities
        }
        for kind, severities in FAULTS.items()
    }
    return fault_bank.BankFile(
        profile=profile.name,
        featureset=profile.featureset,
        features=profile.feature_names,
        logged=logged,
        seed=SEED,
        effects=effects,
    )


def _bank_windows(profile: Profile, devices: int, kind: Kind | None, severity: float) -> Array:
    """Features of a few windows of each intersection of the bank, shape (n, F)."""
    made = []
    for number in range(devices):
        channel = FAULTY_CHANNELS[number % len(FAULTY_CHANNELS)]
        fault = () if kind is None else (_fault(kind, severity, channel),)
        made.append(
            quarter_features(profile, _sensors(f"bank-{number}", *fault), EVENING)[list(FAULT_WINDOWS)]
        )
    return np.concatenate(made)


def _fault(kind: Kind, severity: float, channel: str) -> Injection:
    return Injection(kind=kind, start_s=FAULT_AT_S, severity=severity, channel=channel)


def healthy_runs(profile: Profile, number: int) -> Iterator[Array]:
    """Features of quarters of an hour of one intersection, drawn over a fortnight."""
    sensors, vans = _sensors(f"factory-{number}"), np.random.default_rng([SEED, number, 1])
    for chunk in np.random.default_rng([SEED, number]).integers(0, FORTNIGHT_CHUNKS, RUNS):
        yield with_vans(profile, quarter_features(profile, sensors, int(chunk)), vans)


def with_vans(profile: Profile, features: Array, rng: np.random.Generator) -> Array:
    """Rows (n, F), some with a little discharge missing, which no model may take for an incident.

    The simulated streets know no van that unloads; without them nothing would ever be missing, and a model
    would look at nothing else.
    """
    columns = [at for at, spec in enumerate(profile.feature_specs()) if spec.kind == "discharge"]
    shape = len(features), len(columns)
    slowed = np.where(rng.random(shape) < SLOWED_SHARE, rng.uniform(0.0, MOST_SLOWED, shape), 0.0)
    found = features.copy()
    found[:, columns] = np.maximum(found[:, columns], slowed)
    return found


def quarter_features(profile: Profile, sensors: IntersectionSensors, chunk: int) -> Array:
    """Features of windows of one quarter of an hour, shape (``RUN_WINDOWS``, F)."""
    size = profile.sampling.window_samples
    block = sensors.block(chunk, CHUNK_S)[:, _columns(profile)]
    firsts = np.arange(RUN_WINDOWS) * RUN_STRIDE * profile.sampling.hop_samples
    windows = np.moveaxis(sliding_window_view(block, size, axis=0)[firsts], 2, 1)
    specs = [spec for spec in profile.feature_specs() if spec.sources]
    begin_us = int(START.timestamp() * 1e6) + chunk * CHUNK_S * 1_000_000
    ends_us = begin_us + ((firsts + size) / profile.sampling.rate_hz * 1e6).astype(np.int64)
    measured = compute_features(np.ascontiguousarray(windows), specs, profile.channel_names)
    return np.hstack([measured, Calendar.of(profile.features).rows(ends_us)])


def golden_windows(profile: Profile) -> Windows:
    """Windows without a fault, of an incident, a failed detector, gaps; a dead and a stuck channel."""
    faults: list[tuple[Injection, ...]] = [
        (),
        (_fault("incident", 1.0, "queue_ns"),),
        (Injection(kind="detector_failure", start_s=0.0, channel="queue_ew"),),
        (Injection(kind="dropout", start_s=0.0, severity=0.1),),
    ]
    size = profile.sampling.window_samples
    made = [
        _sensors("golden", *items).block(EVENING, CHUNK_S)[: 2 * size, _columns(profile)].reshape(2, size, -1)
        for items in faults
    ]
    windows = np.concatenate(made)
    windows[6, :, 1] = np.nan
    windows[7, :, 2] = windows[7, 0, 2]
    return windows


def _sensors(device_id: str, *items: Injection) -> IntersectionSensors:
    return IntersectionSensors.of(GeneratorRequest(SEED, device_id, 1.0, items, 0.0, START))


def _columns(profile: Profile) -> list[int]:
    return [CHANNELS.index(name) for name in profile.channel_names]


RECIPE = FactoryRecipe(build_bundle, build_fault_bank)
