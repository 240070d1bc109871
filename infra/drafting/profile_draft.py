"""Drafts a profile from a file of measurements: good enough to replay at once, meant to be edited."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.cells import instants, numbers
from edge_producer.sources.recording import Recording
from infra.drafting.channel_range import possible_range
from infra.drafting.file_form import FileForm, detect_form
from infra.drafting.profile_text import DraftColumn, ProfileContents, WindowShape, write_profile
from schemas.errors import SourceError
from schemas.profile import Channel, FeatureChoice, Features, Profile, Replay, Sampling

Array = NDArray[np.float64]

MAX_CELLS = 10_000_000
"""Cells that are read; of a longer file only the beginning is."""
MAX_CHANNELS = 32
JUMP = 4.0
"""A value this many times as far from the median as the next nearer one is absurd."""
LABEL_NAME = re.compile(r"label|class|target|anomal|fault|fail", re.IGNORECASE)
FLAGS = frozenset({"true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "0", "1"})
UNIT = re.compile(r"[\[(]([^\])]{1,16})[\])]\s*$")


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafted profile.

    Attributes:
        text: TOML with comments; parses as ``profile``.
        skipped: Columns left out: reason by name.
        unusual: Channels with values that are far from the rest and yet may be: how many.
    """

    text: str
    profile: Profile
    skipped: Mapping[str, str]
    unusual: Mapping[str, int]


def draft(path: Path, name: str | None = None) -> Draft:
    """A profile for a CSV file.

    Args:
        path: The file.
        name: Profile name; None: made from the file's name.

    Raises:
        SourceError: The file cannot be read, or has no column of changing numbers.
    """
    form = detect_form(path)
    skipped, candidates = _by_head(form)
    us, values, complete = _read(path, form, candidates)
    columns: list[DraftColumn] = []
    for index, column in enumerate(candidates):
        reason = _useless(form.header[column], values[:, index])
        if reason is None and len(columns) == MAX_CHANNELS:
            reason = f"more than {MAX_CHANNELS} channels"
        if reason is None:
            columns.append(_column(form.header[column], values[:, index], [c.channel for c in columns]))
        else:
            skipped[form.header[column]] = reason
    if not columns:
        why = "; ".join(f"{n or '(no name)'}: {r}" for n, r in skipped.items())
        raise SourceError(f"{path}: no column of changing numbers; {why}")
    step_s = _step_s(us)
    plan = ProfileContents(
        name=slug(name or path.stem, []),
        file=path.name,
        form=form,
        columns=tuple(columns),
        skipped=skipped,
        rows=len(values),
        complete=complete,
        rate_hz=1.0 if step_s is None else 1 / step_s,
        rate_known=step_s is not None,
        shape=choose_shape(1.0 if step_s is None else step_s, len(values)),
    )
    text, profile = write_profile(plan)
    return Draft(text, profile, skipped, {c.channel: c.unusual for c in columns if c.unusual})


def _by_head(form: FileForm) -> tuple[dict[str, str], list[int]]:
    """Columns without numbers, each with the reason, and indices of the others; from the first rows."""
    skipped: dict[str, str] = {}
    candidates = []
    for index, name in enumerate(form.header):
        cells = [row[index].strip() for row in form.rows]
        given = {c for c in cells if c}
        if name == form.time_column:
            continue
        if not name.strip():
            skipped[name] = "no name"
        elif form.header.index(name) != index:
            skipped[name] = "named twice: the first is taken"
        elif given and len(given) <= 2 and {c.lower() for c in given} <= FLAGS:
            skipped[name] = "true or false"
        elif given and sum(_numeric(c) for c in cells if c) < 0.5 * sum(bool(c) for c in cells):
            skipped[name] = "text"
        else:
            candidates.append(index)
    return skipped, candidates


def _numeric(cell: str) -> bool:
    return bool(re.match(r"^[+-]?[\d.,]+([eE][+-]?\d+)?$", cell))


def _read(path: Path, form: FileForm, candidates: Sequence[int]) -> tuple[NDArray[np.int64], Array, bool]:
    """Times (empty without a time column) and values of the candidate columns; whether the file ended."""
    if not candidates:
        return np.empty(0, dtype=np.int64), np.empty((0, 0)), True
    reader = _reading_profile(form, candidates)
    limit = MAX_CELLS // len(candidates)
    times: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
    values: list[Array] = []
    rows = 0
    for block in Recording(path, reader).blocks():
        if block.times is not None:
            read = instants(block.times, reader.replay)
            times.append(read.us[read.readable])
        values.append(np.column_stack([numbers(c, reader.replay).values for c in block.cells]))
        rows += len(values[-1])
        if rows >= limit:
            return np.concatenate(times), np.concatenate(values), False
    return np.concatenate(times), np.concatenate(values), True


def _reading_profile(form: FileForm, candidates: Sequence[int]) -> Profile:
    """A profile only for reading the file: every candidate column, no limits."""
    names = {f"c{index}": form.header[index] for index in candidates}
    channels = tuple(Channel(name=n, unit="", min=-math.inf, max=math.inf) for n in names)
    first = FeatureChoice(channel=channels[0].name, kinds=("last",))
    return Profile(
        name="reading",
        channels=channels,
        sampling=Sampling(rate_hz=1.0, window_samples=1, hop_samples=1),
        features=Features(set="reading", compute=(first,)),
        replay=Replay(
            time_column=form.time_column,
            time_format=form.time_format,
            delimiter=form.delimiter,
            decimal="," if form.decimal == "," else ".",
            encoding=form.encoding,
            columns=names,
        ),
    )


def _useless(name: str, values: Array) -> str | None:
    """Why a column of numbers is not a channel; None: it is one."""
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
    return "a counter" if whole and _counts_up(np.diff(finite)) else None


def _counts_up(steps: Array) -> bool:
    """Whether whole numbers only rise, or rise by single steps and start again now and then."""
    if len(steps) < 8 or bool((steps >= 0).all()):
        return len(steps) >= 8
    single = float(((steps == 0) | (steps == 1)).mean())
    return single >= 0.99 and int((steps == 1).sum()) >= 10 * int((steps < 0).sum())


def _column(header: str, values: Array, taken: Sequence[str]) -> DraftColumn:
    finite = values[np.isfinite(values)]
    unit = UNIT.search(header)
    usual_low, usual_high = plausible_range(finite)
    low, high = possible_range(unit.group(1) if unit else "", usual_low, usual_high)
    absurd = int(((finite < low) | (finite > high)).sum())
    return DraftColumn(
        channel=slug(UNIT.sub("", header), taken),
        header=header,
        unit=unit.group(1) if unit else "?",
        low=low,
        high=high,
        usual_low=usual_low,
        usual_high=usual_high,
        absurd=absurd,
        unusual=int(((finite < usual_low) | (finite > usual_high)).sum()) - absurd,
        blank=int((~np.isfinite(values)).sum()),
    )


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


def _step_s(us: NDArray[np.int64]) -> float | None:
    steps = np.diff(us)
    steps = steps[steps > 0]
    return float(np.median(steps)) / 1e6 if len(steps) else None


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
