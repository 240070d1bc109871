"""What is judged: a model fitted to MuJoCo's arm, the shipped one of `robot`, and one that a person names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.judge.judge_environment import JudgeUnavailableError
from benchmarks.judge.robot.arm_process import ArmProcess, ArmRun
from benchmarks.judge.robot.lock_step import Cut, free_samples
from benchmarks.judge.robot.reflex_path import START
from edge_producer.bundle import BUNDLES as SHIPPED
from edge_producer.inference import OnnxPredictor, load_predictor
from infra.fitting.fit_files import BUNDLES, FitWishes, fit_files, write_fit
from infra.reading.reading_options import ReadingOptions
from infra.replay import ReplayRequest
from schemas.instants import to_us
from schemas.profile import Profile
from schemas.profile_file import builtin_profiles, find_profile, load_profile

QUANTITIES = (
    "current_1",
    "position_1",
    "velocity_1",
    "current_2",
    "position_2",
    "velocity_2",
    "wheel_current",
    "wheel_speed",
    "acceleration_x",
    "acceleration_z",
)
"""What MuJoCo's arm tells: A, rad, rad/s by joint; A and rad/s of the wheel; m/s² of the vehicle."""
CHANNELS: dict[str, str] = {}
"""Channel of a profile to the quantity that it measures, where that has another name."""
OWN, PROFILE = Path(__file__).with_name("arm.toml"), "robot"
BUDGET = 24.0
"""False alarms a device-day that the fitted model may raise: one an hour."""
RATE_HZ = 500.0
HISTORY = tuple(
    ArmRun(10_001 + n, speed, payload_kg)
    for n, (speed, payload_kg) in enumerate(
        ((0.5, 0.0), (1.0, 0.0), (1.5, 0.0), (0.5, 1.2), (1.0, 0.6), (1.5, 1.2))
    )
)
HISTORY_S = 20.0


class JudgedArm(NamedTuple):
    """A model that is judged.

    Attributes:
        columns: Place among ``QUANTITIES`` of each channel, shape (C,).
    """

    name: str
    profile: Profile
    predictor: OnnxPredictor
    columns: NDArray[np.int_]

    @property
    def cut(self) -> Cut:
        """How its samples become windows."""
        sampling = self.profile.sampling
        return Cut(sampling.window_samples, sampling.hop_samples, 1 / sampling.rate_hz)


def judged_arm(name: str, profile: Profile, bundles: Path) -> JudgedArm:
    """A profile with its bundle.

    Raises:
        JudgeUnavailableError: It has a channel that the arm does not tell, or another rate.
    """
    if profile.sampling.rate_hz != RATE_HZ:
        raise JudgeUnavailableError(f"profile {profile.name}: MuJoCo's arm is sampled at {RATE_HZ:g} Hz")
    told = [CHANNELS.get(channel, channel) for channel in profile.channel_names]
    if strange := sorted(set(told) - set(QUANTITIES)):
        raise JudgeUnavailableError(
            f"profile {profile.name}: MuJoCo's arm does not tell {', '.join(strange)}: name what it "
            "measures in CHANNELS (benchmarks/judge/robot/arm_models.py)"
        )
    columns = np.array([QUANTITIES.index(quantity) for quantity in told])
    return JudgedArm(name, profile, load_predictor(profile, bundles), columns)


def models(arm: ArmProcess, cache: Path, profile: str | None, bundles: Path | None) -> Iterator[JudgedArm]:
    """The shipped one where there is one, the one that a person names, and the fitted one, made then."""
    if PROFILE in builtin_profiles():
        shipped = find_profile(PROFILE)
        if (SHIPPED / shipped.model.family).is_dir():
            yield judged_arm("factory", shipped, SHIPPED)
    if profile is not None:
        yield judged_arm("given", find_profile(profile), bundles or SHIPPED)
    yield judged_arm("fitted", *_fitted(arm, cache))


def _fitted(arm: ArmProcess, cache: Path) -> tuple[Profile, Path]:
    """As `edgeloop model fit` does it, on arms that move freely; once, then from the cache."""
    folder, text = cache / "fit", OWN.read_text(encoding="utf-8")
    if not (folder / "chosen.json").is_file():
        options = ReadingOptions(device_column="device", time_columns=("time",))
        with TemporaryDirectory(prefix="edgeloop-judge-") as made:
            path = Path(made) / "free.parquet"
            _history(arm, path)
            recording = ReplayRequest((path,), str(OWN), options=options).read()
            wishes = FitWishes("arm", None, (), BUDGET, "UTC")
            found = fit_files(recording, text, wishes, lambda _: None)
            write_fit(found, folder, (path,), BUDGET)
        (folder / "chosen.json").write_text(json.dumps(found.fitted.choice.kind.name), encoding="utf-8")
    return load_profile(folder / "arm.toml"), folder / BUNDLES


def _history(arm: ArmProcess, path: Path) -> None:
    fields = [pa.field("time", pa.timestamp("us", "UTC")), pa.field("device", pa.string())]
    schema = pa.schema([*fields, *(pa.field(name, pa.float64()) for name in QUANTITIES)])
    start = to_us(START - timedelta(days=1))
    with pq.ParquetWriter(path, schema) as writer:
        for number, run in enumerate(HISTORY):
            samples = free_samples(arm, run, HISTORY_S).astype(np.float64)
            us = start + np.round((np.arange(len(samples)) + 1) / RATE_HZ * 1e6).astype(np.int64)
            devices = pa.array([f"arm-{number:02d}"] * len(samples))
            columns = [pa.array(us).cast(pa.timestamp("us", "UTC")), devices, *map(pa.array, samples.T)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
