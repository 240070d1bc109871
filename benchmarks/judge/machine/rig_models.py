"""What is judged: the factory's model as it ships, and first models that `model fit` makes of rigs."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.judge.machine.rig_fleets import PROFILE
from benchmarks.judge.machine.rig_playback import CHANNELS, read_rotors, rig_samples
from benchmarks.learning.fleet_story import START
from infra.fitting.fit_files import BUNDLES, FitWishes, fit_files, write_fit
from infra.reading.reading_options import ReadingOptions
from infra.replay import ReplayRequest
from model_service.models.bundle_files import BundleFiles
from model_service.models.fault_bank import FaultBank, parse_bank, shipped_bank
from model_service.registry.bundle_store import factory_bundle_of
from schemas.instants import to_us
from schemas.profile import Profile
from schemas.profile_file import builtin_profiles, find_profile, load_profile

BUDGET = 1.0
"""False alarms a machine-day, the default of `edgeloop model fit`."""
HISTORY_DEVICES, HISTORY_S, HISTORY_SEED = 12, 300, 10_001
OWN_NAME = "rig"
ARMS = {
    "factory": "the shipped model, rules and fault bank",
    "fitted": "a model fitted to healthy rigs; the shipped fault bank",
    "own": "the same as a profile of one's own, whose faults nobody knows",
    "announced": "as *fitted*; an operator announced a new load, which moves the current and maybe the rest",
    "own, announced": "as *own*; an operator announced the same",
}
ANNOUNCED = {"announced": "fitted", "own, announced": "own"}
"""Arms in which an operator announced a new load, and the arm whose model they have."""
REPEATED = ("own", *ANNOUNCED)
"""Arms whose model detects what that of another arm detects."""


class JudgedModel(NamedTuple):
    """What a fleet runs, and what its gates know."""

    profile: Profile
    bundle: BundleFiles
    bank: FaultBank | None
    chosen: str


def judged_model(arm: str, cache: Path) -> JudgedModel:
    """The model of an arm; fitted ones are made once and kept."""
    if arm == "factory":
        profile = find_profile(PROFILE)
        bundle = factory_bundle_of(profile.model.family)
        return JudgedModel(profile, bundle, shipped_bank(profile), bundle.manifest.version)
    if arm in ANNOUNCED:
        return judged_model(ANNOUNCED[arm], cache)
    # The family's name, as the shipped bank is the family's.
    name = find_profile(PROFILE).model.family if arm == "fitted" else OWN_NAME
    folder = cache / f"fit-{arm}"
    if not (folder / f"{name}.toml").is_file():
        _fit(name, folder, cache)
    profile = load_profile(folder / f"{name}.toml")
    bundle = BundleFiles.read(folder / BUNDLES / name)
    own = parse_bank((folder / "fault_bank.json").read_bytes())
    chosen = json.loads((folder / "chosen.json").read_text(encoding="utf-8"))
    shipped = shipped_bank(profile)
    if (shipped is None) != (arm == "own"):
        raise ValueError(f"arm {arm}: whether there is a shipped bank is not as the arm has it")
    return JudgedModel(profile, bundle, shipped or own, chosen)


def _fit(name: str, folder: Path, cache: Path) -> None:
    """As `edgeloop model fit` does it, on a recording of healthy rigs."""
    text = builtin_profiles()[PROFILE].read_text(encoding="utf-8")
    text = re.sub(r'(?m)^name = ".*"$', f'name = "{name}"', text, count=1)
    with TemporaryDirectory(prefix="edgeloop-judge-") as made:
        given, path = Path(made) / "profile.toml", Path(made) / "healthy.parquet"
        given.write_text(text, encoding="utf-8")
        _history(path, cache)
        options = ReadingOptions(device_column="device", time_columns=("time",))
        recording = ReplayRequest((path,), str(given), options=options).read()
        found = fit_files(recording, text, FitWishes(name, None, (), BUDGET, "UTC"), lambda _: None)
        write_fit(found, folder, (path,), BUDGET)
    (folder / "chosen.json").write_text(json.dumps(found.fitted.choice.kind.name), encoding="utf-8")


def _history(path: Path, cache: Path) -> None:
    rotors, rate_hz = read_rotors(cache / "rotors"), round(find_profile(PROFILE).sampling.rate_hz)
    start = to_us(START - timedelta(days=1))
    with pq.ParquetWriter(path, _schema()) as writer:
        for d in range(HISTORY_DEVICES):
            samples = rig_samples(rotors[d % len(rotors)], HISTORY_SEED, d, HISTORY_S, rate_hz, ())
            us = start + np.round((np.arange(len(samples)) + 1) / rate_hz * 1e6).astype(np.int64)
            columns = [
                pa.array(us).cast(pa.timestamp("us", "UTC")),
                pa.array([f"rig-{d:02d}"] * len(samples)),
            ]
            writer.write_table(pa.Table.from_arrays([*columns, *map(pa.array, samples.T)], schema=_schema()))


def _schema() -> pa.Schema:
    fields = [pa.field("time", pa.timestamp("us", "UTC")), pa.field("device", pa.string())]
    return pa.schema([*fields, *(pa.field(name, pa.float64()) for name in CHANNELS)])
