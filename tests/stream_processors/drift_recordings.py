"""What the drift watch says of real recordings: one device, with the drifts that are known of it.

Run as a program with the folder: ``python -m tests.stream_processors.drift_recordings FOLDER``.
Window and features are those that `profile init` drafts for the file; the watch gets the samples directly.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from schemas.profile import Profile
from schemas.profile_file import parse_profile
from stream_processors.drift.cohort_judge import CohortJudge
from stream_processors.windowing.moments import Moments
from stream_processors.windowing.partials import TaskShare
from stream_processors.windowing.windows import CohortScope, TumblingWindow


class Recording(NamedTuple):
    """A file, how it is windowed, and what is known of it.

    Attributes:
        columns: Header of each channel.
        window_s: Length of a drift window.
        known: Spans of time in which something changed; empty: nothing is known.
    """

    name: str
    path: str
    time_column: str
    columns: tuple[str, ...]
    window_s: int
    known: tuple[tuple[str, str], ...] = ()
    delimiter: str = ","


NAB = "nab/data"
RECORDINGS = (
    Recording(
        "machine temperature (NAB), four labelled spans",
        f"{NAB}/machine_temperature_system_failure.csv",
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
    Recording(
        "road occupancy (NAB), one labelled span",
        f"{NAB}/occupancy_6005.csv",
        "timestamp",
        ("value",),
        21_600,
        (("2015-09-14 17:45", "2015-09-15 17:24"),),
    ),
    Recording(
        "cobot (UR3), six temperatures, warm-up from a cold start",
        "ur3_cobotops/dataset_02052023.csv",
        "Timestamp",
        ("Temperature_T0", *(f"Temperature_J{i}" for i in range(1, 6))),
        300,
        (("2022-10-26 08:17", "2022-10-26 09:06"),),
        ";",
    ),
    Recording(
        "traffic (I-94), volume, nothing known",
        "i94_traffic/Metro_Interstate_Traffic_Volume.csv",
        "date_time",
        ("traffic_volume",),
        604_800,
    ),
)


def samples(folder: Path, of: Recording) -> Iterator[tuple[datetime, str, float]]:
    """Time, column and value of each cell that is a number."""
    with (folder / of.path).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter=of.delimiter):
            text = row[of.time_column].replace("Z", "+00:00")
            at = datetime.fromisoformat(text)
            for column in of.columns:
                cell = row[column].replace(",", ".") if of.delimiter == ";" else row[column]
                if cell:
                    yield at if at.tzinfo else at.replace(tzinfo=UTC), column, float(cell)


def profile_of(of: Recording) -> Profile:
    """A profile of these channels."""
    names = [f"c{i}" for i in range(len(of.columns))]
    bounds = 'unit = "1"\nmin = -1e9\nmax = 1e9\n'
    channels = "".join(f'[[channels]]\nname = "{n}"\n{bounds}' for n in names)
    computed = "".join(f'[[features.compute]]\nchannel = "{n}"\nkinds = ["last"]\n' for n in names)
    return parse_profile(
        'name = "recorded"\n[sampling]\nrate_hz = 0.1\nwindow_samples = 1\nhop_samples = 1\n'
        f'{channels}[features]\nset = "own"\nversion = 1\n{computed}'
        f"[summaries]\nperiod_s = {of.window_s}\n[drift]\nwindow_s = {of.window_s}\nmin_effect = 1.0\n",
        of.name,
    )


def verdicts(folder: Path, of: Recording) -> list[tuple[str, str, datetime, datetime, float, str]]:
    """Column, statistic, onset, detection, size and kind of each verdict."""
    windows: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for at, column, value in samples(folder, of):
        windows[int(at.timestamp()) // of.window_s][column].append(value)
    judge, length_us = (
        CohortJudge(CohortScope("recorded", "r/s/g/h"), profile_of(of), {}),
        of.window_s * 10**6,
    )
    found = []
    for number in sorted(windows):
        shares = {("m@1", f"c{of.columns.index(c)}_last"): _share(v) for c, v in windows[number].items()}
        for v in judge.window(TumblingWindow(number * length_us, length_us), shares):
            column = of.columns[int(v["feature"][1 : v["feature"].index("_")])]
            found.append((column, v["statistic"], v["onset"], v["detected"], v["size"], str(v["kind"])))
    return found


def _share(values: Sequence[float]) -> TaskShare:
    v = np.array(values)
    mean = float(v.mean())
    return TaskShare(Moments(len(v), mean, float(((v - mean) ** 2).sum()), float(v.min()), float(v.max())), 1)


def main() -> None:
    """Print each verdict, and how many known changes were met."""
    folder = Path(sys.argv[1])
    for of in RECORDINGS:
        found = verdicts(folder, of)
        spans = [tuple(datetime.fromisoformat(t).replace(tzinfo=UTC) for t in span) for span in of.known]
        late = timedelta(seconds=4 * of.window_s)
        met = [any(a - late <= v[3] and v[2] <= b + late for v in found) for a, b in spans]
        inside = [v for v in found if any(a - late <= v[3] and v[2] <= b + late for a, b in spans)]
        text = (
            f"{of.name}: {sum(met)} of {len(met)} known, {len(found)} verdicts, {len(inside)} on known spans"
        )
        sys.stdout.write(text + "\n")
        for column, statistic, onset, detected, size, kind in found:
            line = (
                f"  {column} {statistic} {onset:%Y-%m-%d %H:%M} told {detected:%m-%d %H:%M} {size:.1f} {kind}"
            )
            sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
