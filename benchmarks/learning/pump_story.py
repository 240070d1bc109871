"""Pumps that no file of the project knows: a profile drafted from their history, and a model fitted to it.

No bank of known faults exists for them, as for any profile of a user's: what a fault looks like is known from
generic ones alone.
"""

from __future__ import annotations

import zlib
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from benchmarks.learning.fleet_story import EARLIEST, LATEST, START, Array, FleetStory
from infra.drafting.profile_draft import draft
from infra.fitting.fit_files import FitWishes, fit_files
from infra.reading.recording_reader import ReadingWishes
from infra.replay import ReplayRequest
from model_service.models.bundle_files import BundleFiles
from model_service.models.fault_bank import FaultBank, parse_bank
from schemas.profile import Profile

DEVICES, WINDOWS, HISTORY = 8, 600, 600
SPANS = {
    "window_samples": "1",
    "hop_samples": "1",
    "kinds": '["mean"]',
    "period_s": "5",
    "window_s": "5",
    "lateness_s": "2",
    "min_effect": "3.0\ncooldown_windows = 6\nwarmup_windows = 4",
    "p": "0.2",
}
QUICK = """
[source]
time_field = "time"

[training]
min_effective_rows = 40.0
max_wait_s = 60.0
cooldown_s = 20.0

[rollout]
trial_windows = 5
watch_windows = 6
soak_s = 3.0
"""
"""Spans of a fleet that lives for minutes, as ``machine`` has them."""
CHANNELS = ("pressure", "flow", "motor_current")
RECALIBRATED, OFFSET, GAIN, WEAR = "recalibrated", 0.5, 1.25, "wear"


class PumpModel(NamedTuple):
    """What a history made."""

    profile: Profile
    bundle: BundleFiles
    bank: FaultBank


HARMLESS_PUMPS = ("pumps: pressure +0.5 on all", "pumps: motor current x 1.25 on all")
FAULTY_PUMPS = ("pumps: flow wears away on all", "pumps: flow wears away slowly on 75 %")
WEARS = {FAULTY_PUMPS[0]: (0.03, 1.0), FAULTY_PUMPS[1]: (0.006, 0.75)}
"""Flow lost each second, and the share of the pumps that lose it."""
PUMP_CELLS = (*HARMLESS_PUMPS, *FAULTY_PUMPS, "pumps: nothing")


def pump_story(cell: str, seed: int, devices: int = DEVICES, windows: int = WINDOWS) -> FleetStory:
    """A fleet of pumps, whose change comes at a time drawn by the seed."""
    made = pump_model()
    rng = np.random.default_rng([seed, zlib.crc32(cell.encode())])
    at = round(rng.uniform(EARLIEST, LATEST) * windows)
    rows = np.stack([measured(seed, d, windows) for d in range(devices)])
    faulty = np.zeros(rows.shape[:2], dtype=bool)
    since = np.maximum(np.arange(windows) + 1 - at, 0.0)
    if cell == HARMLESS_PUMPS[0]:
        rows[:, :, 0] += OFFSET * (since > 0)
    elif cell == HARMLESS_PUMPS[1]:
        rows[:, :, 2] *= np.where(since > 0, GAIN, 1.0)
    elif cell in WEARS:
        per_s, share = WEARS[cell]
        worn = np.arange(devices) < share * devices
        lost = per_s * since
        rows[:, :, 1] -= np.where(worn[:, None], lost, 0.0)
        faulty = worn[:, None] & (lost > 0)
    changed = () if cell == PUMP_CELLS[-1] else (at,)
    return FleetStory(cell, seed, made.profile, made.bundle, made.bank, np.round(rows, 3), faulty, changed)


def measured(seed: int, number: int, seconds: int) -> Array:
    """What a healthy pump measures, shape (seconds, 3)."""
    rng = np.random.default_rng([seed, 7, number])
    own, noise = 0.02 * rng.normal(size=3), rng.normal(size=(seconds, 4))
    demand = 0.5 + 0.02 * noise[:, 0]
    pressure = 6 - 1.2 * demand + 0.03 * noise[:, 1] + own[0]
    flow = 42 * demand + 0.4 * noise[:, 2] + own[1]
    return np.stack([pressure, flow, 8 + 9 * demand + 0.1 * noise[:, 3] + own[2]], axis=1)


@lru_cache(maxsize=1)
def pump_model() -> PumpModel:
    """Profile and model of a history of six pumps, as ``profile init`` and ``model fit`` make them."""
    with TemporaryDirectory(prefix="edgeloop-eval-") as name:
        path = Path(name) / "history.csv"
        path.write_text(_history(), encoding="utf-8")
        text = _quick(draft(path, "pump", ReadingWishes(device_column="device")).text)
        given = Path(name) / "pump.toml"
        given.write_text(text, encoding="utf-8")
        recording = ReplayRequest((path,), str(given)).read()
        found = fit_files(recording, text, FitWishes("pump", None, (), 1.0, "UTC"), lambda _: None)
        fitted = found.fitted
        return PumpModel(found.profile, fitted.bundle, parse_bank(fitted.bank.to_bytes()))


def _history() -> str:
    rows = [measured(99, d, HISTORY) for d in range(6)]
    lines = [
        ",".join([(START + timedelta(seconds=k)).isoformat(), f"pump-{d}", *(f"{v:.3f}" for v in rows[d][k])])
        for k in range(HISTORY)
        for d in range(6)
    ]
    return "\n".join([",".join(["time", "device", *CHANNELS]), *lines]) + "\n"


def _quick(text: str) -> str:
    lines = []
    for line in text.splitlines():
        key = line.split("=")[0].strip()
        lines.append(f"{key} = {SPANS[key]}" if key in SPANS else line)
    return "\n".join(lines) + QUICK
