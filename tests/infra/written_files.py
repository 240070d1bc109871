"""Writes files of measurements whose truth is known, in every form that loggers and spreadsheets use."""

from __future__ import annotations

import gzip
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from infra.reading.recording_reader import ReadingWishes, ReadRecording, read_recording

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
START = datetime(2021, 2, 26, 21, 0, tzinfo=UTC)
"""A few hours before midnight, a few days before the end of a month."""


def _us(at: datetime) -> int:
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000


def _midnight_as_24(at: datetime) -> str:
    if (at.hour, at.minute, at.second) == (0, 0, 0):
        return f"{at - timedelta(days=1):%Y-%m-%d} 24:00:00"
    return f"{at:%Y-%m-%d %H:%M:%S}"


TIMES = {
    "iso": lambda t: f"{t:%Y-%m-%d %H:%M:%S}",
    "iso T Z": lambda t: f"{t:%Y-%m-%dT%H:%M:%SZ}",
    "iso minutes": lambda t: f"{t:%Y-%m-%d %H:%M}",
    "iso slashes": lambda t: f"{t:%Y/%m/%d %H:%M:%S}",
    "iso offset": lambda t: (t + timedelta(hours=5, minutes=30)).strftime("%Y-%m-%dT%H:%M:%S+05:30"),
    "utc behind": lambda t: f"{t:%Y-%m-%d %H:%M:%S} UTC",
    "microseconds": lambda t: f"{t:%Y-%m-%d %H:%M:%S.%f}",
    "nanoseconds": lambda t: f"{t:%Y-%m-%dT%H:%M:%S}.000000000Z",
    "day first": lambda t: f"{t:%d/%m/%Y %H:%M}",
    "day first, points": lambda t: f"{t:%d.%m.%Y %H:%M:%S}",
    "day first, no zeros": lambda t: f"{t.day}/{t.month}/{t.year} {t.hour}:{t:%M}",
    "day first, short year": lambda t: f"{t:%d/%m/%y %H:%M}",
    "month first": lambda t: f"{t:%m/%d/%Y %H:%M}",
    "month first, half days": lambda t: f"{t:%m/%d/%Y %I:%M:%S %p}",
    "month first, short year": lambda t: f"{t:%m-%d-%y %H:%M}",
    "year first, short": lambda t: f"{t:%y-%m-%d %H:%M}",
    "month's name": lambda t: f"{t:%d-%b-%Y %H:%M:%S}",
    "month's name first": lambda t: f"{t:%b %d, %Y %I:%M:%S %p}",
    "German month": lambda t: f"{t.day}. {'Februar' if t.month == 2 else 'März'} {t.year} {t:%H:%M}",
    "ctime": lambda t: f"{t:%a %b %d %H:%M:%S %Y}",
    "RFC 2822": lambda t: f"{t:%a, %d %b %Y %H:%M:%S} GMT",
    "24:00": _midnight_as_24,
    "10 digits": lambda t: f"{t:%Y%m%d%H}",
    "12 digits": lambda t: f"{t:%Y%m%d%H%M}",
    "14 digits": lambda t: f"{t:%Y%m%d%H%M%S}",
    "digits T": lambda t: f"{t:%Y%m%dT%H%M%SZ}",
    "epoch s": lambda t: str(_us(t) // 1_000_000),
    "epoch s, fraction": lambda t: f"{_us(t) // 1_000_000}.000",
    "epoch ms": lambda t: str(_us(t) // 1_000),
    "epoch us": lambda t: str(_us(t)),
    "epoch ns": lambda t: str(_us(t) * 1_000),
    "ordinal": lambda t: f"{t:%Y-%jT%H:%M:%S}",
}
"""Ways to write an hour; the function takes its instant, UTC."""

SPLIT = {
    "date and time": (("Date", "Time"), lambda t: (f"{t:%d/%m/%Y}", f"{t:%H:%M:%S}")),
    "date and time, points": (("Datum", "Uhrzeit"), lambda t: (f"{t:%d.%m.%Y}", f"{t:%H.%M}")),
    "iso date and hour": (("date", "hour"), lambda t: (f"{t:%Y-%m-%d}", str(t.hour))),
    "parts": (
        ("Year", "Month", "Day", "Hour"),
        lambda t: (str(t.year), str(t.month), str(t.day), str(t.hour)),
    ),
    "parts, short": (
        ("YY", "MM", "DD", "hh", "mm"),
        lambda t: (f"{t:%y}", f"{t:%m}", f"{t:%d}", f"{t:%H}", f"{t:%M}"),
    ),
    "day of the year": (("year", "doy", "hour"), lambda t: (str(t.year), f"{t:%j}", str(t.hour))),
}


@dataclass(frozen=True)
class Written:
    """How a file is written."""

    time: str = "iso"
    delimiter: str = ","
    decimal: str = "."
    grouped: str = ""
    minus: str = "-"
    encoding: str = "utf-8"
    line_end: str = "\n"
    above: tuple[str, ...] = ()
    units: bool = False
    order: str = "rising"
    ending: str = ".csv"
    quoted: bool = False
    trailing: bool = False
    time_name: str = "time"
    rows: int = 96
    step: timedelta = timedelta(hours=1)
    names: tuple[str, ...] = ("druck", "fluss")
    values: np.ndarray = field(default_factory=lambda: np.empty(0))


def truth(form: Written, seed: int = 0) -> tuple[list[datetime], np.ndarray]:
    """Times and values, in the order of time."""
    rng = np.random.default_rng(seed)
    times = [START + i * form.step for i in range(form.rows)]
    pressure = np.round(1000 + np.cumsum(rng.normal(0, 3, form.rows)), 2)
    flow = np.round(rng.normal(0, 20_000, form.rows), 1)
    return times, np.column_stack([pressure, flow])


def number(value: float, form: Written) -> str:
    """A number as the file's writer has it."""
    text = f"{abs(value):,.2f}".replace(",", "\0").replace(".", form.decimal).replace("\0", form.grouped)
    return f"{form.minus if value < 0 else ''}{text}"


def write(folder: Path, form: Written, seed: int = 0) -> Path:
    """The file."""
    times, values = truth(form, seed)
    heads, cut = SPLIT.get(form.time, ((form.time_name,), None))
    cut = cut or (lambda t: (TIMES[form.time](t),))
    rows = [[*cut(t), *(number(v, form) for v in line)] for t, line in zip(times, values, strict=True)]
    if form.order == "newest first":
        rows.reverse()
    elif form.order == "mixed":
        random.Random(seed).shuffle(rows)
    table = [
        [*heads, *form.names],
        *([["", *[""] * (len(heads) - 1), "hPa", "l/min"]] if form.units else []),
        *rows,
    ]

    def cell(text: str) -> str:
        return f'"{text}"' if form.quoted or form.delimiter in text else text

    end = form.delimiter if form.trailing else ""
    lines = [*form.above, *(form.delimiter.join(cell(c) for c in row) + end for row in table)]
    data = (form.line_end.join(lines) + form.line_end).encode(form.encoding)
    path = folder / f"file{form.ending}"
    path.write_bytes(gzip.compress(data) if form.ending.endswith(".gz") else data)
    return path


def read(path: Path, wishes: ReadingWishes | None = None) -> ReadRecording:
    """The file as the reader reads it."""
    return read_recording([path], wishes or ReadingWishes(), NOW)


def rows_of(found: ReadRecording, device: str = "") -> tuple[list[datetime], np.ndarray]:
    """Times and values of a device as they were read, in order."""
    rows = found.devices[device]
    times = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(us)) for us in rows.us]
    return times, np.column_stack([c.values[rows.places] for c in found.columns])
