"""The factory model of robots and their fault bank, from simulated cycles of their program."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.robot.robot_sensors import CHANNELS, RobotSensors
from edge_producer.verticals.robot.work_program import CYCLE_S
from infra.factory_recipe import FactoryRecipe
from model_service import BundleFiles, compute_features, fault_bank, logged_features
from model_service.verticals.robot.residual_bundle import residual_bundle
from schemas.manifest import TrainingFacts
from schemas.profile import Profile
from schemas.profile_file import find_profile

SEED = 20260101
DEVICES = 24
RUNS = 3
RUN_WINDOWS = 125
"""Windows of one cycle that touch: a run is a whole cycle."""
HORIZON_CYCLES = 1000
START = datetime(2026, 1, 5, tzinfo=UTC)
SCRIPT = "infra/factory.py"
FAULTS = {f"joint_wear_{j}": f"current_{j}" for j in (1, 2)}
"""Wear by joint, with the channel that the generator takes. A collision or a slip is over before anything
could be learnt of it: their outputs have laws of their own."""
SEVERITIES = (0.5, 1.0, 2.0)
FAULT_DEVICES = 8
FAULT_CYCLE = 4
FAULT_WINDOWS = (20, 24, 61, 65, 101, 105)
"""Of the cycle's: in the middle of the arm's moves, where a worn gear shows."""
GOLDEN_WINDOWS = (24, 26)

Array = NDArray[np.float64]
Windows = NDArray[np.float32]


def build_bundle(devices: int = DEVICES) -> BundleFiles:
    """The bundle of the family; the same bytes on every machine."""
    profile = find_profile("robot")
    facts = TrainingFacts(script=SCRIPT, seed=SEED, devices=devices, windows=devices * RUNS * RUN_WINDOWS)
    healthy = [list(healthy_runs(profile, number)) for number in range(devices)]
    return residual_bundle(profile, healthy, golden_windows(profile), facts)


def build_fault_bank(devices: int = FAULT_DEVICES) -> fault_bank.BankFile:
    """The effect of each fault on each feature, in moves of the arm."""
    profile = find_profile("robot")
    logged = tuple(logged_features(profile).tolist())
    healthy = _bank_windows(profile, devices)
    effects = {
        kind: {
            str(severity): fault_bank.paired_effects(
                healthy,
                _bank_windows(profile, devices, injected("joint_wear", severity, channel)),
                logged,
            )
            for severity in SEVERITIES
        }
        for kind, channel in FAULTS.items()
    }
    return fault_bank.BankFile(
        profile=profile.name,
        featureset=profile.featureset,
        features=profile.feature_names,
        logged=logged,
        seed=SEED,
        effects=effects,
    )


def injected(kind: str, severity: float = 1.0, channel: str = "") -> Injection:
    """A change that is there from the beginning, grown."""
    return Injection(kind=kind, start_s=0.0, severity=severity, channel=channel, ramp_s=1e-3)


def cycle_windows(
    profile: Profile, device: str, cycle: int, *items: Injection, hop: int | None = None
) -> Windows:
    """Windows of one cycle of a robot, shape (n, W, C); those of ``hop`` samples apart, or that touch."""
    rate_hz, size = profile.sampling.rate_hz, profile.sampling.window_samples
    sensors = RobotSensors.of(GeneratorRequest(SEED, device, rate_hz, items, 0.0, START))
    samples = sensors.block(cycle, round(CYCLE_S * rate_hz))
    ordered = samples[:, [CHANNELS.index(name) for name in profile.channel_names]]
    every = sliding_window_view(ordered, size, axis=0)[:: hop or size]
    return np.ascontiguousarray(np.moveaxis(every, 2, 1))


def cycle_features(profile: Profile, device: str, cycle: int, *items: Injection) -> Array:
    """Features of the windows of one cycle, shape (``RUN_WINDOWS``, F)."""
    windows = cycle_windows(profile, device, cycle, *items)
    return compute_features(windows, profile.feature_specs(), profile.channel_names)


def healthy_runs(profile: Profile, number: int) -> Iterator[Array]:
    """Features of a few cycles of one healthy robot."""
    rng = np.random.default_rng([SEED, number])
    for cycle in rng.integers(0, HORIZON_CYCLES, RUNS):
        yield cycle_features(profile, f"factory-{number}", int(cycle))


def golden_windows(profile: Profile) -> Windows:
    """Windows without a fault, of a collision, a slip, a worn gear, with gaps; a dead and a stuck channel."""
    at = [*GOLDEN_WINDOWS]
    kinds = ((), ("collision",), ("slip",), ("joint_wear",))
    made = [
        cycle_windows(profile, "golden", 1, *(injected(kind, channel="current_1") for kind in named))[at]
        for named in kinds
    ]
    gaps = cycle_windows(profile, "golden", 1, injected("dropout", 0.1))[at]
    windows = np.concatenate([*made, gaps])
    windows[8, :, 1] = np.nan
    windows[9, :, 2] = windows[9, 0, 2]
    return windows


def _bank_windows(profile: Profile, devices: int, *items: Injection) -> Array:
    """Features of a few windows of each robot of the bank, shape (n, F)."""
    made = [cycle_features(profile, f"bank-{n}", FAULT_CYCLE, *items) for n in range(devices)]
    return np.concatenate([features[list(FAULT_WINDOWS)] for features in made])


RECIPE = FactoryRecipe(build_bundle, build_fault_bank)
