"""A user's job over the commits of a task: every row once, in order, whatever dies, waits or went away."""

from __future__ import annotations

import pyarrow as pa
import pytest

from feature_store import connect
from feature_store.commit_log import SNAPSHOT, CommitLog
from feature_store.cut_store import CutStore
from schemas.tables import DRIFT
from stream_processors.derived_provenance import derived_provenance
from stream_processors.engine.checkpoint import SNAPSHOT_EVERY
from stream_processors.job import Output
from stream_processors.user_jobs.job_checkpoint import JobCheckpoint
from stream_processors.user_jobs.job_input import InputLimits
from tests.simulators.line import TASK
from tests.stream_processors.user_job_rig import NUMBERED, Numbering, UserJobRig


class CrashError(BaseException):
    """Not an ``Exception``: nothing in between may handle it, as nothing handles a kill."""


def dying_after(step):
    def method(self, *args, **kwargs):
        getattr(JobCheckpoint, step)(self, *args, **kwargs)
        raise CrashError(step)

    return type("Dying", (JobCheckpoint,), {step: method})


@pytest.fixture
def rig(tmp_path):
    made = UserJobRig(tmp_path / "lake")
    made.open()
    return made


def test_a_job_gets_every_row_that_lands_once_and_in_order(rig):
    for _ in range(3):
        rig.land(4)
        rig.run()
    assert rig.numbered() == rig.expected()


@pytest.mark.parametrize("step", ["stage_input", "decide", "apply", "conclude"])
def test_a_crash_after_any_step_loses_and_repeats_nothing(rig, step):
    rig.land(3)
    rig.run()
    rig.land(3)
    with pytest.raises(CrashError):
        rig.run(kind=dying_after(step))
    rig.land(2)
    rig.run()
    assert rig.numbered() == rig.expected()


def test_whole_commits_are_taken_up_to_the_bounds_of_a_call(rig):
    batches = []

    class Watching(Numbering):
        def process(self, batch, state, now):
            batches.append(sum(t.num_rows for t in batch.rows.values()))
            return super().process(batch, state, now)

    rig.land(7, rows=2)
    rig.run(Watching(), limits=InputLimits(rows=4, n_bytes=1 << 24))
    assert [b for b in batches if b] == [4, 4, 4, 2]
    rig.land(2, rows=9)
    rig.run(Watching(), limits=InputLimits(rows=4, n_bytes=1 << 24))
    assert [b for b in batches if b][4:] == [9, 9]
    assert rig.numbered() == rig.expected()


def test_commits_without_anything_that_the_job_reads_count_as_read(rig):
    calls = []

    class OnlyLabels(Numbering):
        reads = ("labels",)

        def process(self, batch, state, now):
            calls.append(batch)
            return super().process(batch, state, now)

    rig.land(3)
    loop = rig.run(OnlyLabels())
    assert rig.checkpoint(OnlyLabels()).open(TASK)[rig.task] == 0, "kept in memory at first"
    rig.land(1)
    rig.wait(10)
    loop.round({TASK})
    assert rig.checkpoint(OnlyLabels()).open(TASK)[rig.task] == 4
    assert {bool(batch.rows) for batch in calls} == {False}, "ticks alone"
    with connect(rig.lake.root, comments=False) as con:
        assert con.execute("SELECT reached FROM job_progress").fetchall() == [(3,)]


def test_progress_without_rows_is_shown_even_if_nothing_follows(rig):
    class Silent(Numbering):
        def process(self, batch, state, now):
            return Output(state={"calls": state.get("calls", 0) + 1}) if batch.rows else Output()

    loop = rig.loop(Silent())
    for _ in range(3):
        rig.land(1)
        loop.round({TASK})
    rig.wait(6)
    loop.round({TASK})
    with connect(rig.lake.root, comments=False) as con:
        assert con.execute("SELECT reached, behind FROM job_progress").fetchall() == [(2, 0)]


def test_two_processes_that_both_think_they_own_the_task_land_each_row_once(rig):
    rig.land(3)
    one, two = rig.loop(), rig.loop()
    for _ in range(6):
        one.round({TASK})
        two.round({TASK})
        rig.land(1)
    rig.run()
    assert rig.numbered() == rig.expected()


def test_a_process_that_was_second_lands_nothing_of_what_it_computed(rig):
    rig.land(2)
    one, two = rig.checkpoint(), rig.checkpoint()
    one.open(TASK)
    two.open(TASK)
    record = one.stage_input(TASK, one.next_input(TASK), rig.now())
    assert one.decide(record)
    rig.land(2)
    larger = two.stage_input(TASK, two.next_input(TASK), rig.now())
    assert two.commit({TASK: larger}, ()) == {TASK}
    one.apply([record])
    one.conclude([record], {})
    rig.run()
    assert rig.numbered() == rig.expected()


def test_a_commit_that_no_cut_shows_yet_is_not_read(rig):
    rig.land(1)
    rig.run()
    record = rig.worker.stage(TASK, rig.next_message(), rig.now())
    assert rig.worker.decide(record)
    rig.run()
    rig.worker.apply([record])
    rig.run()
    assert rig.numbered() == [(0, 1), (1, 2)]
    rig.worker.conclude([record], {})
    rig.run()
    assert rig.numbered() == rig.expected()


def test_a_new_job_begins_with_the_next_commit(tmp_path):
    rig = UserJobRig(tmp_path / "lake", installed=())
    rig.open()
    rig.land(3, rows=2)
    rig.installed = ("numbering",)
    rig.open()
    rig.land(2, rows=2)
    rig.run()
    assert rig.numbered() == [(6, 1), (7, 2), (8, 3), (9, 4)]


def test_a_job_may_be_called_otherwise_than_its_entry_point(tmp_path):
    rig = UserJobRig(tmp_path / "lake", installed=("entry",))
    rig.open()
    rig.land(3)
    rig.run()
    assert rig.numbered() == rig.expected()


def test_a_new_job_may_begin_with_the_earliest_rows(tmp_path):
    class FromTheStart(Numbering):
        begins = "earliest"

    rig = UserJobRig(tmp_path / "lake", installed=())
    rig.open()
    rig.land(3, rows=1)
    rig.resend(12)
    rig.land(SNAPSHOT_EVERY * 2 - 10, rows=1)
    rig.installed = ("numbering",)
    rig.open()
    rig.land(2)
    for _ in range(3):  # also where a process is replaced between two calls
        rig.run(FromTheStart(), rounds=1, limits=InputLimits(rows=2, n_bytes=1 << 24))
    rig.run(FromTheStart(), limits=InputLimits(rows=10, n_bytes=1 << 24))
    assert rig.numbered() == rig.expected()


def stopped_for(rig, commits):
    """The job reads two commits, then none of so many."""
    rig.land(2)
    rig.run()
    rig.land(commits, rows=1)


def test_a_job_that_was_stopped_for_long_goes_on_where_it_stopped(rig):
    stopped_for(rig, SNAPSHOT_EVERY * 3)
    rig.run()
    assert rig.numbered() == rig.expected()


def folder(rig, *parts):
    return rig.lake.root.joinpath("_jobs", "_feed", rig.task, *parts)


def test_what_a_job_has_not_read_outlives_its_record_and_what_all_have_read_does_not(rig):
    stopped_for(rig, SNAPSHOT_EVERY * 3)
    assert [p.name for p in sorted(folder(rig).iterdir())] == [
        f"{0:012d}-{31:012d}.json", f"{32:012d}-{63:012d}.json"
    ]  # fmt: skip
    rig.run()
    rig.land(SNAPSHOT_EVERY, rows=1)
    assert list(folder(rig).iterdir()) == []


def test_a_damaged_snapshot_stops_neither_the_task_nor_a_job_that_is_behind(rig):
    stopped_for(rig, SNAPSHOT_EVERY * 2)
    log = CommitLog(rig.lake.root)
    newest = log.path(rig.task, log.snapshots(rig.task)[0], SNAPSHOT)
    newest.write_bytes(b"")
    rig.replace_worker()
    rig.open()
    assert newest.read_bytes(), "it is written again from the one before it"
    rig.land(SNAPSHOT_EVERY, rows=1)
    rig.run()
    assert rig.numbered() == rig.expected()


@pytest.mark.long
def test_chunks_that_are_gone_or_damaged_are_made_up_for_from_the_tables(rig):
    stopped_for(rig, SNAPSHOT_EVERY * 4)
    chunks = sorted(folder(rig).iterdir())
    chunks[0].unlink()
    chunks[1].write_bytes(b'{"n": 3')
    rig.run(limits=InputLimits(rows=10, n_bytes=1 << 24))
    assert rig.numbered() == rig.expected()


def test_files_that_are_gone_are_made_up_for_from_the_tables(rig):
    from feature_store.compaction import CompactionPolicy, compact

    rig.land(1)
    rig.run()
    rig.land(9)
    compact(rig.lake, CutStore(rig.lake), CompactionPolicy(least_files=2))
    [gone, *_] = sorted((rig.lake.root / "telemetry_machine").glob("day=*/task-00.*3.*.parquet"))
    gone.unlink()
    rig.run(limits=InputLimits(rows=7, n_bytes=1 << 24))
    assert rig.numbered() == rig.expected()


class Judge:
    """A built-in job that derives a row in every commit: it carries the commit's number as its offset."""

    name, version, state_version = "drift", 1, 1
    reads, writes = ("telemetry_*",), (DRIFT.name,)

    def process(self, batch, state, now):
        if not batch.rows:
            return Output()
        row = {f.name: "x" for f in DRIFT.schema if pa.types.is_string(f.type)}
        row |= {"onset": now, "detected": now, "size": 1.0, "devices": 1, "_row": 0}
        row |= derived_provenance(batch, now)
        return Output(rows={DRIFT.name: pa.Table.from_pylist([row], schema=DRIFT.schema)})


class Collecting(Numbering):
    """Lands where each row of these tables was."""

    reads = ("drift", "quarantine")
    begins = "earliest"

    def process(self, batch, state, now):
        found = [
            {"device_id": table, "seq": offset, "number": 0, "_row": 0} | derived_provenance(batch, now)
            for table, rows in sorted(batch.rows.items())
            for offset in rows["_offset"].to_pylist()
        ]
        found = [row | {"_row": i} for i, row in enumerate(found)]
        return Output(rows={NUMBERED.name: pa.Table.from_pylist(found, schema=NUMBERED.schema)})


@pytest.mark.sliced(one_of=2)
@pytest.mark.parametrize("rows", [3, 1000])
def test_rows_that_jobs_derived_and_refused_messages_are_found_in_the_tables_too(tmp_path, rows):
    rig = UserJobRig(tmp_path / "lake", jobs=(Judge(),), installed=())
    rig.open()
    rig.land(4)
    rig.refuse(3)
    rig.land(SNAPSHOT_EVERY * 2)
    rig.refuse(1)
    rig.installed = ("numbering",)
    rig.open()
    rig.land(1)
    rig.run(Collecting(), limits=InputLimits(rows=rows, n_bytes=1 << 24))
    with connect(rig.lake.root, comments=False) as con:
        query = "SELECT device_id, list(seq ORDER BY seq) FROM numbered GROUP BY 1 ORDER BY 1"
        found = con.execute(query).fetchall()
        wanted = con.execute(
            "SELECT 'drift', list(_offset ORDER BY _offset) FROM drift UNION ALL "
            "SELECT 'quarantine', list(_offset ORDER BY _offset) FROM quarantine ORDER BY 1"
        ).fetchall()
    assert found == wanted
