"""Real recordings, one device each, with the changes that are known of them."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.drift.retrain_rules import Alarm, Windows
from schemas.profile import Profile
from schemas.profile_file import parse_profile

_AROUND = 4
"""Windows before and after a known span that count to it."""


class RecordedDrift(NamedTuple):
    """A file, how it is windowed, and what is known of it.

    Attributes:
        columns: Header of each channel.
        window_s: Length of a window, as `profile init` drafts it.
        known: Spans of time in which something changed.
    """

    name: str
    path: str
    time_column: str
    columns: tuple[str, ...]
    window_s: int
    known: tuple[tuple[str, str], ...] = ()
    delimiter: str = ","


RECORDED = (
    RecordedDrift(
        "machine temperature (NAB)",
        "nab/data/machine_temperature_system_failure.csv",
        "timestamp",
        ("value",),
        21_600,
        (
            ("2013-12-10 06:25", "2013-12-12 05:35"),
            ("2013-12-15 17:50", "2013-12-17 17:00"),
            ("2014-01-27 14:20", "2014-01-29 13:30"),
            ("2014-02-07 14:55", "2014-02-09 14:05"),
        ),
    ),
    RecordedDrift(
        "road occupancy (NAB)",
        "nab/data/occupancy_6005.csv",
        "timestamp",
        ("value",),
        21_600,
        (("2015-09-14 17:45", "2015-09-15 17:24"),),
    ),
    RecordedDrift(
        "cobot (UR3)",
        "ur3_cobotops/dataset_02052023.csv",
        "Timestamp",
        ("Temperature_T0", *(f"Temperature_J{i}" for i in range(1, 6))),
        300,
        (("2022-10-26 08:17", "2022-10-26 09:06"),),
        ";",
    ),
    RecordedDrift(
        "traffic (I-94), weekly",
        "i94_traffic/Metro_Interstate_Traffic_Volume.csv",
        "date_time",
        ("traffic_volume",),
        604_800,
    ),
)


def samples(folder: Path, recorded: RecordedDrift) -> dict[str, list[tuple[float, float]]]:
    """UTC seconds and value of each cell that is a number, by column."""
    found: dict[str, list[tuple[float, float]]] = {column: [] for column in recorded.columns}
    with (folder / recorded.path).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter=recorded.delimiter):
            at = datetime.fromisoformat(row[recorded.time_column].replace("Z", "+00:00"))
            seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
            for column in recorded.columns:
                cell = row[column].replace(",", ".") if recorded.delimiter == ";" else row[column]
                if cell:
                    found[column].append((seconds, float(cell)))
    return found


def windows_of(recorded: RecordedDrift, cells: dict[str, list[tuple[float, float]]]) -> tuple[int, Windows]:
    """Number of the first window (start over length), and all from there on."""
    by_window: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for column, values in cells.items():
        for seconds, value in values:
            by_window[int(seconds) // recorded.window_s][column].append(value)
    first, last = min(by_window), max(by_window)
    return first, [
        {
            f"c{i}_last": np.array([by_window[n][c]]) if by_window[n][c] else None
            for i, c in enumerate(recorded.columns)
        }
        for n in range(first, last + 1)
    ]


def profile_of(recorded: RecordedDrift, cells: dict[str, list[tuple[float, float]]]) -> Profile:
    """A profile of these channels; the rate is that of the recording."""
    times = np.array([seconds for seconds, _ in cells[recorded.columns[0]]])
    rate_hz = 1 / float(np.median(np.diff(np.unique(times))))
    names = [f"c{i}" for i in range(len(recorded.columns))]
    channels = "".join(f'[[channels]]\nname = "{n}"\nunit = "1"\nmin = -1e9\nmax = 1e9\n' for n in names)
    computed = "".join(f'[[features.compute]]\nchannel = "{n}"\nkinds = ["last"]\n' for n in names)
    return parse_profile(
        f'name = "recorded"\n[sampling]\nrate_hz = {rate_hz:.12f}\nwindow_samples = 1\nhop_samples = 1\n'
        f'{channels}[features]\nset = "own"\nversion = 1\n{computed}[summaries]\n'
        f"period_s = {recorded.window_s}\n[drift]\nwindow_s = {recorded.window_s}\nmin_effect = 1.0\n",
        recorded.name,
    )


class RecordedScore(NamedTuple):
    """What a rule made of a recording.

    Attributes:
        met: Known spans with an alarm.
        delays: Windows from the beginning of each of these to its first alarm; 0: before its window.
        others: Alarms on nothing that is known.
        retrains: Of these, those that start a training run.
    """

    met: int
    delays: list[int]
    others: int
    retrains: int


def score(recorded: RecordedDrift, first: int, alarms: Sequence[Alarm]) -> RecordedScore:
    """An alarm is on a span if neither its onset nor its window lies far outside."""
    spans = [
        tuple(
            int(datetime.fromisoformat(t).replace(tzinfo=UTC).timestamp()) // recorded.window_s - first
            for t in s
        )
        for s in recorded.known
    ]
    on = [[a for a in alarms if a.window >= b - _AROUND and a.onset <= e + _AROUND] for b, e in spans]
    inside = {a for found in on for a in found}
    others = [a for a in alarms if a not in inside]
    delays = [
        max(min(a.window for a in found) - b + 1, 0) for found, (b, _) in zip(on, spans, strict=True) if found
    ]
    return RecordedScore(sum(map(bool, on)), delays, len(others), sum(a.retrains for a in others))
