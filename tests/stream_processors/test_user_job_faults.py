"""What a user's job may do wrong, and what it may come to miss: shown, kept to itself, made up for."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest

from feature_store import connect
from feature_store.commit_feed import BUILT_IN_JOBS
from feature_store.commit_log import CommitLog
from feature_store.compaction import CompactionPolicy, compact
from feature_store.cut import NEWEST_KEPT
from feature_store.cut_store import CutStore
from feature_store.job_status import RUNNING, STOPPED, WAITING, retry_pause_s
from feature_store.lake import Lake
from feature_store.maintenance import vacuum
from schemas.errors import OperatorError
from schemas.instants import utc_now
from schemas.tables import PROVENANCE, TableSpec
from stream_processors.engine.checkpoint import SNAPSHOT_EVERY
from stream_processors.job import Batch, Derived, Output
from stream_processors.user_jobs.declaration import declared, make_tables
from stream_processors.user_jobs.job_points import built_in_points
from stream_processors.user_jobs.job_source import GONE
from tests.simulators.line import TASK
from tests.stream_processors.user_job_rig import NUMBERED, Numbering, UserJobRig


@pytest.fixture
def rig(tmp_path):
    made = UserJobRig(tmp_path / "lake")
    made.open()
    return made


def status(rig):
    return rig.statuses.read("numbering", rig.task)


class Unruly(Numbering):
    """Does what it is told instead of numbering rows, once it gets rows."""

    def __init__(self, deed):
        self._deed = deed

    def process(self, batch, state, now):
        return self._deed() if batch.rows else super().process(batch, state, now)


def raising(error):
    def deed():
        raise error

    return deed


def numbered(**columns):
    """A row of the job's table with other values in some columns."""
    row = {"device_id": ["machine-00"], "seq": [1], "number": [1], "known_at": [utc_now()]}
    return pa.table(row | {"_partition": [0], "_offset": [0], "_row": [0]} | columns)


class Changing(dict):
    def items(self):
        raise RuntimeError("changed meanwhile")

    def __bool__(self):
        return True


class UnspeakableError(ValueError):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        (raising(ValueError("no\x1b[2J\nsuch thing")), "ValueError: no\\x1b[2J such thing"),
        (raising(OSError("no such file")), "OSError: no such file"),
        (lambda: sys.exit(3), "SystemExit: 3"),
        (raising(UnspeakableError()), "UnspeakableError"),
        (lambda: {"numbered": []}, "process() returned dict, not Output"),
        (lambda: Output(rows={"others": pa.table({"a": [1]})}), "['others']"),
        (lambda: Output(rows={"numbered": pa.table({"a": [1]})}), "columns ['a'] are not in the table"),
        (lambda: Output(rows={"numbered": numbered(seq=[{"a": 1}])}), "Unsupported cast from struct"),
        (lambda: Output(rows=None), "NoneType for rows"),
        (lambda: Output(state={"a": {1, 2}}), "TypeError"),
        (lambda: Output(state=Changing()), "RuntimeError: changed meanwhile"),
        (lambda: Output(messages=(b"x",)), "AttributeError"),
        (lambda: Output(counters={"a": "many"}), "TypeError"),
    ],
)
def test_whatever_is_wrong_with_a_job_stops_it_and_shows(rig, deed, says):
    rig.land(2)
    rig.loop(Unruly(deed)).round({TASK})
    found = status(rig)
    assert (found.state, found.position, found.tries) == (STOPPED, -1, 1)
    assert says in found.error
    rig.loop(Unruly(deed)).round({TASK})
    assert (status(rig).tries, status(rig).since) == (1, found.since), "its wait is not over"
    rig.statuses.retry("numbering", rig.now())
    rig.loop(Unruly(deed)).round({TASK})
    assert (status(rig).tries, status(rig).since) == (2, found.since)
    rig.statuses.retry("numbering", rig.now())
    rig.land(1)
    rig.run()
    assert (status(rig).state, status(rig).error, status(rig).position) == (RUNNING, None, 2)
    assert rig.numbered() == rig.expected()


def test_waits_between_tries_double_up_to_ten_minutes():
    assert [retry_pause_s(n) for n in (1, 2, 3, 10, 11, 99)] == [1, 2, 4, 512, 600, 600]


def test_a_process_whose_tasks_have_all_stopped_makes_way_for_a_fresh_one(rig):
    rig.land(1)
    failed = rig.run(Unruly(raising(ValueError("no"))))
    assert failed.wants_restart({TASK})
    rig.statuses.retry("numbering", rig.now())
    assert not rig.run().wants_restart({TASK})


def test_a_process_makes_way_once_the_wait_of_a_stopped_task_is_over(rig):
    rig.land(1)
    rig.loop(Unruly(raising(ValueError("no")))).round({TASK})
    loop = rig.loop()
    loop.round({TASK, TASK + 1})
    assert not loop.wants_restart({TASK, TASK + 1}), "the other task goes on meanwhile"
    rig.wait(2)
    assert loop.wants_restart({TASK, TASK + 1})


def test_a_lake_that_cannot_be_written_is_not_the_jobs_fault(rig):
    class FullDisk(Lake):
        def stage(self, table, rows, task, n):
            raise OSError(28, "No space left on device")

    rig.land(2)
    checkpoint = rig.checkpoint()
    loop = rig.loop(checkpoint=checkpoint)
    checkpoint._parts = replace(checkpoint._parts, lake=FullDisk.open(rig.lake.root))
    loop.round({TASK})
    assert (status(rig).state, status(rig).tries) == (WAITING, 0)
    assert "No space left" in status(rig).error
    rig.run()
    assert rig.numbered() == rig.expected()


def table(name, *fields):
    return TableSpec(name, "Rows.", pa.schema([*fields, *PROVENANCE]))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a/b"}, "letters, digits"),
        ({"name": "ingest"}, "is that of a built-in job"),
        ({"reads": ("telemetry_*", "devices")}, "reads 'devices', neither a topic nor a table"),
        ({"reads": ("numbered",)}, "reads 'numbered', its own table"),
        ({"tables": (table("summaries"),)}, "table name 'summaries' is taken by edgeloop"),
        ({"tables": (table("data_quality"),)}, "table name 'data_quality' is taken by edgeloop"),
        ({"tables": (table("telemetry_mine"),)}, "table name 'telemetry_mine' is taken by edgeloop"),
        ({"tables": (table("../mine"),)}, "table name '../mine'"),
        (
            {"tables": (TableSpec("mine", "Rows.", pa.schema([("a", pa.int64())])),)},
            "lacks the column known_at",
        ),
        ({"tables": ("mine",)}, "must hold TableSpec values"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(changes, says):
    with pytest.raises(OperatorError) as refused:
        declared(type("Changed", (Numbering,), changes)())
    assert says in str(refused.value)


def test_a_pattern_names_tables_of_the_built_in_jobs_alone():
    job = declared(type("Wide", (Numbering,), {"reads": ("a*", "telemetry_*")})())
    assert job.reads_table("alerts")
    assert job.reads_table("telemetry_machine")
    assert not job.reads_table("attention"), "a table of another user's job"
    assert not job.reads_table("labels")


def test_a_table_belongs_to_the_job_that_declared_it_first(rig):
    make_tables(rig.lake, declared(Numbering()))
    make_tables(rig.lake, declared(Numbering()))
    other = type("Other", (Numbering,), {"name": "other"})
    with pytest.raises(OperatorError, match="table numbered belongs to job 'numbering'"):
        make_tables(rig.lake, declared(other()))


def test_a_job_that_names_its_table_in_writes_alone_needs_it_to_be_there(rig):
    old = type("Old", (Numbering,), {"tables": (), "writes": ("numbered",)})
    with pytest.raises(OperatorError, match="no table 'numbered'"):
        make_tables(rig.lake, declared(old()))
    rig.lake.ensure_table(NUMBERED)
    make_tables(rig.lake, declared(old()))


def test_the_built_in_jobs_are_those_of_our_own_distribution():
    assert {p.load().name for p in built_in_points()} == BUILT_IN_JOBS


def later(**span):
    return utc_now() + timedelta(**span)


def data_files(rig):
    return set((rig.lake.root / "telemetry_machine").glob("day=*/task-00.*.parquet"))


def compact_and_outnumber(rig):
    """No cut on record names the files of single commits any more."""
    cuts = CutStore(rig.lake)
    compact(rig.lake, cuts, CompactionPolicy(least_files=2))
    for n in range(NEWEST_KEPT + 1):
        cuts.record({"idle": n})
    return cuts


def test_vacuum_spares_what_a_job_has_not_read_until_it_has(rig):
    rig.land(3)
    rig.run()
    rig.land(4)
    files = data_files(rig)
    cuts = compact_and_outnumber(rig)
    vacuum(rig.lake, cuts, later(minutes=61))
    assert len(files) == 7
    assert {p.name[:20] for p in data_files(rig)} == {f"task-00.{n:012d}" for n in (3, 4, 5, 6)}
    rig.run()
    vacuum(rig.lake, cuts, later(minutes=61))
    assert data_files(rig) == set()
    assert rig.numbered() == rig.expected()


def test_vacuum_spares_nothing_beyond_the_jobs_retention_and_the_job_reads_the_tables(rig):
    rig.land(2)
    rig.run()
    kept = status(rig)
    rig.statuses.write(replace(kept, retention_s=60.0), rig.now())
    rig.land(5)
    cuts = compact_and_outnumber(rig)
    vacuum(rig.lake, cuts, later(days=800))
    assert data_files(rig) == set()
    rig.run()
    assert rig.numbered() == rig.expected()


def test_a_job_that_is_forgotten_keeps_no_files(rig):
    rig.land(4)
    cuts = compact_and_outnumber(rig)
    assert rig.statuses.forget("numbering") == 0, "it has never run"
    rig.run(rounds=0)
    assert rig.statuses.forget("numbering") == 1
    vacuum(rig.lake, cuts, later(minutes=61))
    assert data_files(rig) == set()


def counters(rig):
    state = rig.checkpoint()
    state.open(TASK)
    return Counter({k.removeprefix("numbering/"): n for k, n in state.state(TASK).counters.items()})


def test_rows_that_were_deleted_before_the_job_read_them_are_counted(tmp_path):
    class FromTheStart(Numbering):
        begins = "earliest"

    rig = UserJobRig(tmp_path / "lake", installed=())
    rig.open()
    rig.land(SNAPSHOT_EVERY * 2 + 2, rows=3)
    compact_and_outnumber(rig)
    rig.installed = ("numbering",)
    rig.open()
    gone = delete_some(rig)
    rig.run(FromTheStart())
    assert counters(rig)[GONE] == gone > 0
    assert len(rig.numbered()) == len(rig.expected()) - gone


def delete_some(rig) -> int:
    """What an operator's DELETE leaves: the rows of the last commit before the known ones are in no file."""
    from deltalake import DeltaTable

    first = min(CommitLog(rig.lake.root).numbers(rig.task))
    deleted = DeltaTable(str(rig.lake.root / "telemetry_machine")).delete(f"_offset = {first - 1}")
    CutStore(Lake.open(rig.lake.root)).record({"deleted": 0})
    return deleted["num_deleted_rows"]


def restored(rig, task, before):
    """The records of one task as they were after its first ``before`` commits; everything else as it is."""
    for path in (rig.lake.root / "_commits" / task).glob("*.json"):
        if int(path.stem) >= before:
            path.unlink()


@pytest.mark.parametrize(
    ("task", "what"), [("job-numbering-00", "numbered has 4"), ("task-00", "job numbering")]
)
def test_parts_of_the_lake_from_different_moments_stop_the_job_instead_of_losing_rows(rig, task, what):
    for _ in range(4):
        rig.land(1)
        rig.run()
    restored(rig, task, 2)
    rig.run()
    assert status(rig).state == STOPPED
    assert what in status(rig).error
    assert "moment" in status(rig).error


def test_a_damaged_start_stops_the_job_and_says_what_to_remove(rig):
    rig.land(1)
    path = rig.lake.root / "_jobs" / "numbering" / "00.start"
    path.write_bytes(path.read_bytes()[:20])
    rig.run()
    assert "remove _jobs/numbering/00.start" in status(rig).error


def test_a_damaged_status_is_written_anew(rig):
    rig.land(1)
    rig.run()
    (rig.lake.root / "_jobs" / "numbering" / "00.json").write_bytes(b'{"job": "numb')
    assert status(rig) is None
    rig.land(1)
    rig.run()
    assert (status(rig).state, rig.numbered()) == (RUNNING, rig.expected())


class Sizes:
    """Reads raw messages: one row each, and a message of its own."""

    name, version, state_version = "numbering", 1, 1
    reads = ("telemetry.v1",)
    tables = (NUMBERED,)

    def process(self, batch: Batch, state, now):
        rows = [
            {"device_id": "m", "seq": m.offset, "number": len(m.value), "known_at": now, "_partition": 0,
             "_offset": batch.n, "_row": i}
            for i, m in enumerate(batch.messages)
        ]  # fmt: skip
        return Output(
            rows={"numbered": pa.Table.from_pylist(rows, schema=NUMBERED.schema)},
            messages=(Derived("sizes.v1", "all", b"{}"),) if rows else (),
        )


def test_raw_messages_are_read_back_from_the_log_and_what_is_derived_is_published(rig):
    for _ in range(2):
        rig.land(3)
        rig.run(Sizes())
    assert [seq for seq, _ in rig.numbered()] == list(range(6))
    assert [size for _, size in rig.numbered()] == [len(m.value) for m in rig.log.messages]
    assert rig.recorder.published == ["job-numbering-00/1/0", "job-numbering-00/2/0"]


def test_messages_that_have_left_the_log_stop_the_job_and_say_the_way_and_the_tables_have_them(rig):
    rig.land(2)
    rig.run(Sizes())
    rig.land(4)
    rig.held.low = 4
    rig.run(Sizes())
    assert status(rig).state == STOPPED
    assert "let it read the tables" in status(rig).error
    rig.statuses.retry("numbering", rig.now())
    rig.run()
    assert rig.numbered()[2:] == [(4 + i, 1 + i) for i in range(8)], "from the third message on"


def progress(rig, cut=None):
    with connect(rig.lake.root, cut, comments=False) as con:
        return con.execute("SELECT job, task, reached, newest, behind FROM job_progress").fetchall()


def test_a_cut_says_how_far_a_jobs_tables_are_behind_and_never_shows_them_ahead(rig):
    assert progress(rig) == []
    rig.land(3)
    rig.run()
    assert progress(rig) == [("numbering", "task-00", 2, 2, 0)]
    rig.land(2)
    assert progress(rig) == [("numbering", "task-00", 2, 4, 2)]
    rig.run()
    for cut in CutStore(rig.lake).ids():
        with connect(rig.lake.root, cut, comments=False) as con:
            [landed] = con.execute("SELECT count(*) FROM telemetry_machine").fetchone()
        for _, _, reached, newest, behind in progress(rig, cut):
            assert (behind, landed) == (newest - reached, 2 * (newest + 1))
            assert len(rig.numbered(cut)) == 2 * (reached + 1)


def test_a_cut_of_0_2_0_says_nothing_of_jobs(rig):
    rig.land(1)
    rig.run()
    path = max((rig.lake.root / "_cuts").iterdir())
    older = json.loads(path.read_bytes())
    del older["jobs"]
    path.write_text(json.dumps(older))
    assert progress(rig) == []
    assert rig.numbered() == rig.expected()
