"""Doubts a file that mixes the rows of several devices, and names the column that tells them apart. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.reading.decision_record import Doubt
from infra.reading.device_column import MIXED, SURELY, named_devices, propose_device_column, repeats_of
from infra.reading.device_rows import SortedRows
from infra.reading.file_set import FILE_COLUMN, FileSet
from infra.reading.measured_column import ColumnWishes, MeasuredColumn
from infra.reading.time_forms import Ints

_QUANTITIES = re.compile(
    r"(?i)^(tag|tag[ _]?name|variable|parameter|signal|quantity|measurement|metric|field|property|kind|type"
    r"|messgr[oö](ss|ß)e|kanal|channel|point|item|attribute)s?$"
)
"""Names of a column whose values may be quantities: one row for each of them, and not one for each device."""


def mixed_devices(
    files: FileSet, us: Ints, kept: NDArray[np.int64], used: set[int], rows: SortedRows,
    columns: Sequence[MeasuredColumn],
) -> Doubt | None:  # fmt: skip
    """A doubt where a column explains why times repeat: several devices are mixed."""
    if rows.collisions < MIXED * len(us):
        named = named_devices([(files.names[i], files.text(i)) for i in files.short_texts(used, SURELY)])
        if named is None:
            return None
        options = (f"--device-column {shlex.quote(named.column)}", "--device-column none")
        return Doubt(f"several devices: {named.evidence}", options, named.values[:5])
    repeats = repeats_of(us)
    candidates = [(files.names[i], files.text(i).take(pa.array(kept))) for i in files.short_texts(used)]
    if len(files.tables) > 1:
        candidates.append((FILE_COLUMN, files.file_names().take(pa.array(kept))))
    proposal = propose_device_column(us, candidates, repeats)
    if proposal is None:
        return _several_unnamed(columns, rows)
    shown = (
        f"{len(proposal.values)}: {', '.join(proposal.values[:5])}{' …' if len(proposal.values) > 5 else ''}"
    )
    option = f"--device-column {shlex.quote(proposal.column)}"
    if _QUANTITIES.search(proposal.column):
        what = f"several devices, or quantities: {proposal.evidence}"
        pivot = "a file with a column for each quantity, where these are no devices (the reader makes none)"
        return Doubt(what, (option, pivot), (shown,))
    return Doubt(f"several devices: {proposal.evidence}", (option,), (shown,))


def _several_unnamed(columns: Sequence[MeasuredColumn], rows: SortedRows) -> Doubt | None:
    """A doubt where rows that share a time keep levels of their own, and no column names their devices."""
    if rows.level is None:
        return None
    what = (
        f"several devices without a name: in '{columns[rows.level].name}' rows that share a time keep apart"
    )
    return Doubt(what, ("--device-column", "--device-column none (one device, measured several times)"))


def wanted_columns(files: FileSet, wishes: ColumnWishes) -> set[int]:
    """Columns that a person or a profile takes as channels: they tell no devices apart."""
    names = {n.strip() for n in (*wishes.keep, *(wishes.only or ()))}
    return {i for i, name in enumerate(files.names) if name.strip() in names}
