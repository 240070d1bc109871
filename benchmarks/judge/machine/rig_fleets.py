"""Fleets of judged machines: what happens to them, what edgeloop's edge senses, and the truth."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.machine import rig_playback, rig_recordings
from benchmarks.judge.machine.rig_playback import (
    CHANNELS,
    FAULT_KINDS,
    RigChange,
    RotorResponses,
    read_rotors,
    rig_samples,
)
from benchmarks.judge.machine.rig_recordings import sensed_windows, write_device
from benchmarks.learning.fleet_story import START, FleetStory
from edge_producer.inference import OnnxPredictor, load_predictor
from edge_producer.window_scoring import WindowScorer
from model_service.models.bundle_files import BundleFiles
from model_service.models.fault_bank import FaultBank
from model_service.training.announced_change import AnnouncedChange
from schemas.profile import Profile
from schemas.profile_file import builtin_profiles, find_profile

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

PROFILE = "machine_demo" if "machine_demo" in builtin_profiles() else "machine"
"""A fleet lives for minutes here, so the demo's timings are used where the profile is split."""
DEVICES, SECONDS = 12, 420
EARLIEST, LATEST = 0.25, 0.5
SEVERITIES = (0.3, 0.6, 1.0)
FAULT_SHARE, RAMP_S = 0.9, 60.0

HARMLESS: dict[str, Callable[[float, tuple[int, ...], tuple[int, ...]], RigChange]] = {
    "temperature sensors +6 on 80 %": lambda at, most, _: RigChange(
        "offset", at, 6.0, channel="temperature", machines=most
    ),
    "current sensors x 1.3 on 80 %": lambda at, most, _: RigChange(
        "gain", at, 1.3, channel="current", machines=most
    ),
    "new load and speed on all": lambda at, _, every: RigChange("regime", at, 0.25, machines=every),
    "hall 8 degrees warmer": lambda at, _, every: RigChange("ambient", at, 8.0, machines=every),
    "vibration sensors x 1.25 on 80 %": lambda at, most, _: RigChange(
        "gain", at, 1.25, channel="vibration", machines=most
    ),
}
"""Changes that are no fault."""
KNOWN_HARMLESS = tuple(HARMLESS)[:3]
"""Those that the rules set out to learn; what ADR 12 says is lost, and a warmer hall, are beside them."""
UNKNOWN = ("misalignment", "rub")
STEADY = "nothing"
HIDDEN = {f"new load and speed, and {kind} with it": kind for kind in UNKNOWN}
"""A fault that comes with a harmless change."""
CELLS = (*FAULT_KINDS, *HARMLESS, *HIDDEN, STEADY)
LOAD = KNOWN_HARMLESS[2]
BEFORE_S, AFTER_S = 30.0, 60.0
"""An operator knows a change of load to within so much."""


@dataclass(frozen=True, slots=True, eq=False)
class JudgedFleet:
    """A fleet's life as edgeloop's edge sensed it.

    Attributes:
        features: Shape (devices, windows, F).
        factory: Scores of the shipped factory model at the edge, shape (devices, windows).
        faulty: True where a machine has a fault, shape (devices, windows).
        severity: Of the fault; 0: none.
        ramp_s: Seconds in which the change grew.
        at: Second of the change; -1: none.
    """

    cell: str
    seed: int
    features: Array
    factory: Array
    faulty: Flags
    severity: float
    ramp_s: float
    at: int

    def story(
        self, profile: Profile, first: BundleFiles, bank: FaultBank | None, *, announced: bool = False
    ) -> FleetStory:
        """The fleet with a model in force, for the loop."""
        changed = () if self.at < 0 else (self.at,)
        given = self.announcement(profile) if announced else None
        return FleetStory(
            self.cell, self.seed, profile, first, bank, self.features, self.faulty, changed, given
        )

    def announcement(self, profile: Profile) -> AnnouncedChange:
        """A new load, announced for the time of the change, whatever the change is."""
        start, end = (START + timedelta(seconds=self.at + by) for by in (-BEFORE_S, AFTER_S))
        rest = tuple(name for name in CHANNELS if name != "current")
        return AnnouncedChange("0" * 12, profile.name, "", "", ("current",), rest, start, end, "an operator")


def device_ids() -> tuple[str, ...]:
    """As the loop names them."""
    return tuple(f"m-{d:02d}" for d in range(DEVICES))


def planned(cell: str, seed: int) -> tuple[RigChange, ...]:
    """What happens to a fleet: the seed draws when, and whom; severities and onsets take turns."""
    rng = np.random.default_rng([seed, zlib.crc32(cell.encode()), rig_playback.SEED])
    at = float(round(rng.uniform(EARLIEST, LATEST) * SECONDS))
    order = tuple(int(d) for d in rng.permutation(DEVICES))
    load = (HARMLESS[LOAD](at, (), tuple(range(DEVICES))),) if cell in HIDDEN else ()
    if (kind := HIDDEN.get(cell, cell)) in FAULT_KINDS:
        hit = tuple(sorted(order[: round(FAULT_SHARE * DEVICES)]))
        ramp_s = 0.0 if seed % 2 == 0 else RAMP_S
        return (RigChange(kind, at, SEVERITIES[seed % 3], ramp_s, machines=hit), *load)
    if cell in HARMLESS:
        most = tuple(sorted(order[: round(0.8 * DEVICES)]))
        return (HARMLESS[cell](at, most, tuple(range(DEVICES))),)
    return ()


def judged_fleet(cell: str, seed: int, cache: Path) -> JudgedFleet:
    """A fleet, simulated, recorded, and sensed by the edge; or read, where the same was sensed before.

    Args:
        cell: One of ``CELLS``.
        seed: Of everything that is drawn.
        cache: Holds ``rotors`` and keeps what was sensed.
    """
    path = cache / "fleets" / f"{zlib.crc32(cell.encode()):08x}-{seed:02d}-{_code(cache)}.npz"
    if path.is_file():
        with np.load(path) as stored:
            features, factory = stored["features"], stored["factory"]
    else:
        features, factory = _sensed(planned(cell, seed), seed, cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, features=features, factory=factory)
    return _with_truth(cell, seed, features, factory)


def _with_truth(cell: str, seed: int, features: Array, factory: Array) -> JudgedFleet:
    changes, faulty = planned(cell, seed), np.zeros(features.shape[:2], dtype=bool)
    for change in changes:
        if change.kind in FAULT_KINDS:
            faulty[list(change.machines), int(change.at_s) :] = True
    first = changes[0] if changes else RigChange(STEADY, -1.0, 0.0)
    severity = first.size if first.kind in FAULT_KINDS else 0.0
    return JudgedFleet(cell, seed, features, factory, faulty, severity, first.ramp_s, int(first.at_s))


def _sensed(changes: tuple[RigChange, ...], seed: int, cache: Path) -> tuple[Array, Array]:
    profile, predictor = find_profile(PROFILE), _factory()
    with TemporaryDirectory(prefix="edgeloop-judge-") as name:
        record(Path(name), seed, changes, _rotors(cache))
        return edge_view(Path(name), profile, predictor)


def record(
    folder: Path,
    seed: int,
    changes: tuple[RigChange, ...],
    rotors: list[RotorResponses],
    seconds: int = SECONDS,
) -> None:
    """The fleet's recordings; each machine gets a rotor of the pool, all of which are used in turn."""
    rate_hz = find_profile(PROFILE).sampling.rate_hz
    drawn = np.random.default_rng([rig_playback.SEED, seed]).permutation(len(rotors))
    for d, device in enumerate(device_ids()):
        mine = tuple(c for c in changes if d in c.machines)
        samples = rig_samples(rotors[drawn[d % len(drawn)]], seed, d, seconds, round(rate_hz), mine)
        write_device(folder, device, START, rate_hz, dict(zip(CHANNELS, samples.T, strict=True)))


def edge_view(folder: Path, profile: Profile, predictor: OnnxPredictor) -> tuple[Array, Array]:
    """Features (devices, windows, F) and scores (devices, windows) of a fleet's recordings, as at the edge.

    A window without a usable score has 0.
    """
    devices = device_ids()
    scorers = {d: WindowScorer(d, profile) for d in devices}
    features: dict[str, list[Array]] = {d: [] for d in devices}
    scores: dict[str, list[float]] = {d: [] for d in devices}
    for given in sensed_windows(folder, profile, devices):
        window = scorers[given.device_id].begin(given)
        row, score = scorers[given.device_id].score(predictor, window)
        features[given.device_id].append(np.asarray(row, dtype=np.float64))
        scores[given.device_id].append(score or 0.0)
    return np.array([features[d] for d in devices]), np.array([scores[d] for d in devices])


@lru_cache(maxsize=1)
def _factory() -> OnnxPredictor:
    return load_predictor(find_profile(PROFILE))


@lru_cache(maxsize=1)
def _rotors(cache: Path) -> list[RotorResponses]:
    return read_rotors(cache / "rotors")


@lru_cache(maxsize=1)
def _code(cache: Path) -> str:
    """Version of all that a sensed fleet depends on."""
    digest = hashlib.sha256()
    here = Path(__file__)
    paths = [
        Path(rig_playback.__file__),
        Path(rig_recordings.__file__),
        here,
    ]
    for path in [*paths, *sorted((cache / "rotors").glob("rotor-??.npz"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]
