"""What happens to a fleet, as rows of features with the truth beside them: simulated machines."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import FAULTS, Injection, Scenario
from edge_producer.verticals.machine.rotating_machine import CHANNELS, RotatingMachine
from model_service.models.bundle_files import BundleFiles
from model_service.models.fault_bank import FaultBank, load_fault_bank
from model_service.models.features import compute
from model_service.registry.bundle_store import factory_bundle_of
from model_service.training.announced_change import AnnouncedChange
from schemas.learning_policy import TrainingPolicy
from schemas.profile import Profile
from schemas.profile_file import find_profile

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

START = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)
DEVICES, WINDOWS = 12, 600
AT_ONCE = 20
"""Windows that are simulated in one step."""
EARLIEST, LATEST = 0.2, 0.65
"""Between these shares of a fleet's life its (first) change comes, at a time that the seed draws: no calendar
can know it."""


@dataclass(frozen=True, slots=True, eq=False)
class FleetStory:
    """A fleet's life.

    Attributes:
        cell: Fleets of one cell differ in their seed alone.
        seed: Of machines, of the time of each change, and of what is sampled.
        first: The model in force at the beginning.
        bank: Known faults of the profile; None: there are none.
        features: Shape (devices, windows, F), finite; window k ends k + 1 hops after ``START``.
        faulty: True where a device has a fault, shape (devices, windows).
        changed: Windows at which something changed.
        announced: A change that a person announced; None: nobody announced any.
    """

    cell: str
    seed: int
    profile: Profile
    first: BundleFiles
    bank: FaultBank | None
    features: Array
    faulty: Flags
    changed: tuple[int, ...]
    announced: AnnouncedChange | None = None

    @property
    def name(self) -> str:
        """Cell and seed."""
        return f"{self.cell} #{self.seed}"

    @property
    def devices(self) -> tuple[str, ...]:
        """Ids, in the order of the rows."""
        return tuple(f"m-{d:02d}" for d in range(len(self.features)))

    @property
    def cohort(self) -> str:
        """All of its devices are in one."""
        return f"{self.profile.name}/hall/g/x86"

    @property
    def windows(self) -> int:
        """Windows of each device."""
        return self.features.shape[1]

    @property
    def period(self) -> int:
        """Windows of one drift window."""
        return round(self.profile.drift.window_s / self.profile.sampling.hop_s)

    def end(self, window: int) -> datetime:
        """When a window ends."""
        return START + timedelta(seconds=(window + 1) * self.profile.sampling.hop_s)

    @property
    def rollout_windows(self) -> int:
        """Windows that pass from a signed model to a fleet that runs it: canary, then each phase."""
        rollout = self.profile.rollout
        hop = self.profile.sampling.hop_s
        each = rollout.trial_windows + rollout.watch_windows + rollout.soak_s / hop
        return round(each * (1 + len(rollout.phases)))


Plot = Callable[[float, float], tuple[Injection, ...]]
"""What is injected: from the time of the first change and the length of the fleet's life, seconds."""


def _recalibrated(at: float, channel: str = "temperature", share: float = 0.8, **what: float) -> Injection:
    return Injection(kind="recalibration", start_s=at, channel=channel, share=share, **what)


def _fault(kind: str, at: float, share: float, ramp_s: float, severity: float = 1.0) -> Injection:
    return Injection(kind=kind, start_s=at, share=share, ramp_s=ramp_s, severity=severity)


HARMLESS: dict[str, Plot] = {
    "temperature +6 on 80 %": lambda at, _: (_recalibrated(at, offset=6.0),),
    "temperature +8 on all": lambda at, _: (_recalibrated(at, share=1.0, offset=8.0),),
    "current x 1.3 on 80 %": lambda at, _: (_recalibrated(at, "current", gain=1.3),),
    "temperature +7, later current x 1.3": lambda at, life: (
        _recalibrated(at, share=1.0, offset=7.0),
        _recalibrated(at + 0.3 * life, "current", 1.0, gain=1.3),
    ),
    "new load and speed on all": lambda at, _: (Injection(kind="new_regime", start_s=at, severity=1.5),),
    "temperature +6 on 80 %, one bearing worn": lambda at, _: (
        _recalibrated(at, offset=6.0),
        Injection(kind="bearing_wear", start_s=at / 2, devices=("m-03",)),
    ),
}
"""Changes that are no fault: to learn them is right."""
FAULTY: dict[str, Plot] = {
    "bearing wear, slow, on 60 %": lambda at, _: (_fault("bearing_wear", at, 0.6, 60.0),),
    "bearing wear, weak and slow, on 80 %": lambda at, _: (_fault("bearing_wear", at, 0.8, 240.0, 0.3),),
    "imbalance, abrupt, on 90 %": lambda at, _: (_fault("imbalance", at, 0.9, 0.0),),
}
"""Faults: to learn them is wrong."""
STEADY: dict[str, Plot] = {
    "nothing": lambda _at, _life: (),
    "a season of the temperature": lambda _at, _life: (),
}
SEASON, SWING_C, SEASON_S = "a season of the temperature", 4.0, 240.0
CELLS: dict[str, Plot] = {**HARMLESS, **FAULTY, **STEADY}


def _renewing(profile: Profile) -> Profile:
    """With the renewals that a profile has which says nothing of them; the demo's says none."""
    policy = profile.training.model_copy(update={"renewals": TrainingPolicy().renewals})
    return profile.model_copy(update={"training": policy})


def machine_story(cell: str, seed: int, devices: int = DEVICES, windows: int = WINDOWS) -> FleetStory:
    """A fleet of simulated machines, whose change comes at a time drawn by the seed."""
    profile = _renewing(find_profile("machine_demo").model_copy(update={"name": "machine"}))
    rng = np.random.default_rng([seed, zlib.crc32(cell.encode())])
    at = round(rng.uniform(EARLIEST, LATEST) * windows)
    ids = tuple(f"m-{d:02d}" for d in range(devices))
    injections = CELLS[cell](float(at), float(windows)) if cell in CELLS else ()
    scenario = Scenario(seed=seed, start=START, devices=ids, injections=injections)
    found = [_features(profile, seed, device, scenario.of(device), windows) for device in ids]
    if cell == SEASON:
        swing = SWING_C * np.sin(2 * np.pi * np.arange(windows) / SEASON_S)
        found = [_warmer(profile, rows, swing) for rows in found]
    faulty = [_faulty(scenario.of(device), windows) for device in ids]
    changed = tuple(sorted({round(i.start_s) for i in injections}))
    first, bank = factory_bundle_of("machine"), load_fault_bank("machine")
    return FleetStory(cell, seed, profile, first, bank, np.stack(found), np.stack(faulty), changed)


def _features(
    profile: Profile, seed: int, device: str, injections: Sequence[Injection], windows: int
) -> Array:
    """Rows of one device; before anything is injected they are those of the healthy one."""
    healthy = _healthy(profile.name, seed, device, windows)
    first = min((int(i.start_s) for i in injections), default=windows) // AT_ONCE * AT_ONCE
    if first >= windows:
        return healthy
    changed = _simulated(profile, seed, device, injections, first, windows)
    return np.concatenate([healthy[:first], changed])


@lru_cache(maxsize=64)
def _healthy(profile: str, seed: int, device: str, windows: int) -> Array:
    return _simulated(find_profile(profile), seed, device, (), 0, windows)


def _simulated(
    profile: Profile, seed: int, device: str, injections: Sequence[Injection], first: int, windows: int
) -> Array:
    """Rows of the windows from ``first`` on, a multiple of ``AT_ONCE``."""
    sensors = RotatingMachine(seed, device, profile.sampling.rate_hz, injections)
    size, specs, found = profile.sampling.window_samples, profile.feature_specs(), []
    for start in range(first, windows, AT_ONCE):
        # One block of many windows costs a fraction of as many blocks; its noise differs from theirs.
        raw = sensors.block(start // AT_ONCE, size * AT_ONCE).reshape(AT_ONCE, size, len(CHANNELS))
        found.append(compute(raw[: windows - start], specs, profile.channel_names))
    return np.concatenate(found)


def _warmer(profile: Profile, rows: Array, offset: Array) -> Array:
    """Rows as they are with so much more temperature in each window: it moves the mean, and nothing else."""
    moved = rows.copy()
    moved[:, profile.feature_names.index("temperature_mean")] += offset
    return moved


def _faulty(injections: Sequence[Injection], windows: int) -> Flags:
    """Windows that end within a fault."""
    ends = np.arange(windows) + 1.0
    spans = [(ends > i.start_s) & (ends <= i.end_s) for i in injections if i.kind in FAULTS]
    return np.any(spans, axis=0) if spans else np.zeros(windows, dtype=bool)
