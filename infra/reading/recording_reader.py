"""The reader under `profile init` and `replay`: files become times, values and a decision record."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.printing import count
from infra.reading.decision_record import LOST_SHARE, ColumnRecord, Decision, DecisionRecord, Doubt
from infra.reading.device_column import ONE
from infra.reading.device_rows import DeviceRows, SortedRows, grouped, rows_by_device
from infra.reading.dialect import BLANKS
from infra.reading.file_set import FILE_COLUMN, FileSet, open_files
from infra.reading.half_days import with_halves
from infra.reading.local_times import in_utc
from infra.reading.measured_column import ColumnWishes, MeasuredColumn, measure_columns
from infra.reading.mixed_devices import mixed_devices, wanted_columns
from infra.reading.row_times import anchored, implausible, unwrapped
from infra.reading.said_format import tells_no_year
from infra.reading.short_rows import broken_rows
from infra.reading.time_choice import TimeWishes, choose_time, resembling
from infra.reading.time_column import TimeReading
from infra.reading.time_formats import without_halves
from infra.reading.time_forms import Ints
from infra.reading.unit_column import several_units
from infra.reading.zone_column import zone_beside, zone_in_name
from schemas.errors import SourceError
from schemas.instants import from_us

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ReadingWishes:
    """What a person, or a profile, has decided already.

    Attributes:
        time: Which columns hold the time, and how it is written.
        timezone: IANA zone of times that carry none.
        zone_said: Whether a person named that zone for these files.
        device_column: Column that names the devices; ``@file``: each file is a device; ``none``: there is
            one; empty: one, unless the file speaks against it.
        columns: How columns of numbers are read.
        encoding: As named by a profile.
        delimiter: Likewise.
        rate_hz: Samples a second where the file has no time.
        starts_now: Whether rows without a date begin now, instead of ending now.
    """

    time: TimeWishes = field(default_factory=TimeWishes)
    timezone: str = "UTC"
    zone_said: bool = False
    device_column: str = ""
    columns: ColumnWishes = field(default_factory=ColumnWishes)
    encoding: str = ""
    delimiter: str = ""
    rate_hz: float = 1.0
    starts_now: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ReadRecording:
    """A recording that was read.

    Attributes:
        record: What was decided.
        columns: Columns of numbers.
        devices: Rows by device, as the file names it; one without a name if it names none.
        time: How the time is read; None: the file has none.
        delimiter: Of the first file; empty: it is no text.
        encoding: Likewise.
    """

    record: DecisionRecord
    columns: tuple[MeasuredColumn, ...]
    devices: Mapping[str, DeviceRows]
    time: TimeReading | None
    time_columns: tuple[str, ...]
    delimiter: str
    encoding: str
    skipped: Mapping[str, str]


@dataclass
class _Draft:
    """What is known while a recording is read."""

    decisions: list[Decision] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    def lost(
        self, what: str, n: int, of: int, options: tuple[str, ...], excerpt: tuple[str, ...] = ()
    ) -> None:
        """Doubt what costs more than a few per cent."""
        if n > LOST_SHARE * max(of, 1):
            self.doubts.append(
                Doubt(f"{n:,} of {of:,} {what} ({n / of:.1%})", (*options, "--force"), excerpt)
            )


def read_recording(paths: Sequence[Path], wishes: ReadingWishes, now: datetime) -> ReadRecording:
    """Read files, or a folder, as one recording.

    Args:
        paths: Files; a folder stands for the files in it.
        wishes: What is decided already.
        now: Where rows end whose file tells no date.

    Raises:
        SourceError: They cannot be read at all. What is doubtful stands in the record instead.
    """
    with tempfile.TemporaryDirectory(prefix="edgeloop-reading-") as folder:
        files = open_files(paths, Path(folder), wishes.encoding, wishes.delimiter)
        return _read(files, wishes, now)


def _read(files: FileSet, wishes: ReadingWishes, now: datetime) -> ReadRecording:
    draft = _Draft()
    draft.decisions += [Decision(k, v, "") for k, v in files.said.items()]
    time = _time(files, wishes, draft)
    used = set(time.columns) if time is not None else set()
    device_at = _device_index(files, wishes.device_column)
    taken = used | ({device_at} if device_at is not None else set())
    measured, skipped = measure_columns(files, wishes.columns, taken)
    if time is not None and (clocks := [files.column_name(i) for i in time.others]):
        skipped |= {name: "times that are not taken" for name in clocks if name in skipped}
        draft.notes.append(f"{', '.join(clocks)}: holds times too; --time-column takes another")
    names = _device_names(files, wishes.device_column, device_at)
    time = _halved(time, names, draft)
    kept, us = _rows(files, time, wishes, now, measured, names, draft)
    values = [c.values for c in measured]
    file_rows = [t.rows for t in files.tables]
    rows = rows_by_device(us, kept, names, values, file_rows, spreads=time is not None)
    others = [i for i in range(len(files.names)) if i not in taken]
    if (units := several_units((files.names[i], files.column(i)) for i in others)) is not None:
        draft.doubts.append(units)
    if time is not None and time.absolute and time.naive.any() and not wishes.zone_said:
        zone = zone_in_name(files.names[i] for i in time.columns)
        zone = zone or zone_beside((files.names[i], files.column(i)) for i in others)
        draft.doubts += [] if zone is None else [zone]
    asked = names is None and wishes.device_column != ONE
    free = used | wanted_columns(files, wishes.columns)
    proposal = mixed_devices(files, us, kept, free, rows, measured) if asked else None
    if names is not None:
        draft.decisions.append(Decision("device", f"column '{wishes.device_column}'", "given"))
    if proposal is not None:
        draft.doubts.append(proposal)
    _sorted(rows, len(us), proposal is not None, draft)
    _check_columns(measured, draft)
    read = files.rows + files.malformed
    malformed = draft.dropped.get("malformed", 0)
    draft.lost("rows have another number of cells than the header", malformed, read, (), files.excerpt)
    stated = tuple(files.column_name(i) for i in time.columns) if time is not None else ()
    columns = [ColumnRecord(n, "time") for n in stated]
    columns += [ColumnRecord(wishes.device_column, "device")] if names is not None else []
    columns += [ColumnRecord(c.name, "channel", c.evidence, c.unit, c.cells, c.words) for c in measured]
    columns += [ColumnRecord(n, "left out", why) for n, why in skipped.items()]
    record = _record(files, time, rows.devices, columns, draft)
    return ReadRecording(
        record, tuple(measured), rows.devices, time, stated, files.delimiter, files.encoding, skipped
    )


def _time(files: FileSet, wishes: ReadingWishes, draft: _Draft) -> TimeReading | None:
    """The time, and what is to be said about it."""
    try:
        time, unread = choose_time(files.names, files.units, files.column, wishes.time)
    except KeyError as exc:
        there = ", ".join(repr(n) for n in files.names if n.strip()) or "none"
        raise SourceError(f"{files.shown}: no column {exc}; there are: {there}") from exc
    if wishes.time.columns and (time is None or not time.ok.any()):
        cells = _excerpt(files, files.index(wishes.time.columns[0]))
        what = f"column {', '.join(map(repr, wishes.time.columns))} cannot be read as times"
        raise SourceError(
            f"{files.shown}: {what} (such as {', '.join(cells)}): give --time-format or --time-column"
        )
    if time is None:
        if unread:
            cells = _excerpt(files, files.index(unread[0]))
            what = f"'{unread[0]}' looks like a time and cannot be read"
            draft.doubts.append(Doubt(what, ("--time-format", "--time-column", "--time-column none"), cells))
        elif wishes.time.columns is None and (like := resembling(files.names, files.units, files.column)):
            what = (
                f"no column is named like a time, and the numbers of '{like[0]}' look like {like[1].format}"
            )
            names_it = f"--time-column {_argument(like[0])}"
            shown = _excerpt(files, like[1].columns[0])
            draft.doubts.append(Doubt(what, (names_it, "--time-column none"), shown))
        else:
            draft.notes.append(
                f"no column holds times: rows are taken as {wishes.rate_hz:g} a second and end now; "
                "--time-column names one that does, --rate-hz another rate"
            )
        return None
    if tells_no_year(time.format):
        what = f"the format {time.format} tells no year, so every row would lie in 1900"
        draft.doubts.append(Doubt(what, ("a file with the year", "--time-column none", "--force")))
    names = " and ".join(files.column_name(i) for i in time.columns)
    draft.decisions.append(Decision("time", f"{names}, {time.format}", time.evidence))
    if time.doubt:
        options = tuple(f"--time-format {o}" for o in ("day_first", "month_first"))
        if not time.absolute:
            options = ("--time-format relative_s", "--time-format relative_ms", "--time-column none")
        if time.options:
            options = tuple(o if o.startswith("--") else f"--time-format {o}" for o in time.options)
        shown = _excerpt(files, time.columns[0])
        draft.doubts.append(Doubt(f"the time in {names} {time.doubt}", options, shown))
    if not time.absolute:
        draft.notes.append("the file tells no date: its last row is placed at now")
    elif time.naive.any():
        draft.decisions.append(
            Decision("zone", wishes.timezone, "the times carry none; --timezone says another")
        )
    return time


def _halved(time: TimeReading | None, names: pa.Array | None, draft: _Draft) -> TimeReading | None:
    """The time with the halves of the day, where its cells do not tell them."""
    if time is None or not time.halves:
        return time
    rows = np.flatnonzero(time.ok)
    groups = [rows[g] for g in grouped(len(rows), rows, names).values()]
    options = (
        f"--time-format {_argument(time.halves.replace('%I', '%H'))}",
        "--force (hours of a whole day)",
    )
    found = with_halves(time.us, groups, options, said="%I" in time.halves)
    draft.doubts += [found.doubt] if found.doubt is not None else []
    if found.decision is None:
        return time
    draft.decisions.append(found.decision)
    return replace(time, us=found.us, format=without_halves(time.format))


def _excerpt(files: FileSet, index: int) -> tuple[str, ...]:
    """The first cells of a column."""
    return tuple(str(c) for c in files.text(index).slice(0, 3).to_pylist())


def _rows(
    files: FileSet, time: TimeReading | None, wishes: ReadingWishes, now: datetime,
    measured: Sequence[MeasuredColumn], names: pa.Array | None, draft: _Draft,
) -> tuple[NDArray[np.int64], Ints]:  # fmt: skip
    """Positions of the rows that have a time, and those times, UTC."""
    n = files.rows
    open_end = files.delimiter == BLANKS and any(c.name == files.names[-1] for c in measured)
    broken = broken_rows(files.short(), files.rows, measured, anywhere=open_end)
    draft.dropped["malformed"] = files.malformed + int(broken.sum())
    if time is None:
        kept = np.flatnonzero(~broken)
        us = np.round(np.arange(len(kept)) * 1e6 / wishes.rate_hz).astype(np.int64)
        draft.dropped["unreadable_time"] = 0
        return kept, anchored(us, now, begins=wishes.starts_now)
    ok = time.ok & ~broken
    draft.dropped["unreadable_time"] = int((~time.ok & ~broken).sum())
    draft.lost("rows have no time that can be read", draft.dropped["unreadable_time"], n,
               ("--time-format", "--time-column"), time.unread)  # fmt: skip
    us = time.us
    if time.absolute and time.naive.any():
        rows = np.flatnonzero(ok)
        groups = [rows[g] for g in grouped(len(rows), rows, names).values()]
        local = in_utc(us, ok & time.naive, groups, wishes.timezone, said=wishes.zone_said)
        us = local.us
        draft.decisions += local.decisions
        draft.doubts += local.doubts
        draft.notes += local.notes
    if not time.absolute:
        us = anchored(unwrapped(us, time, ok), now, ok, begins=wishes.starts_now)
    kept = np.flatnonzero(ok)
    if not len(kept):
        raise SourceError(
            f"{files.shown}: no row has a time that can be read: give --time-format or --time-column"
        )
    if time.absolute:
        draft.doubts += implausible(us[kept], grouped(len(kept), kept, names).values(), now)
    return kept, us[kept]


def _device_index(files: FileSet, column: str) -> int | None:
    if not column or column in (FILE_COLUMN, ONE):
        return None
    try:
        return files.index(column)
    except ValueError:
        there = ", ".join(repr(n) for n in files.names if n.strip())
        raise SourceError(
            f"{files.shown}: no column '{column}' for --device-column; there are: {there}"
        ) from None


def _device_names(files: FileSet, column: str, index: int | None) -> pa.Array | None:
    if column == FILE_COLUMN:
        return files.file_names()
    return None if index is None else pc.fill_null(pc.utf8_trim_whitespace(files.text(index)), "")


def _argument(text: str) -> str:
    return shlex.quote(text)


def _sorted(rows: SortedRows, total: int, spread_is_wrong: bool, draft: _Draft) -> None:
    """Say what sorting found."""
    draft.dropped |= {"repeated": rows.repeated, "duplicate": rows.duplicate}
    if rows.words != {"rising"}:
        shown = (
            "newest first: turned round" if rows.words == {"newest first"} else "not in order of time: sorted"
        )
        fell = f"; they fall back {count(rows.falls, 'time')}" if rows.falls else ""
        draft.decisions.append(Decision("order", shown, f"times of all rows{fell}"))
    if rows.spread and not spread_is_wrong:
        draft.decisions.append(Decision("shared times", rows.spread, "they stand side by side in the file"))
    zone_open = any(o.startswith("--timezone") for d in draft.doubts for o in d.options)
    if rows.doubt is not None and not spread_is_wrong and not zone_open:  # else that doubt explains this one
        draft.doubts.append(rows.doubt)
    if rows.repeated:
        repeat = "rows repeat" if rows.repeated > 1 else "row repeats"
        draft.notes.append(
            f"{rows.repeated:,} {repeat} an earlier one, in time and every value: counted once"
        )
    options = ("--time-column", "--device-column")
    draft.lost("rows have the time of another row and other values", rows.duplicate, total, options)


def _check_columns(measured: Sequence[MeasuredColumn], draft: _Draft) -> None:
    others = {c.name.strip().lower(): c.name for c in measured}
    for column in measured:
        stray = [others[w] for w in column.words if others.get(w, column.name) != column.name]
        if stray:
            what = (
                f"'{stray[0]}' stands among the cells of '{column.name}': from there on the columns may have "
                "another order"
            )
            draft.doubts.append(Doubt(what, ("a file of each part", "--force (keeps the order)")))
        if column.doubt:
            options = column.options or (f"--decimal '{column.name}=.'", f"--decimal '{column.name}=,'")
            draft.doubts.append(Doubt(f"{column.name}: {column.doubt}", options, column.excerpt))
        lost = column.cells.get("unreadable", 0)
        words = list(column.words)
        every = " ".join(f"--missing {_argument(w)}" for w in words) or "--missing"
        options = ("--decimal", every)
        given = lost + column.cells.get("read", 0)
        shown = tuple(f"{w!r} {n} times" for w, n in list(column.words.items())[:3])
        draft.lost(f"cells of '{column.name}' are no numbers", lost, given, options, shown)
        if column.note:
            draft.notes.append(f"{column.name}: {column.note}")


def _record(
    files: FileSet,
    time: TimeReading | None,
    devices: Mapping[str, DeviceRows],
    columns: Sequence[ColumnRecord],
    draft: _Draft,
) -> DecisionRecord:
    steps = np.concatenate([np.diff(d.us) for d in devices.values()] or [np.empty(0)])
    times = [d.us for d in devices.values() if len(d.us)]
    rate = 1e6 / float(np.median(steps)) if len(steps) and time is not None else None
    return DecisionRecord(
        files=tuple(str(t.path) for t in files.tables),
        rows=files.rows + files.malformed,
        used=sum(len(d.us) for d in devices.values()),
        dropped=dict(draft.dropped),
        first=from_us(int(min(t[0] for t in times))) if times else None,
        last=from_us(int(max(t[-1] for t in times))) if times else None,
        recorded=time is not None and time.absolute,
        rate_hz=rate,
        devices={name: len(d.us) for name, d in devices.items()},
        columns=tuple(columns),
        decisions=tuple(draft.decisions),
        doubts=tuple(draft.doubts),
        notes=tuple(draft.notes),
    )
