"""The factory model of intersections: healthy windows of a simulated fortnight, and golden ones."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.traffic.intersection_sensors import CHANNELS, CHUNK_S, IntersectionSensors
from model_service import BundleFiles, compute_features, factory_models
from schemas.manifest import TrainingFacts
from schemas.profile import Profile

SEED = 20260101
DEVICES = 40
RUNS = 12
RUN_WINDOWS = 3
"""Windows of a run: a quarter of an hour of five-minute windows."""
FORTNIGHT_CHUNKS = 14 * 86400 // CHUNK_S
START = datetime(2026, 1, 5, tzinfo=UTC)
"""A Monday."""
SCRIPT = "infra/verticals/traffic/traffic_factory.py"
DRAFT = Path(__file__).parents[3] / "schemas" / "verticals" / "traffic" / "traffic.toml"

Array = NDArray[np.float64]
Windows = NDArray[np.float32]


def todays_profile() -> Profile:
    """The draft without the keys that wait for the contract: what is left can be built and run today."""
    content: dict[str, Any] = tomllib.loads(DRAFT.read_text(encoding="utf-8"))
    del content["configs"], content["model"]["outputs"]
    for key in ("calendar", "time_zone"):
        del content["features"][key]
    for key in ("function", "actions", "numbers"):
        del content["decision"][key]
    return Profile.model_validate(content)


def build(profile: Profile, devices: int = DEVICES) -> BundleFiles:
    """The bundle; the same bytes on every machine."""
    facts = TrainingFacts(script=SCRIPT, seed=SEED, devices=devices, windows=devices * RUNS * RUN_WINDOWS)
    healthy = [list(healthy_runs(profile, number)) for number in range(devices)]
    return factory_models.factory_bundle(profile, healthy, golden_windows(profile), facts)


def healthy_runs(profile: Profile, number: int) -> Iterator[Array]:
    """Features of quarters of an hour of one intersection, drawn over a fortnight."""
    sensors = _sensors(f"factory-{number}")
    for chunk in np.random.default_rng([SEED, number]).integers(0, FORTNIGHT_CHUNKS, RUNS):
        windows = _windows(profile, sensors, int(chunk))
        yield compute_features(windows, profile.feature_specs(), profile.channel_names)


def golden_windows(profile: Profile) -> Windows:
    """Windows without a fault, of an incident, a failed detector, gaps; a dead and a stuck channel."""
    at = 68 * CHUNK_S  # 17 h
    faults: list[tuple[Injection, ...]] = [
        (),
        (Injection(kind="incident", start_s=at - 600.0, channel="queue_ns"),),
        (Injection(kind="detector_failure", start_s=0.0, channel="queue_ew"),),
        (Injection(kind="dropout", start_s=0.0, severity=0.1),),
    ]
    made = [_windows(profile, _sensors("golden", *items), 68)[:2] for items in faults]
    windows = np.concatenate(made)
    windows[6, :, 1] = np.nan
    windows[7, :, 2] = windows[7, 0, 2]
    return windows


def _sensors(device_id: str, *items: Injection) -> IntersectionSensors:
    return IntersectionSensors.of(GeneratorRequest(SEED, device_id, 1.0, items, 0.0, START))


def _windows(profile: Profile, sensors: IntersectionSensors, chunk: int) -> Windows:
    """Windows of a quarter of an hour that do not overlap, shape (n, W, C)."""
    size = profile.sampling.window_samples
    columns = [CHANNELS.index(name) for name in profile.channel_names]
    block = sensors.block(chunk, CHUNK_S)[:, columns]
    return block[: CHUNK_S // size * size].reshape(-1, size, len(columns))
