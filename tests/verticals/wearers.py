"""Wearers for laws about calibration: a profile with a pulse, its prior, windows, summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from edge_producer.window import Window
from schemas.config_spec import ConfigSpec, ParameterSpec
from schemas.profile import Profile
from schemas.profile_file import parse_profile
from schemas.row_schemas import TimeQuality
from schemas.tables import SUMMARIES
from schemas.verticals.wearable.wearer_prior import PARTS
from tests.feature_store.fleets import fill

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
FEATURES = ("heart_rate_mean", "motion_mean", "quality_mean")
PULSE = "heart_rate_mean"
TEXT = """
name = "pulse"
[sampling]
rate_hz = 1.0
window_samples = 1
hop_samples = 1
[[channels]]
name = "heart_rate"
unit = "1/min"
min = 0.0
max = 300.0
[[channels]]
name = "motion"
unit = "m/s2"
min = 0.0
max = 50.0
[[channels]]
name = "quality"
unit = "1"
min = 0.0
max = 1.0
[features]
set = "pulse"
[[features.compute]]
channel = "heart_rate"
kinds = ["mean"]
[[features.compute]]
channel = "motion"
kinds = ["mean"]
[[features.compute]]
channel = "quality"
kinds = ["mean"]
[decision]
idle = "none"
fail_safe = "hold"
function = "personal_alarm"
function_timeout_s = 0.9
calibrates = true
[[decision.rules]]
action = "look"
enter = 0.6
leave = 0.4
hold_s = 20.0
[[decision.rules]]
action = "asystole"
enter = 0.9
leave = 0.5
stands = true
[filter]
p = 1.0
p_min = 0.05
[summaries]
period_s = 60.0
[drift]
window_s = 60.0
"""
BOUNDS = {
    "mean": (30.0, 120.0), "between": (0.5, 25.0), "low": (30.0, 120.0), "high": (30.0, 120.0),
    "within": (0.5, 25.0), "within_sd": (0.05, 1.5), "within_low": (0.5, 25.0), "within_high": (0.5, 25.0),
    "design": (1.0, 600.0),
}  # fmt: skip
PRIOR = {
    f"{PULSE}_{part}": value
    for part, value in zip(PARTS, (66.0, 9.0, 45.0, 90.0, 5.0, 0.3, 2.5, 10.0, 8.0), strict=True)
} | {"quiet_quality_mean_least": 0.8, "quiet_motion_mean_most": 0.5, "alarm_z": 4.0, "wearers": 30.0}


def parameters(feature: str = PULSE, quality: str = "quality_mean", motion: str = "motion_mean"):
    """The schema of a prior."""
    return (
        *(ParameterSpec(name=f"{feature}_{part}", unit="1", min=a, max=b) for part, (a, b) in BOUNDS.items()),
        ParameterSpec(name=f"quiet_{quality}_least", unit="1", min=0.8, max=0.8),
        ParameterSpec(name=f"quiet_{motion}_most", unit="1", min=0.5, max=0.5),
        ParameterSpec(name="alarm_z", unit="1", min=3.0, max=6.0),
        ParameterSpec(name="wearers", unit="1", min=0.0, max=1e6),
    )


def spec(**given) -> ConfigSpec:
    """The family of the prior."""
    fields = {
        "family": "prior_wearable", "trainer": "wearable_prior", "gates": ("wearable_prior",),
        "judge": "wearer_alarms", "every_s": 86400.0, "unit": "device", "parameters": parameters(),
    }  # fmt: skip
    return ConfigSpec(**{**fields, **given})


def pulse_profile() -> Profile:
    """A wearable with a pulse, which `Pulse` scores."""
    return parse_profile(TEXT, "pulse").model_copy(update={"configs": (spec(),)})


class Pulse:
    """A predictor: features are the samples; the score is 1 where the pulse is 0."""

    featureset = "pulse@1"
    bin_edges: Mapping[str, np.ndarray] = {}

    def __init__(self, version: str = "pulse-1") -> None:
        self.version = version

    def score(self, device_id, samples):
        assert device_id
        pulse = float(samples[0, 0])
        return samples[0].astype(np.float32), None if np.isnan(pulse) else float(pulse == 0)


def window(heart_rate: float, k: float, device_id: str = "d-1", motion: float = 0.0, quality: float = 1.0):
    """The window that ends k seconds after the start."""
    samples = np.array([[heart_rate, motion, quality]], dtype=np.float32)
    end = START + timedelta(seconds=k)
    return Window(device_id, samples, end, round(k * 1e9), TimeQuality.SYNCHRONISED, 0.0)


def wearer_summaries(
    pulses: Mapping[str, tuple[float, float]],
    hours: Sequence[int],
    feature: str = PULSE,
    quality: str = "quality_mean",
    motion: str = "motion_mean",
    *,
    begin: datetime = START,
    profile: str = "pulse",
    seed: int = 1,
) -> pa.Table:
    """Summaries of sixty windows a minute: ten quiet minutes an hour, and ten on the move at 140.

    Args:
        pulses: Mean and spread at rest by wearer; hours differ by half the spread.
        hours: Since the beginning.
    """
    rng, found = np.random.default_rng(seed), []
    for device, (mean, spread) in pulses.items():
        for hour in hours:
            level = mean + rng.normal(0, spread / 2)
            for minute in range(20):
                at, rest = begin + timedelta(hours=hour, minutes=minute), minute < 10
                values = rng.normal(level, spread * 0.87, 60) if rest else rng.normal(140, 5, 60)
                moved = np.full(60, 0.1 if rest else 9.0)
                for name, own in (
                    (feature, values), (quality, np.ones(60)), (motion, moved), ("score", np.zeros(60))
                ):  # fmt: skip
                    moments = own.mean(), ((own - own.mean()) ** 2).sum(), own.min(), own.max()
                    found.append((device, name, at, *map(float, moments)))
    names = ("device_id", "feature", "period_start", "mean", "m2", "min", "max")
    columns = dict(zip(names, zip(*found, strict=True), strict=True))
    n = len(found)
    fixed = {"n": [60] * n, "part": [0] * n, "period_s": [60.0] * n, "n_missing": [0] * n}
    return fill(SUMMARIES.schema, profile=[profile] * n, **columns, **fixed)
