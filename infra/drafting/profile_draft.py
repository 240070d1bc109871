"""Drafts a profile from files of measurements: good enough to replay at once, meant to be edited."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.drafting.channel_range import possible_range
from infra.drafting.profile_text import DraftColumn, ProfileContents, ReplayForm, WindowShape, write_profile
from infra.reading.decision_record import DecisionRecord
from infra.reading.file_set import stem
from infra.reading.measured_column import MeasuredColumn, without_unit
from infra.reading.recording_reader import ReadingWishes, ReadRecording, read_recording
from infra.reading.time_choice import NONE
from schemas.errors import SourceError
from schemas.instants import utc_now
from schemas.profile import Profile
from schemas.recording_section import Replay

Array = NDArray[np.float64]

MAX_CHANNELS = 32
JUMP = 4.0
"""A value this many times as far from the median as the next nearer one is absurd."""
NEIGHBOURS = 3
"""Different values in a row that are no glitch, however far they lie."""
LABEL_NAME = re.compile(r"label|class|target|anomal|fault|fail", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafted profile.

    Attributes:
        text: TOML with comments; parses as ``profile``.
        skipped: Columns left out: reason by name.
        unusual: Channels with values that are far from the rest and yet may be: how many.
        record: What was decided about the file.
    """

    text: str
    profile: Profile
    skipped: Mapping[str, str]
    unusual: Mapping[str, int]
    record: DecisionRecord


def draft(
    paths: Path | Sequence[Path],
    name: str | None = None,
    wishes: ReadingWishes | None = None,
    now: datetime | None = None,
) -> Draft:
    """A profile for a file of measurements, several, or a folder. What is doubtful stands in the record.

    Args:
        paths: The files.
        name: Profile name; None: made from the first file's name.
        wishes: What is decided already.
        now: Where a recording ends that tells no date.

    Raises:
        SourceError: The files cannot be read, or have no column of changing numbers.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    wishes = wishes or ReadingWishes()
    read = read_recording(files, wishes, now or utc_now())
    skipped = dict(read.skipped)
    columns = _channels(read, skipped)
    shown = ", ".join(map(str, files))
    if not columns:
        why = "; ".join(f"{n or '(no name)'}: {r}" for n, r in skipped.items())
        raise SourceError(f"{shown}: no column of changing numbers; {why}")
    record = read.record
    longest = max((len(d.us) for d in read.devices.values()), default=0)
    rate_hz = record.rate_hz or wishes.rate_hz
    plan = ProfileContents(
        name=slug(name or stem(files[0]), []),
        file=files[0].name,
        form=_form(read, wishes, columns),
        columns=columns,
        skipped=skipped,
        rows=record.rows,
        rate_hz=rate_hz,
        rate_known=record.rate_hz is not None,
        shape=choose_shape(1 / rate_hz, longest),
    )
    text, profile = write_profile(plan)
    return Draft(text, profile, skipped, {c.channel: c.unusual for c in columns if c.unusual}, record)


def _channels(read: ReadRecording, skipped: dict[str, str]) -> tuple[DraftColumn, ...]:
    """The channels among the columns of numbers; the reason of each other one goes to ``skipped``."""
    places = np.concatenate([d.places for d in read.devices.values()] or [np.empty(0, dtype=np.int64)])
    columns: list[DraftColumn] = []
    for column in read.columns:
        values = column.values[places]
        reason = _useless(column.name, values)
        if column.kept and not reason.startswith(("always", "mostly")):
            reason = ""
        if not reason and len(columns) == MAX_CHANNELS:
            reason = f"more than {MAX_CHANNELS} channels"
        if reason:
            skipped[column.name] = reason
        else:
            columns.append(_column(column, values, [c.channel for c in columns]))
    return tuple(columns)


def _form(read: ReadRecording, wishes: ReadingWishes, columns: Sequence[DraftColumn]) -> ReplayForm:
    """What ``[replay]`` says, so that a replay reads the file in the same way."""
    marks = {c.name: c.decimal for c in read.columns if c.decimal in (".", ",")}
    used = [marks[c.header] for c in columns if c.header in marks]
    decimal = "," if used.count(",") > used.count(".") else "."
    said = {c.channel: wishes.columns.decimal.get(c.header, "") for c in columns}
    zoned = read.time is not None and bool((~read.time.naive[read.time.ok]).all())
    usual = Replay.model_fields["missing"].default
    return ReplayForm(
        time_columns=read.time_columns,
        time_format=_time_format(read, wishes),
        timezone=wishes.timezone,
        delimiter={" ": "\t", "": ","}.get(read.delimiter, read.delimiter),
        decimal=decimal,
        encoding=read.encoding or "utf-8",
        zoned=zoned,
        device_column=wishes.device_column,
        decimals={k: v for k, v in said.items() if v and v != decimal},
        missing=(*usual, *wishes.columns.missing) if wishes.columns.missing else (),
    )


def _time_format(read: ReadRecording, wishes: ReadingWishes) -> str:
    if read.time is not None:
        return read.time.format
    return NONE if wishes.time.columns == () else "iso"


def _useless(name: str, values: Array) -> str:
    """Why a column of numbers is not a channel; empty: it is one."""
    finite = values[np.isfinite(values)]
    if len(finite) < 0.5 * len(values) or not len(finite):
        return "mostly blank"
    distinct = np.unique(finite)
    whole = bool((finite == np.round(finite)).all())
    if len(distinct) == 1:
        return f"always {distinct[0]:g}"
    if whole and len(distinct) == 2:
        return "a flag: only two values"
    if whole and len(distinct) <= 16 and LABEL_NAME.search(name):
        return "a label by its name"
    return "a counter" if whole and _counts_up(np.diff(finite)) else ""


def _counts_up(steps: Array) -> bool:
    """Whether whole numbers only rise, or rise by single steps and start again now and then."""
    if len(steps) < 8 or bool((steps >= 0).all()):
        return len(steps) >= 8
    single = float(((steps == 0) | (steps == 1)).mean())
    return single >= 0.99 and int((steps == 1).sum()) >= 10 * int((steps < 0).sum())


def _column(column: MeasuredColumn, values: Array, taken: Sequence[str]) -> DraftColumn:
    finite = values[np.isfinite(values)]
    unit = column.unit or ("1" if column.codes else "?")
    usual_low, usual_high = plausible_range(finite)
    low, high = possible_range(unit, *with_runs(finite, usual_low, usual_high))
    absurd = int(((finite < low) | (finite > high)).sum())
    return DraftColumn(
        channel=slug(without_unit(column.name), taken),
        header=column.name,
        unit=unit,
        low=low,
        high=high,
        usual_low=usual_low,
        usual_high=usual_high,
        absurd=absurd,
        unusual=int(((finite < usual_low) | (finite > usual_high)).sum()) - absurd,
        blank=int((~np.isfinite(values)).sum()),
        sentinels=column.sentinels,
        codes=column.codes,
        dtype="float64" if outgrows_float32(finite) else "float32",
    )


def with_runs(values: Array, low: float, high: float) -> tuple[float, float]:
    """Limits that keep a run of neighbours, too: a glitch is alone or stuck, a fault goes on and moves.

    Args:
        values: In the order of time.
        low: Lower limit without them.
        high: Upper limit without them.

    >>> calm = np.full(100, 20.0)
    >>> with_runs(np.append(calm, [95.0, 96.5, 98.0]), 10.0, 30.0)
    (10.0, 120.0)
    >>> with_runs(np.append(calm, [0.0, 0.0, 0.0]), 10.0, 30.0), with_runs(np.append(calm, 999.0), 10.0, 30.0)
    ((10.0, 30.0), (10.0, 30.0))
    """
    outside = (values < low) | (values > high)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], outside.astype(np.int8), [0]])))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        run = values[start:end]
        if len(np.unique(run)) >= NEIGHBOURS:
            margin = 0.25 * (max(high, float(run.max())) - min(low, float(run.min())))
            low = low if run.min() >= low else _outward(float(run.min()) - margin, -1)
            high = high if run.max() <= high else _outward(float(run.max()) + margin, 1)
    return low, high


def outgrows_float32(values: Array) -> bool:
    """Whether float32 cannot hold the steps between a column's values.

    >>> outgrows_float32(np.array([18228934.0, 18228934.25])), outgrows_float32(np.array([20.1, 20.2]))
    (True, False)
    """
    distinct = np.unique(values)
    if len(distinct) < 2:
        return False
    step = float(np.median(np.diff(distinct)))
    spacing = float(np.spacing(np.float32(np.abs(distinct).max())))
    return step < 2 * spacing


def plausible_range(values: Array) -> tuple[float, float]:
    """What is usual: limits that keep real extremes and leave absurd values out.

    From the 0.1 % and 99.9 % quantiles outwards, each value may lie at most ``JUMP`` times as far from the
    median as the one before; a wider jump (0 K among 280, 9831 mm among 50) ends the range. A quarter of
    its width is added on both sides, without crossing zero.
    """
    median = float(np.median(values))
    high = median + _reach(np.sort(values[values > median] - median))
    low = median - _reach(np.sort(median - values[values < median]))
    margin = 0.25 * (high - low)
    bottom = max(0.0, low - margin) if values.min() >= 0 else low - margin
    top = min(0.0, high + margin) if values.max() <= 0 else high + margin
    return _outward(bottom, -1), _outward(top, 1)


def _reach(distances: Array) -> float:
    """How far real values lie on one side; ``distances`` ascending and positive."""
    if not len(distances):
        return 0.0
    start = math.ceil(0.998 * len(distances)) - 1
    # With few values beside the median, as for rain, the quantile itself may be absurd.
    reach = float(distances[start if len(distances) >= 500 else len(distances) // 2])
    for distance in distances[distances > reach]:
        if distance > JUMP * reach:
            break
        reach = float(distance)
    return reach


def _outward(value: float, direction: int) -> float:
    """The value, rounded outwards to two or three digits."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    rounded = math.ceil(value / step) if direction > 0 else math.floor(value / step)
    return float(f"{rounded * step:.10g}")


def choose_shape(step_s: float, rows: int) -> WindowShape:
    """Window, hop and kinds for a sampling step.

    Slow signals (a sample in ten seconds or slower) are judged sample by sample; fast ones (64 Hz and up) in
    windows of about a second with spectrum; those between in overlapping windows of about ten seconds.
    """
    if step_s >= 10.0:
        return WindowShape(1, 1, ("last",), _warmup(rows))
    if step_s <= 1 / 64:
        window = min(2 ** round(math.log2(1 / step_s)), 4096)
        return WindowShape(window, window, ("mean", "std", "kurtosis", "band_high"), _warmup(rows // window))
    window = max(8, round(10.0 / step_s))
    return WindowShape(window, window // 2, ("mean", "std"), _warmup(rows // (window // 2)))


def _warmup(windows: int) -> int:
    """A tenth of a short recording, at most 32 windows."""
    return max(8, min(32, windows // 10))


def slug(text: str, taken: Sequence[str]) -> str:
    """A name that profiles allow, not in ``taken``."""
    base = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40] or "channel"
    base = base if base[0].isalpha() else f"c_{base}"
    return next(n for n in _numbered(base) if n not in taken)


def _numbered(base: str) -> Iterator[str]:
    yield base
    number = 2
    while True:
        yield f"{base}_{number}"
        number += 1
