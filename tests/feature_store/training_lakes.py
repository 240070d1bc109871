"""A small fleet in a real lake for the tests of training sets: rows, books, alarms, labels, registrations."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from feature_store.append import append
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.point_in_time import RowSelection
from schemas.profile import Profile
from schemas.row_schemas import Reason
from schemas.tables import DEVICES, LABELS
from tests.feature_store.fleets import PROFILE, TELEMETRY, fill, machine_lake
from tests.feature_store.lakes import T0

SECOND = timedelta(seconds=1)
LATER = timedelta(hours=1)
NOW = T0 + timedelta(minutes=10)
"""T of the tests: rows of ten minutes lie before it."""


def fleet_lake(root, devices=("a", "b", "c")) -> Lake:
    """A lake with these devices registered long ago."""
    lake = machine_lake(root)
    put(lake, devices=placed(devices))
    return lake


def put(lake: Lake, **tables: pa.Table) -> None:
    """Commit the rows; ``telemetry`` stands for the machine's table."""
    named = {TELEMETRY.name if name == "telemetry" else name: rows for name, rows in tables.items()}
    append(lake, CutStore(lake), "test", lambda n: {k: numbered(v, n) for k, v in named.items()})


def numbered(rows: pa.Table, n: int) -> pa.Table:
    """Rows with the commit's number as their offset."""
    at = rows.column_names.index("_offset")
    return rows.set_column(at, rows.schema.field("_offset"), pa.array([n] * rows.num_rows, pa.int64()))


def placed(devices, *, known_at: datetime = T0 - LATER, active=True, hardware="x86", site="hall") -> pa.Table:
    n = len(devices)
    return fill(
        DEVICES.schema, device_id=list(devices), profile=["machine"] * n, site=[site] * n, group=["g"] * n,
        hardware=[hardware] * n, active=[active] * n, known_at=[known_at] * n, _row=list(range(n)),
    )  # fmt: skip


def rows(device: str, seconds, *, delay=SECOND, first_seq=0, **columns) -> pa.Table:
    """Rows of windows that end at these seconds after ``T0``, and when each became known."""
    seconds = list(seconds)
    n = len(seconds)
    rng = np.random.default_rng(len(device) * 1000 + n)
    made = {
        "device_id": [device] * n,
        "boot_id": [1] * n,
        "seq": [first_seq + s for s in seconds],
        "event_time": [T0 + s * SECOND for s in seconds],
        "known_at": [T0 + s * SECOND + delay for s in seconds],
        "decision": ["none"] * n,
        "reasons": [int(Reason.SAMPLE)] * n,
        "inclusion_probability": [0.5] * n,
        "model_version": ["machine-0"] * n,
        "score": [0.1] * n,
        **{f: rng.normal(5, 1, n).astype("float32") for f in PROFILE.feature_names},
        **columns,
    }
    return fill(TELEMETRY.schema, **made)


def labels(device: str, start: int, end: int, label: str, *, known_at: datetime, **columns) -> pa.Table:
    """One label of the seconds (start, end] after ``T0``."""
    made = {
        "label_id": [f"{device}-{start}"],
        "device_id": [device],
        "span_start": [T0 + start * SECOND],
        "span_end": [T0 + end * SECOND],
        "label": [label],
        "source": ["labeller/test"],
        "confidence": [1.0],
        "label_probability": [1.0],
        "known_at": [known_at],
        **{k: [v] for k, v in columns.items()},
    }
    return fill(LABELS.schema, **made)


def profile_with(**training: object) -> Profile:
    """The machine profile with another training policy; weights are unbounded unless it says so."""
    free = {"clip_weight": 1e9, "device_share": 1.0}
    return PROFILE.model_copy(update={"training": PROFILE.training.model_copy(update={**free, **training})})


def selection(**changes) -> RowSelection:
    """All rows of the ten minutes, known at their end."""
    return RowSelection(
        **{"profile": profile_with(), "event_from": T0, "event_to": NOW, "known_at": NOW, **changes}
    )
