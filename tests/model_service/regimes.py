"""Simulated machines in old and new regimes, as training rows; and what gates need around a candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from edge_producer.sources.scenario import Injection
from edge_producer.verticals.machine.rotating_machine import RotatingMachine
from model_service.gates.evaluate import GateInputs
from model_service.models.bundle_files import BundleFiles
from model_service.models.candidate import build_candidate
from model_service.models.fault_bank import load_fault_bank
from model_service.models.features import compute
from model_service.models.mahalanobis import Mahalanobis
from model_service.registry.bundle_store import factory_bundle_of
from schemas.manifest import Lineage
from schemas.profile import Profile
from tests.quick_machine_profile import quick_machine_profile

MACHINE = quick_machine_profile()
CHAMPION = factory_bundle_of("machine")
OLD = Mahalanobis.of(CHAMPION.manifest)
BANK = load_fault_bank("machine")
START = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
TRAIN, HOLDOUT = range(60, 63), range(80, 82)
LINEAGE = Lineage(
    run_id="run-1", cut=7, pin="run-run-1", known_at=START + timedelta(hours=1), event_from=START,
    event_to=START, code="test", champion=CHAMPION.manifest.version, rows=60, effective_rows=40.0,
)  # fmt: skip
EXPECTED = {name: getattr(LINEAGE, name) for name in ("run_id", "cut", "pin", "known_at", "champion")}

Story = Callable[[int], Sequence[Injection]]
"""What happens to machine number i."""


def healthy(_number: int) -> tuple[Injection, ...]:
    return ()


def warmer(offset: float = 8.0, every: int = 1) -> Story:
    """Every so many machines read so much more temperature."""
    item = Injection(kind="recalibration", start_s=0, channel="temperature", offset=offset)
    return lambda number: (item,) if number % every == 0 else ()


def worn(severity: float, kind: str = "bearing_wear") -> Story:
    return lambda _number: (Injection(kind=kind, start_s=40.0, severity=severity),)


def windows(story: Story, spans: range, device: int, seed: int = 7) -> np.ndarray:
    """Raw windows of one machine, shape (n, W, C)."""
    sensors = RotatingMachine(seed, name(device), MACHINE.sampling.rate_hz, tuple(story(device)))
    return np.stack([sensors.block(k, MACHINE.sampling.window_samples) for k in spans])


def name(device: int) -> str:
    return f"m-{device:02d}"


@cache
def features(story: Story, spans: range, devices: int = 20, seed: int = 7) -> np.ndarray:
    """Shape (devices, windows, F)."""
    specs, channels = MACHINE.feature_specs(), MACHINE.channel_names
    return np.stack([compute(windows(story, spans, d, seed), specs, channels) for d in range(devices)])


def table(
    found: np.ndarray,
    spans: range,
    part: str = "train",
    label: str | None = None,
    weights: np.ndarray | None = None,
    first: int = 0,
) -> pa.Table:
    """Training rows of features (devices, windows, F), as the lake would give them."""
    devices, count, width = found.shape
    n = devices * count
    at = [START + timedelta(seconds=k + 1) for k in spans] * devices
    columns: dict[str, Any] = {
        "device_id": np.repeat([name(first + d) for d in range(devices)], count),
        "boot_id": pa.array([1] * n, pa.int64()),
        "seq": pa.array(list(spans) * devices, pa.int64()),
        "event_time": pa.array(at, pa.timestamp("us", tz="UTC")),
        "known_at": pa.array(at, pa.timestamp("us", tz="UTC")),
        "model_version": [CHAMPION.manifest.version] * n,
        "score": pa.array(OLD.score(found.reshape(n, width)), pa.float32()),
        **{f: pa.array(found[:, :, i].ravel(), pa.float32()) for i, f in enumerate(MACHINE.feature_names)},
        "weight": np.full(n, 10.0) if weights is None else weights,
        "label": pa.array([label] * n, pa.string()),
        "part": [part] * n,
    }
    return pa.table(columns)


def rows(story: Story, devices: int = 20, seed: int = 7) -> pa.Table:
    """Both parts of a story."""
    parts = [
        table(features(story, spans, devices, seed), spans, part)
        for spans, part in ((TRAIN, "train"), (HOLDOUT, "holdout"))
    ]
    return pa.concat_tables(parts)


def candidate(taken: pa.Table, moved: Sequence[str] = ("temperature",), kind: str = "anomaly") -> BundleFiles:
    return build_candidate(MACHINE, taken, CHAMPION, moved, LINEAGE, 1, 1, kind)


def unhurried(**gates: Any) -> Profile:
    """The machine profile with bounds of its own, and room for the times that a busy machine measures."""
    bounds = {"max_latency_ms": 1e4, "max_latency_ratio": 1e3, **gates}
    return MACHINE.model_copy(update={"gates": MACHINE.gates.model_copy(update=bounds)})


def gate_inputs(taken: pa.Table, moved: Sequence[str] = ("temperature",), **changes: Any) -> GateInputs:
    """A candidate as the gate would find it; ``gates`` overrides the profile's bounds."""
    profile = unhurried(**changes.pop("gates", {}))
    kind = changes.pop("kind", "anomaly")
    cohorts = {name(d): f"machine/{'north' if d % 2 else 'south'}/g/x86" for d in range(30)}
    built = changes["candidate"] if "candidate" in changes else candidate(taken, moved, kind)
    found = GateInputs(
        profile, built, CHAMPION, taken, tuple(moved), EXPECTED, cohorts, BANK, shown=True, unlearnt=True
    )
    return replace(found, **changes)
