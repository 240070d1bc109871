"""Small real lakes of rows that devices sent, without a pipeline: for compactions."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from feature_store import parquet
from feature_store.cut_store import CutStore
from feature_store.lake import Lake, TableCommit
from schemas.row_schemas import TIME
from schemas.tables import PROVENANCE, TableSpec
from tests.feature_store.lakes import T0

SEEN = TableSpec(
    "seen_rows",
    "Rows of devices.",
    pa.schema(
        [
            pa.field("device_id", pa.string(), False, {"doc": "Whose."}),
            pa.field("event_time", TIME, False, {"doc": "When."}),
            pa.field("k", pa.int64(), False, {"doc": "Number."}),
            *PROVENANCE,
        ]
    ),
)


def seen_lake(root: Path) -> tuple[Lake, CutStore]:
    """A lake with the table."""
    lake = Lake.open(root)
    lake.ensure_table(SEEN)
    return lake, CutStore(lake)


def rows(keys) -> pa.Table:
    """Rows of three devices, the newest first."""
    keys = list(keys)
    return pa.table(
        {
            "device_id": [f"m-{k % 3}" for k in keys],
            "event_time": [T0 - timedelta(seconds=k) for k in keys],
            "k": keys,
            "known_at": [T0] * len(keys),
            "_partition": [0] * len(keys),
            "_offset": keys,
            "_row": [0] * len(keys),
        },
        schema=SEEN.schema,
    )


def land_each(lake: Lake, cuts: CutStore, numbers: range, n_rows: int = 1) -> None:
    """All steps of several commits, a file each, in one entry of the log."""
    made = []
    for n in numbers:
        keys = range(n * n_rows, (n + 1) * n_rows)
        made.append(TableCommit("a", n, tuple(lake.stage(SEEN.name, rows(keys), "a", n))))
    lake.apply(SEEN.name, made)
    cuts.record({"a": numbers[-1]})


def land(lake: Lake, cuts: CutStore, n: int, keys, task: str = "a") -> None:
    """All steps of commit n."""
    lake.apply(SEEN.name, [TableCommit(task, n, tuple(lake.stage(SEEN.name, rows(keys), task, n)))])
    cuts.record({task: n})


def keys_in(lake, cut=None) -> list[int]:
    """Keys of a cut's rows, sorted."""
    found = CutStore(lake).latest() if cut is None else CutStore(lake).read(cut)
    parts = [parquet.read(lake.root / SEEN.name / f, SEEN.schema) for f in found.tables[SEEN.name].files]
    return sorted(parquet.concat(parts, SEEN.schema)["k"].to_pylist())
