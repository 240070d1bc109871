"""Recordings that drift, as stories: the first part makes profile and model, the rest is lived through.

As a user has it: `profile init` and `model fit` on the first part, with nothing edited, and windows cut as a
device cuts them. Windows that lack a value in any device are left out, so a gap is no time in the story;
what is known when is worked out by the recording's own clock.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.labelled_recordings import LabelledRecording, cobot, nab_recordings
from benchmarks.learning.fleet_story import Array, FleetStory
from infra.drafting.profile_draft import draft
from infra.fitting.fit_files import FitWishes, fit_files
from infra.fitting.history_windows import recorded_windows
from infra.reading.recording_reader import ReadingWishes
from infra.replay import ReplayRequest
from model_service.models.fault_bank import parse_bank
from model_service.models.features import profile_features
from schemas.instants import to_us

DAY_US = 86_400_000_000
DEVICE = "device"
TEMPERATURE, OCCUPANCY, JOINTS, TRAFFIC = (
    "machine temperature (NAB)",
    "road occupancy (NAB)",
    "six joints of a cobot (UR3)",
    "traffic (I-94)",
)
RECORDINGS = (TEMPERATURE, OCCUPANCY, JOINTS, TRAFFIC)
NAB_FILES = {"machine_temperature_system_failure": TEMPERATURE, "occupancy_6005": OCCUPANCY}
JOINT_CHANNELS = ("current", "temperature", "speed")
JOINT_SCALE = 7.3 / 24 / 78.8
"""The cobot's 7.3 hours beside the machine's 78.8 days: a day's delay is an equal part of each."""
TRAFFIC_HISTORY = 2000
MINUTES = {"period_s": "60", "window_s": "60", "lateness_s": "5"}
QUICK_SPANS = """
[training]
min_effective_rows = 40.0
max_wait_s = 600.0
cooldown_s = 60.0

[rollout]
trial_windows = 5
watch_windows = 6
soak_s = 15.0
"""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedTable:
    """A recording as a table.

    Attributes:
        us: Microseconds since 1970 of each row, rising, shape (n,).
        values: Shape (devices, n, channels).
        faulty: Labelled rows, of all devices, shape (n,).
        history: Rows at the beginning that profile and model are made from.
        labelled: Whether the recording has labels of faults.
        scale: A day's delay of a label, in days of the recording's own time.
    """

    name: str
    channels: tuple[str, ...]
    us: NDArray[np.int64]
    values: Array
    faulty: NDArray[np.bool_]
    history: int
    labelled: bool = True
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class RecordedStory:
    """A recording's life after its first part.

    Attributes:
        story: Windows, model and bank; its seed is 0.
        ends_us: When each window ends by the recording's clock, shape (windows,).
        day_us: A day's delay of a label, by the same clock.
        labelled: Whether the recording has labels of faults.
        chosen: Detector that `model fit` chose.
    """

    story: FleetStory
    ends_us: NDArray[np.int64]
    day_us: float
    labelled: bool
    chosen: str

    def known_before(self, window: int, delay_days: float) -> int:
        """Windows whose labels are known when ``window`` begins: all before the returned one."""
        now = self.ends_us[max(window - 1, 0)]
        return min(int(np.searchsorted(self.ends_us, now - delay_days * self.day_us, side="right")), window)


def recorded_tables(folder: Path) -> list[RecordedTable]:
    """The recordings that the folder holds."""
    nab = [r.recording for r in nab_recordings(folder / "nab")]
    found = [_single(r, NAB_FILES[r.name]) for r in nab if r.name in NAB_FILES]
    found += [_joints(r) for r in cobot(folder / "ur3_cobotops")]
    found += [_traffic(path) for path in sorted((folder / "i94_traffic").glob("*.csv"))]
    return sorted(found, key=lambda t: RECORDINGS.index(t.name))


def _single(recording: LabelledRecording, name: str) -> RecordedTable:
    return RecordedTable(
        name, recording.channels, recording.us, recording.values[None], recording.faulty, recording.history
    )


def _joints(recording: LabelledRecording) -> RecordedTable:
    """Each joint a device with its current, temperature and speed; a stop of the robot is one of each."""
    values = np.stack([recording.values[:, _columns(recording, joint)] for joint in range(6)])
    return RecordedTable(
        JOINTS, JOINT_CHANNELS, recording.us, values, recording.faulty, recording.history, True, JOINT_SCALE
    )


def _columns(recording: LabelledRecording, joint: int) -> list[int]:
    base = "temperature_t0"  # the file's name for the temperature of joint 0
    names = [f"{c}_j{joint}" for c in JOINT_CHANNELS]
    return [recording.channels.index(n if n in recording.channels else base) for n in names]


def _traffic(path: Path) -> RecordedTable:
    """Vehicles an hour; the first of each time counts."""
    rows: dict[int, float] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            at = to_us(datetime.fromisoformat(row["date_time"]).replace(tzinfo=UTC))
            rows.setdefault(at, float(row["traffic_volume"]))
    us = np.array(sorted(rows), dtype=np.int64)
    values = np.array([[[rows[int(at)]] for at in us]])
    none = np.zeros(len(us), dtype=bool)
    return RecordedTable(TRAFFIC, ("traffic_volume",), us, values, none, TRAFFIC_HISTORY, labelled=False)


def recorded_story(table: RecordedTable) -> RecordedStory:
    """The story of a recording: profile and model of its first part, windows of the rest."""
    with TemporaryDirectory(prefix="edgeloop-eval-") as name:
        folder = Path(name)
        early, whole = folder / "history.csv", folder / "whole.csv"
        _write(early, table, table.history)
        _write(whole, table, len(table.us))
        many = len(table.values) > 1
        made = draft(early, "recorded", ReadingWishes(device_column=DEVICE) if many else ReadingWishes())
        text = made.text if table.scale == 1 else _in_minutes(made.text)
        given = folder / "recorded.toml"
        given.write_text(text, encoding="utf-8")
        history = ReplayRequest((early,), str(given)).read()
        found = fit_files(history, text, FitWishes("recorded", None, (), 1.0, "UTC"), lambda _: None)
        devices = recorded_windows(ReplayRequest((whole,), str(given)).read(), (), ()).devices
    profile, fitted = found.profile, found.fitted
    ends = sorted(set.intersection(*(set(d.end_us.tolist()) for d in devices)))
    ends_us = np.array([e for e in ends if e > table.us[table.history - 1]], dtype=np.int64)
    rows = [d.samples[np.searchsorted(d.end_us, ends_us)] for d in devices]
    features = np.stack([profile_features(profile, r, ends_us) for r in rows])
    complete = np.isfinite(features).all(axis=(0, 2))
    ends_us, features = ends_us[complete], features[:, complete]
    faulty = _faulty(table, ends_us, profile.sampling.window_samples)
    story = FleetStory(
        table.name,
        0,
        profile,
        fitted.bundle,
        parse_bank(fitted.bank.to_bytes()),
        features,
        np.tile(faulty, (len(features), 1)),
        (),
    )
    return RecordedStory(story, ends_us, table.scale * DAY_US, table.labelled, fitted.choice.kind.name)


def _in_minutes(text: str) -> str:
    """A drafted profile with the spans of a fleet that lives for minutes, as the simulated pumps are."""
    for key, value in MINUTES.items():
        text = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
    return text + QUICK_SPANS


def _faulty(table: RecordedTable, ends_us: NDArray[np.int64], samples: int) -> NDArray[np.bool_]:
    """Windows with a labelled row among their samples."""
    marked = np.concatenate([[0], np.cumsum(table.faulty)])
    after = np.searchsorted(table.us, ends_us, side="right")
    return np.asarray(marked[after] > marked[np.maximum(after - samples, 0)])


def _write(path: Path, table: RecordedTable, rows: int) -> None:
    start, many = datetime(1970, 1, 1, tzinfo=UTC), len(table.values) > 1
    heads = ["time", *([DEVICE] if many else []), *table.channels]
    lines = [",".join(heads)]
    for row in range(rows):
        at = (start + timedelta(microseconds=int(table.us[row]))).isoformat()
        for device, values in enumerate(table.values[:, row]):
            named = [f"joint-{device}"] if many else []
            lines.append(",".join([at, *named, *_cells(values.tolist())]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cells(values: Sequence[float]) -> list[str]:
    return ["" if np.isnan(v) else repr(v) for v in values]
