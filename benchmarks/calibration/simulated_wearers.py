"""A population of wearers that is not what the prior assumes: skewed, heavy-tailed, slow, and by groups.

Nothing of the trainer's or the device's is used here. A wearer's resting pulse is a mixture (the trained
have a low one) with a skewed spread; windows go up and down with the time of day, drift for hours (AR(1)),
and have heavy tails. Some wearers have few quiet windows a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.signal import lfilter

from schemas.instants import to_us
from schemas.tables import SUMMARIES

Floats = NDArray[np.float64]
WINDOW_S = 10.0
PER_MINUTE = 6
MINUTES = 1440


@dataclass(frozen=True)
class SimulatedWearer:
    """One wearer.

    Attributes:
        level: Resting pulse, 1/min, over days and nights.
        spread: Of fast variation, 1/min.
        swing: Amplitude over a day, 1/min.
        drift: Standard deviation of slow variation, 1/min.
        quiet_share: Share of minutes at rest.
    """

    device: str
    level: float
    spread: float
    swing: float
    drift: float
    quiet_share: float
    seed: int

    def pulse(self, minutes: int, begin: int = 0) -> Floats:
        """Windows of quiet and other minutes alike, as if at rest; shape (6 · minutes,), 1/min."""
        rng = np.random.default_rng([self.seed, begin])
        n = minutes * PER_MINUTE
        at = (begin + np.arange(n) / PER_MINUTE) / MINUTES
        keep = np.exp(-1.0 / (PER_MINUTE * 90.0))
        pushes = rng.normal(0, self.drift * np.sqrt(1 - keep**2), n)
        pushes[0] = rng.normal(0, self.drift)
        slow = lfilter([1.0], [1.0, -keep], pushes)
        fast = self.spread * rng.standard_t(5, n) / np.sqrt(5 / 3)
        return self.level + self.swing * np.sin(2 * np.pi * (at - 0.4)) + slow + fast

    def quiet_minutes(self, minutes: int, begin: int = 0) -> NDArray[np.bool_]:
        """Which minutes are at rest: stretches of some twenty minutes; shape (minutes,)."""
        rng = np.random.default_rng([self.seed, begin, 1])
        stay = 1 - 1 / 20.0
        quiet = np.empty(minutes, dtype=bool)
        now = rng.random() < self.quiet_share
        for k in range(minutes):
            if rng.random() > stay:
                now = rng.random() < self.quiet_share
            quiet[k] = now
        return quiet


def population(number: int, seed: int, prefix: str, trained: float = 0.15) -> list[SimulatedWearer]:
    """Wearers.

    Args:
        trained: Share with a resting pulse of an athlete.
    """
    rng, found = np.random.default_rng(seed), []
    for k in range(number):
        is_trained = rng.random() < trained
        level = 48.0 + rng.gamma(2.0, 1.5) if is_trained else 55.0 + rng.gamma(2.2, 5.0)
        found.append(
            SimulatedWearer(
                device=f"{prefix}-{k:03}",
                level=float(level),
                spread=float(1.2 + rng.gamma(2.0, 0.8)),
                swing=float(rng.gamma(4.0, 0.8)),
                drift=float(1.0 + rng.gamma(2.0, 0.7)),
                quiet_share=float(rng.choice([0.03, 0.2, 0.5], p=[0.3, 0.4, 0.3])),
                seed=int(rng.integers(2**31)),
            )
        )
    return found


def minute_summaries(wearers: Sequence[SimulatedWearer], minutes: int, begin: datetime) -> pa.Table:
    """What these wearers' devices send: a summary a minute of pulse, motion, quality and score."""
    parts: dict[str, list[Floats]] = {name: [] for name in ("start", "mean", "m2", "min", "max")}
    ids: list[str] = []
    features: list[str] = []
    for wearer in wearers:
        quiet = wearer.quiet_minutes(minutes)
        pulse = wearer.pulse(minutes).reshape(minutes, PER_MINUTE)
        pulse[~quiet] += 45.0
        moved = np.where(quiet, 0.1, 5.0)[:, None] * np.ones(PER_MINUTE)
        columns = {
            "pulse_mean": pulse,
            "motion_mean": moved,
            "quality_mean": 0 * pulse + 1,
            "score": 0 * pulse,
        }
        for name, values in columns.items():
            ids += [wearer.device] * minutes
            features += [name] * minutes
            parts["start"].append(np.arange(minutes, dtype=np.float64))
            parts["mean"].append(values.mean(axis=1))
            parts["m2"].append(((values - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
            parts["min"].append(values.min(axis=1))
            parts["max"].append(values.max(axis=1))
    joined = {name: np.concatenate(found) for name, found in parts.items()}
    starts = to_us(begin) + (joined.pop("start") * 60e6).astype(np.int64)
    n = len(ids)
    known = {
        "device_id": ids, "feature": features, "period_start": starts, "n": [PER_MINUTE] * n, "part": [0] * n,
        "n_missing": [0] * n, "boot_id": [1] * n, "model_version": ["m-1"] * n, "period_s": [60.0] * n,
        **joined,
    }  # fmt: skip
    names = [f for f in SUMMARIES.schema if f.name in known]
    arrays = [pa.array(known[f.name]).cast(f.type) for f in names]
    return pa.table(arrays, names=[f.name for f in names])
