"""Small real lakes: two tables of numbered rows, and how to write them step by step."""

import multiprocessing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from feature_store.commit_log import CommitLog
from feature_store.cut import NEWEST_KEPT
from feature_store.cut_store import CutStore
from feature_store.lake import Lake, TableCommit
from feature_store.sql import connect
from schemas.tables import PROVENANCE, TableSpec

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
LEFT = TableSpec(
    "left_rows",
    "Numbered rows.",
    pa.schema([pa.field("k", pa.int64(), False, {"doc": "Number."}), *PROVENANCE]),
)
RIGHT = TableSpec("right_rows", "The same rows again.", LEFT.schema)
SPAWN = multiprocessing.get_context("spawn")


def two_tables(root: Path) -> Lake:
    """A lake with both tables."""
    lake = Lake.open(root)
    lake.ensure_table(LEFT)
    lake.ensure_table(RIGHT)
    return lake


def rows(keys, at=T0) -> pa.Table:
    """Rows of either table."""
    keys = list(keys)
    columns = {
        "k": keys,
        "known_at": [at] * len(keys),
        "_partition": [0] * len(keys),
        "_offset": keys,
        "_row": [0] * len(keys),
    }
    return pa.table(columns, schema=LEFT.schema)


def staged(lake: Lake, table: str, task: str, n: int, keys) -> TableCommit:
    """Step 1 of commit n."""
    return TableCommit(task, n, tuple(lake.stage(table, rows(keys), task, n)))


def commit(lake: Lake, cuts: CutStore, task: str, n: int, keys) -> None:
    """All steps of commit n, the same rows in both tables."""
    keys = list(keys)
    for table in (LEFT.name, RIGHT.name):
        lake.apply(table, [staged(lake, table, task, n, keys)])
    cuts.record({task: n})
    CommitLog(lake.root).mark_applied(task, n)


def outnumber(cuts: CutStore) -> None:
    """Record enough cuts that none of the present ones is among the newest."""
    for n in range(NEWEST_KEPT + 1):
        cuts.record({"idle": n})


def keys_in(root: Path, table: str = LEFT.name, cut=None) -> list[int]:
    """Keys that a cut shows, sorted."""
    with connect(root, cut, comments=False) as con:
        return [k for (k,) in con.execute(f"SELECT k FROM {table} ORDER BY k").fetchall()]


def in_processes(target, *argument_lists) -> list:
    """Run a function in one new process per argument list, all at once; their results in order."""
    with SPAWN.Pool(len(argument_lists)) as pool:
        return pool.starmap(target, argument_lists)
