"""Stage and apply: files land exactly once, in whatever order and by whomever."""

import json
import os
import random
from datetime import timedelta

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from feature_store import connect
from feature_store.append import append, finish
from feature_store.commit_log import CommitLog
from feature_store.compaction import CompactionPolicy, compact
from feature_store.cut_store import CutStore
from feature_store.delta import CHECKPOINT_EVERY
from feature_store.lake import Lake, StagedFile, TableCommit
from schemas.errors import OperatorError
from schemas.profile_file import find_profile
from schemas.tables import TableSpec, telemetry_table
from tests.feature_store.fleets import land, machine_lake, telemetry
from tests.feature_store.lakes import (
    HOUR,
    LEFT,
    RIGHT,
    SPAWN,
    T0,
    commit,
    in_processes,
    keys_in,
    rows,
    staged,
    two_tables,
)
from tests.waiting import wait_until


def landed(root, table=LEFT.name) -> list[int]:
    """What Delta itself holds, cuts aside."""
    return sorted(DeltaTable(str(root / table)).to_pyarrow_table()["k"].to_pylist())


def test_applying_the_same_commit_twice_lands_it_once(lake_root):
    lake = two_tables(lake_root)
    first = staged(lake, LEFT.name, "t", 0, range(5))
    version = lake.apply(LEFT.name, [first])
    assert lake.apply(LEFT.name, [first]) == version
    assert Lake.open(lake_root).apply(LEFT.name, [first]) == version  # a fresh handle knows too
    assert landed(lake_root) == list(range(5))


def test_another_writers_files_for_a_landed_number_are_skipped(lake_root):
    lake = two_tables(lake_root)
    lake.apply(LEFT.name, [staged(lake, LEFT.name, "t", 3, [1])])
    zombie = Lake.open(lake_root)
    zombie.apply(LEFT.name, [staged(zombie, LEFT.name, "t", 3, [2])])
    zombie.apply(LEFT.name, [staged(zombie, LEFT.name, "t", 2, [3])])
    assert landed(lake_root) == [1]
    assert lake.applied(LEFT.name, "t") == 3


def test_a_stale_handle_does_not_repeat_what_others_applied(lake_root):
    lake, other = two_tables(lake_root), Lake.open(lake_root)
    assert other.applied(LEFT.name, "t") is None  # other's handle is now as old as the table
    first = staged(lake, LEFT.name, "t", 0, [0])
    lake.apply(LEFT.name, [first])
    other.apply(LEFT.name, [first])
    assert landed(lake_root) == [0]


def test_several_commits_of_several_tasks_land_in_one_version(lake_root):
    lake = two_tables(lake_root)
    before = lake.apply(LEFT.name, [])
    group = [staged(lake, LEFT.name, task, n, [10 * n + i]) for i, task in enumerate("ab") for n in (0, 1)]
    assert lake.apply(LEFT.name, group) == before + 1
    assert landed(lake_root) == [0, 1, 10, 11]
    assert (lake.applied(LEFT.name, "a"), lake.applied(LEFT.name, "b")) == (1, 1)


def test_staged_files_come_back_whole_from_a_commit_record(lake_root):
    lake = two_tables(lake_root)
    commit_0 = staged(lake, LEFT.name, "t", 0, range(7))
    record = orjson.dumps([f.to_json() for f in commit_0.files])
    restored = tuple(StagedFile.from_json(raw) for raw in orjson.loads(record))
    assert restored == commit_0.files
    Lake.open(lake_root).apply(LEFT.name, [TableCommit("t", 0, restored)])
    assert landed(lake_root) == list(range(7))


def apply_many(root, task, commits):
    lake = Lake.open(root)
    for n in range(commits):
        lake.apply(LEFT.name, [staged(lake, LEFT.name, task, n, [1000 * int(task) + n])])


def test_two_processes_that_apply_at_once_lose_nothing(lake_root):
    two_tables(lake_root)
    in_processes(apply_many, (lake_root, "1", 40), (lake_root, "2", 40))
    assert landed(lake_root) == [1000 * task + n for task in (1, 2) for n in range(40)]


def test_two_processes_that_apply_the_same_commits_land_each_once(lake_root):
    two_tables(lake_root)
    in_processes(apply_many, (lake_root, "1", 40), (lake_root, "1", 40))
    assert landed(lake_root) == [1000 + n for n in range(40)]


def make_tables(root):
    return two_tables(root).tables()


def test_processes_may_create_the_same_tables_at_once(lake_root):
    made = in_processes(make_tables, *[(lake_root,)] * 3)
    assert made == [[LEFT.name, RIGHT.name]] * 3


def test_transactions_survive_checkpoints_of_the_log(lake_root):
    lake = two_tables(lake_root)
    first = staged(lake, LEFT.name, "early", 0, [-1])
    lake.apply(LEFT.name, [first])
    for n in range(CHECKPOINT_EVERY + 5):
        lake.apply(LEFT.name, [staged(lake, LEFT.name, "t", n, [n])])
    assert list((lake_root / LEFT.name / "_delta_log").glob("*.checkpoint*.parquet"))
    Lake.open(lake_root).apply(LEFT.name, [first])
    assert landed(lake_root) == list(range(-1, CHECKPOINT_EVERY + 5))


def test_a_handle_that_slept_through_a_log_clean_up_commits_to_the_present(lake_root):
    sleeper, lake = two_tables(lake_root), Lake.open(lake_root)
    assert sleeper.applied(LEFT.name, "t") is None
    for n in range(2 * CHECKPOINT_EVERY + 1):
        lake.apply(LEFT.name, [staged(lake, LEFT.name, "t", n, [n])])
    version = lake.snapshot(LEFT.name).version
    assert lake.log(LEFT.name).forget(version, T0 + 10_000 * 24 * HOUR) > CHECKPOINT_EVERY
    assert not sleeper.log(LEFT.name).commit([], [], {"t": 5})
    sleeper.apply(LEFT.name, [staged(sleeper, LEFT.name, "awake", 0, [-1])])
    assert landed(lake_root) == list(range(-1, 2 * CHECKPOINT_EVERY + 1))


def test_rows_land_in_the_day_they_became_known(lake_root):
    lake = two_tables(lake_root)
    both = pa.concat_tables([rows([1], T0), rows([2], T0 + 24 * HOUR), rows([3], T0)])
    files = lake.stage(LEFT.name, both, "t", 0)
    assert {f.day: f.rows for f in files} == {"2026-01-01": 2, "2026-01-02": 1}
    lake.apply(LEFT.name, [TableCommit("t", 0, tuple(files))])
    assert landed(lake_root) == [1, 2, 3]


def test_statistics_in_the_log_hold_for_every_row(lake_root):
    lake = two_tables(lake_root)
    odd = T0 + timedelta(microseconds=1)  # the log keeps milliseconds: bounds must be rounded outwards
    [file] = lake.stage(LEFT.name, pa.concat_tables([rows([4, 9], T0), rows([7], odd)]), "t", 0)
    stats = json.loads(file.stats)
    assert stats["numRecords"] == file.rows == 3
    assert stats["minValues"]["known_at"] == "2026-01-01T12:00:00.000Z"
    assert stats["maxValues"]["known_at"] == "2026-01-01T12:00:00.001Z"
    assert stats["nullCount"] == {"known_at": 0}
    assert (lake_root / LEFT.name / file.path).stat().st_size == file.size


@pytest.mark.parametrize(
    "wrong",
    [
        rows([1]).append_column("stranger", pa.array([1])),
        rows([1]).drop_columns("k"),
        rows([1]).set_column(0, "k", pa.array([None], pa.int64())),
    ],
    ids=["unknown column", "required column missing", "null where none may be"],
)
def test_rows_that_do_not_fit_the_table_are_refused(lake_root, wrong):
    with pytest.raises(ValueError, match=r"stranger|must not|null|k"):
        two_tables(lake_root).stage(LEFT.name, wrong, "t", 0)


def test_columns_are_added_and_old_files_read_as_null(lake_root):
    lake, elsewhere = two_tables(lake_root), Lake.open(lake_root)
    cuts = CutStore(lake)
    commit(elsewhere, cuts, "t", 0, [1])
    wider = TableSpec(
        LEFT.name, LEFT.doc, pa.schema([pa.field("note", pa.string(), True, {"doc": "Note."}), *LEFT.schema])
    )
    lake.ensure_table(wider)
    cuts.record({"b": 0})
    assert notes(lake_root) == [(1, None)]  # no file has the column yet
    noted = rows([2]).append_column("note", pa.array(["x"]))
    elsewhere.apply(LEFT.name, [TableCommit("t", 1, tuple(elsewhere.stage(LEFT.name, noted, "t", 1)))])
    cuts.record({"t": 1})
    assert notes(lake_root) == [(1, None), (2, "x")]  # some have
    assert compact(lake, cuts, CompactionPolicy(least_files=2)) == 2
    assert notes(lake_root) == [(1, None), (2, "x")]  # all have


def notes(root):
    with connect(root, comments=False) as con:
        return con.execute(f"SELECT k, note FROM {LEFT.name} ORDER BY k").fetchall()


def test_a_column_never_changes_its_type(lake_root):
    lake = two_tables(lake_root)
    retyped = TableSpec(LEFT.name, "", pa.schema([pa.field("k", pa.string(), False, {"doc": ""})]))
    with pytest.raises(OperatorError, match="column k is int64"):
        lake.ensure_table(retyped)


def test_any_delta_reader_reads_every_type_of_telemetry(lake_root):
    lake = Lake.open(lake_root)
    spec = telemetry_table(find_profile("machine"))
    lake.ensure_table(spec)
    values = {"known_at": T0, "event_time": T0, "device_id": "d", "score": 0.25, "vibration_rms": 1.5}
    row = {f.name: values.get(f.name, _some(f)) for f in spec.schema}
    table = pa.Table.from_pylist([row], schema=spec.schema)
    lake.apply(spec.name, [TableCommit("t", 0, tuple(lake.stage(spec.name, table, "t", 0)))])
    [back] = DeltaTable(str(lake_root / spec.name)).to_pyarrow_table(columns=spec.schema.names).to_pylist()
    assert back == row


def test_an_engine_that_prunes_by_the_log_finds_every_row(lake_root):
    lake = machine_lake(lake_root)
    for n, devices in enumerate((["m-1", "m-5"], ["m-3", "m-9"], ["x" * 200], ["y" * 50_000])):
        land(lake, telemetry=telemetry(device_id=devices, seq=[n] * len(devices)))
    table = DeltaTable(str(lake_root / "telemetry_machine"))
    bounds = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    assert {(b.get("min.device_id"), b.get("max.device_id")) for b in bounds} == {
        ("m-1", "m-5"), ("m-3", "m-9"), ("x" * 64, "x" * 64 + "\U0010ffff"), ("", "\U0010ffff"),
    }  # fmt: skip
    for device, n in (("m-1", 1), ("m-9", 1), ("x" * 200, 1), ("y" * 50_000, 1), ("m-4", 0)):
        assert table.to_pyarrow_dataset().count_rows(pc.field("device_id") == device) == n


def _some(field):
    if field.nullable:
        return None
    return {pa.string(): "", pa.bool_(): False}.get(field.type, 1)


def write_until_killed(root, started):
    lake = two_tables(root)
    cuts = CutStore(lake)
    started.set()
    while True:
        n = append(lake, cuts, "t", both_tables)
        if n % 7 == 6:
            compact(lake, cuts, CompactionPolicy(least_files=2))


def run_and_kill(root, rng):
    log, started = CommitLog(root), SPAWN.Event()
    writer = SPAWN.Process(target=write_until_killed, args=(root, started))
    writer.start()
    assert started.wait(60)
    goal = (log.latest("t") or 0) + rng.randrange(1, 12)
    wait_until(lambda: (log.latest("t") or 0) >= goal, what=f"commit {goal}")
    wait_until(lambda: rng.random() < 0.3, what="a random instant")
    os.kill(writer.pid, 9)
    writer.join()


def both_tables(n):
    keys = range(10 * n, 10 * n + 10)
    return {LEFT.name: rows(keys), RIGHT.name: rows(keys)}


@pytest.mark.faults
def test_a_writer_killed_anywhere_leaves_each_decided_row_exactly_once(lake_root):
    two_tables(lake_root)
    rng = random.Random(7)
    for _ in range(6):
        run_and_kill(lake_root, rng)
    lake = Lake.open(lake_root)
    finish(lake, CutStore(lake), "t")
    decided = CommitLog(lake_root).latest("t")
    expected = list(range(10 * decided + 10))
    for table in (LEFT.name, RIGHT.name):
        assert landed(lake_root, table) == expected
        assert keys_in(lake_root, table) == expected


def test_files_are_compressed_and_hold_no_copy_of_the_arrow_schema(lake_root):
    lake = two_tables(lake_root)
    [file] = lake.stage(LEFT.name, rows(range(1000)), "t", 0)
    meta = pq.ParquetFile(lake_root / LEFT.name / file.path).metadata
    assert meta.row_group(0).column(0).compression == "LZ4"
    assert b"ARROW:schema" not in (meta.metadata or {})
