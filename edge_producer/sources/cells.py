"""Reads cells of a recording as numbers and times; a cell that cannot be read is missing, and counted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import SourceError
from schemas.recording_section import Replay

EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  (naive on purpose: wall clock times are counted from it)
_UTC = pa.timestamp("us", "UTC")
EPOCH_UNITS = {"epoch_s": 1_000_000.0, "epoch_ms": 1_000.0, "epoch_us": 1.0, "epoch_ns": 1e-3}
NOT_HERE = re.compile(
    r"^(day_first|month_first|year_first|written|excel|matlab|julian|mjd|since_1904|filetime|dotnet|relative_\w+)$"
)
"""Formats that are read before a recording comes here."""
NUMBER = r"(?i)^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf(inity)?|nan)$"
"""What Arrow's cast reads, and a plus sign. Infinities are numbers here; later they are out of range."""
PLAIN_DIRECTIVES = frozenset("YmdHMS")
"""strptime directives that Arrow reads the way Python does."""
EARLIEST_US = -2_208_988_800_000_000
LATEST_US = 7_258_118_400_000_000
"""Years 1900 and 2200: a time outside is a misread number."""
QUANTUM_US = 900_000_000
"""Zones change their offset only at whole quarters of an hour."""


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """One column's values.

    Attributes:
        values: NaN where blank or unparsable.
        first_unparsable: The first such cell, for error messages.
    """

    values: NDArray[np.float64]
    blank: int
    unparsable: int
    first_unparsable: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Instants:
    """One column's times.

    Attributes:
        us: Microseconds since 1970, UTC; arbitrary where not readable.
        readable: Whether each cell could be read.
        unclear: Number of local times that a clock change makes happen twice or never; the first is taken.
        first_unreadable: The first such cell, for error messages.
    """

    us: NDArray[np.int64]
    readable: NDArray[np.bool_]
    unclear: int = 0
    first_unreadable: str = ""


def numbers(cells: pa.Array, replay: Replay) -> Numbers:
    """Numbers from text with the profile's decimal mark, or from a column that holds numbers already."""
    if not _is_text(cells.type):
        return _typed(cells)
    text = _present(cells, replay)
    plain = text
    if replay.decimal == ",":
        # A point is no thousands mark here: reading 1.5 as 15 would be worse than not reading it.
        pointed = pc.match_substring(text, ".")
        plain = pc.if_else(pointed, "x", pc.replace_substring(text, ",", "."))
    try:
        values, bad = plain.cast(pa.float64()), None
    except pa.ArrowInvalid:
        bad = pc.invert(pc.match_substring_regex(plain, NUMBER))
        usable = pc.if_else(bad, None, pc.replace_substring_regex(plain, r"^\+", ""))
        values = usable.cast(pa.float64())
    found = values.to_numpy(zero_copy_only=False).astype(np.float64)
    unparsable = int(pc.sum(bad).as_py() or 0) if bad is not None else 0
    first = str(text.filter(bad)[0]) if unparsable and bad is not None else ""
    return Numbers(found, int(np.isnan(found).sum()) - unparsable, unparsable, first)


def _typed(cells: pa.Array) -> Numbers:
    if pa.types.is_boolean(cells.type):
        cells = cells.cast(pa.int8())
    try:
        values = cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return Numbers(np.full(len(cells), np.nan), cells.null_count, len(cells) - cells.null_count)
    return Numbers(values, int(np.isnan(values).sum()), 0)


def instants(cells: pa.Array, replay: Replay) -> Instants:
    """Times from text, numbers since 1970 or timestamps, as UTC.

    Raises:
        SourceError: The profile's time zone is unknown, or its time format is not for plain files.
    """
    if NOT_HERE.match(replay.time_format):
        raise SourceError(f"replay.time_format '{replay.time_format}' is read by `edgeloop replay` only")
    if replay.time_format in EPOCH_UNITS:
        read = numbers(cells, replay)
        us = read.values * EPOCH_UNITS[replay.time_format]
        return _bounded(us, np.isfinite(us), read.first_unparsable)
    if pa.types.is_temporal(cells.type):
        return _from_timestamps(cells, replay, "")
    if not _is_text(cells.type):
        return _unread(cells)
    text = _present(cells, replay)
    parsed = _parsed_fast(text, replay.time_format)
    if parsed is None:
        parsed = _parsed_slowly(text, replay)
    unread = pc.and_(pc.is_null(parsed), pc.is_valid(text))
    first = str(text.filter(unread)[0]) if pc.any(unread).as_py() else ""
    return _from_timestamps(parsed, replay, first)


def _parsed_fast(text: pa.Array, time_format: str) -> pa.Array | None:
    """Timestamps where Arrow can read the whole column; naive ones stay naive."""
    if time_format != "iso":
        directives = frozenset(re.findall(r"%(.)", time_format))
        if directives <= PLAIN_DIRECTIVES:
            return pc.strptime(text, time_format, "us", error_is_null=True)
        return None
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return text.cast(kind)
        except pa.ArrowInvalid:
            continue
    return None


def _parsed_slowly(text: pa.Array, replay: Replay) -> pa.Array:
    """Timestamps read cell by cell. Naive ones stay naive, unless other cells carry a zone."""
    times = [_parsed(cell, replay.time_format) for cell in text.to_pylist()]
    if not any(t is not None and t.tzinfo for t in times):
        return pa.array(times, pa.timestamp("us"))
    zone = _zone(replay.timezone)
    return pa.array([t if t is None or t.tzinfo else t.replace(tzinfo=zone) for t in times], _UTC)


def _parsed(cell: str | None, time_format: str) -> datetime | None:
    if cell is None:
        return None
    try:
        if time_format == "iso":
            return datetime.fromisoformat(cell)
        return datetime.strptime(cell, time_format)  # noqa: DTZ007  (the caller knows the zone)
    except ValueError:
        return None


def _from_timestamps(times: pa.Array, replay: Replay, first_unreadable: str) -> Instants:
    naive = not (pa.types.is_timestamp(times.type) and times.type.tz)
    valid = times.is_valid().to_numpy(zero_copy_only=False)
    # Nanoseconds are rounded down: a microsecond is what an event time can tell.
    whole = times.cast(pa.timestamp("us") if naive else _UTC, safe=False).cast(pa.int64())
    us = pc.fill_null(whole, 0).to_numpy(zero_copy_only=False)
    unclear = 0
    if naive:
        us, unclear = localised(us, valid, _zone(replay.timezone))
    return _bounded(us, valid, first_unreadable, unclear)


def localised(
    local_us: NDArray[np.int64], valid: NDArray[np.bool_], zone: ZoneInfo | str
) -> tuple[NDArray[np.int64], int]:
    """UTC of wall clock times in the order of rows, and how many are unclear.

    Of an hour that happens twice, what follows a fall is the second pass.

    Raises:
        SourceError: The zone is unknown.
    """
    first, second = wall_offsets(local_us, valid, zone)
    twice, late = np.flatnonzero(first > second), np.zeros(len(local_us), dtype=np.bool_)
    for run in np.split(twice, np.flatnonzero(np.diff(twice) > 1) + 1):
        falls = np.flatnonzero(np.diff(local_us[run]) < 0) + 1
        if len(falls) == 1:
            late[run[falls[0] :]] = True
    return local_us - np.where(late, second, first), int((first != second).sum())


def wall_offsets(
    local_us: NDArray[np.int64], valid: NDArray[np.bool_], zone: ZoneInfo | str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets from UTC of wall clock times, µs: as they happen first, and as they happen last.

    They differ where a clock is set: the first is the larger one where a time happens twice, the smaller one
    where it never happens. One zone look-up for each distinct quarter of an hour.

    Raises:
        SourceError: The zone is unknown.
    """
    if isinstance(zone, str):
        zone = _zone(zone)
    inside = valid & (local_us > EARLIEST_US) & (local_us < LATEST_US)
    quarters, position = np.unique(np.where(inside, local_us, 0) // QUANTUM_US, return_inverse=True)
    offsets = np.array([_offsets_us(int(q), zone) for q in quarters], dtype=np.int64).reshape(-1, 2)
    first, second = offsets[position, 0], offsets[position, 1]
    return first, np.where(inside, second, first)


def _offsets_us(quarter: int, zone: ZoneInfo) -> tuple[int, int]:
    """Offsets from UTC at a wall clock time, first and second occurrence, µs."""
    wall = (EPOCH + timedelta(microseconds=quarter * QUANTUM_US)).replace(tzinfo=zone)
    both = [wall.replace(fold=fold).utcoffset() or timedelta() for fold in (0, 1)]
    return both[0] // timedelta(microseconds=1), both[1] // timedelta(microseconds=1)


def _bounded(
    us: NDArray[np.int64] | NDArray[np.float64], valid: NDArray[np.bool_], first: str, unclear: int = 0
) -> Instants:
    readable = valid & (us > EARLIEST_US) & (us < LATEST_US)
    return Instants(np.where(readable, us, 0).round().astype(np.int64), readable, unclear, first)


def _unread(cells: pa.Array) -> Instants:
    nothing = np.zeros(len(cells), dtype=np.int64)
    first = str(cells[0]) if len(cells) else ""
    return Instants(nothing, nothing.astype(np.bool_), 0, first)


def _present(cells: pa.Array, replay: Replay) -> pa.Array:
    """Trimmed text; null where the cell is empty or one of ``missing``."""
    text = pc.utf8_trim_whitespace(cells.cast(pa.string()))
    blank = pc.is_in(text, value_set=pa.array(["", *replay.missing], pa.string()))
    return pc.if_else(blank, None, text)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as exc:
        raise SourceError(
            f"replay.timezone '{name}' is not an IANA time zone, such as Europe/Berlin"
        ) from exc
