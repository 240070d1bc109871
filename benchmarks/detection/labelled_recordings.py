"""Labelled recordings in a folder beside the checkout: NAB's files, a cobot, a pump test bed.

Nothing of them is copied into the project; each is skipped, and said to be, where the folder lacks it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.nab_score import NabFile
from schemas.instants import to_us

TEST_BED_HISTORY = 400
"""Rows at the beginning of each run of the pump test bed that are healthy, by its authors' protocol."""
COBOT_HISTORY = 2000


@dataclass(frozen=True, slots=True, eq=False)
class LabelledRecording:
    """A recording with a label a row.

    Attributes:
        us: Microseconds since 1970, rising; rows that repeat a time or go back are left out.
        values: Shape (rows, channels).
        faulty: Labelled rows.
        history: Rows at the beginning that may be learnt from.
    """

    name: str
    channels: tuple[str, ...]
    us: NDArray[np.int64]
    values: NDArray[np.float64]
    faulty: NDArray[np.bool_]
    history: int


@dataclass(frozen=True, slots=True, eq=False)
class NabRecording:
    """One file of NAB with its windows."""

    recording: LabelledRecording
    labels: NabFile


def nab_recordings(folder: Path) -> Iterator[NabRecording]:
    """Every file of NAB below a folder that has windows of labels."""
    labels = folder / "labels" / "combined_windows.json"
    if not labels.is_file():
        return
    spans = {name.rsplit("/", 1)[-1]: found for name, found in json.loads(labels.read_text()).items()}
    for path in sorted((folder / "data").rglob("*.csv")):
        if not spans.get(path.name):
            continue
        rows = _table(path)
        us = np.array([_us(row["timestamp"]) for row in rows], dtype=np.int64)
        values = np.array([[float(row["value"])] for row in rows])
        kept = _rising(us)
        us, values = us[kept], values[kept]
        windows = []
        for start, end in spans[path.name]:
            inside = np.flatnonzero((us >= _us(start)) & (us <= _us(end)))
            windows.append((int(inside[0]), int(inside[-1])))
        file = NabFile(len(us), tuple(windows))
        faulty = np.zeros(len(us), dtype=bool)
        for first, last in windows:
            faulty[first : last + 1] = True
        yield NabRecording(LabelledRecording(path.stem, ("value",), us, values, faulty, file.probation), file)


def pump_test_bed(folder: Path) -> Iterator[LabelledRecording]:
    """Runs of the pump test bed: semicolons, a column ``anomaly``; runs without one are left out."""
    for path in sorted(folder.rglob("*.csv")):
        rows = _table(path, ";")
        if not rows or "anomaly" not in rows[0]:
            continue
        names = tuple(n for n in rows[0] if n not in ("datetime", "anomaly", "changepoint"))
        us = np.array([_us(row["datetime"]) for row in rows], dtype=np.int64)
        values = np.array([[float(row[n]) for n in names] for row in rows])
        faulty = np.array([float(row["anomaly"]) > 0 for row in rows])
        kept = _rising(us)
        name = f"{path.parent.name}/{path.stem}"
        channels = tuple(n.strip().lower().replace(" ", "_") for n in names)
        yield LabelledRecording(name, channels, us[kept], values[kept], faulty[kept], TEST_BED_HISTORY)


def cobot(folder: Path) -> Iterator[LabelledRecording]:
    """The cobot's session: currents, temperatures, speeds; protective stops and lost grips are faults."""
    for path in sorted(folder.glob("*.csv")):
        rows = _table(path, ";")
        wanted = ("Current", "Temperature", "Speed", "Tool")
        names = tuple(n for n in rows[0] if n and n.startswith(wanted))
        values = np.array([[_number(row[n]) for n in names] for row in rows])
        us = np.array([_us(row["Timestamp"].strip('"')) for row in rows], dtype=np.int64)
        faults = ("Robot_ProtectiveStop", "grip_lost")
        faulty = np.array([any(row[f].strip() == "True" for f in faults) for row in rows])
        kept = _rising(us)
        channels = tuple(n.lower() for n in names)
        yield LabelledRecording("cobot", channels, us[kept], values[kept], faulty[kept], COBOT_HISTORY)


def _table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:  # with a mark of the encoding or without
        return list(csv.DictReader(file, delimiter=delimiter))


def _rising(us: NDArray[np.int64]) -> NDArray[np.bool_]:
    newest = np.maximum.accumulate(np.concatenate([[us[0] - 1], us]))[:-1]
    return np.asarray(us > newest)


def _us(text: str) -> int:
    at = datetime.fromisoformat(text)
    return to_us(at if at.tzinfo is not None else at.replace(tzinfo=UTC))


def _number(text: str) -> float:
    return float(text.replace(",", ".")) if text.strip() else float("nan")
