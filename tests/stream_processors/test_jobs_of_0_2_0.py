"""A job that was written for 0.2.0 is still found by its entry point and runs: its import paths are kept."""

import sys
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import entry_points

import pytest

import stream_processors
from feature_store import connect
from schemas.errors import TaskLostError
from stream_processors.engine.checkpoint import SNAPSHOT_EVERY, Checkpoint
from stream_processors.engine.pipeline import in_order, run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.job import RawMessage
from tests.simulators.line import TASK
from tests.stream_processors.user_job_rig import NUMBERED, Numbering, UserJobRig

NOW = datetime(2026, 1, 1, tzinfo=UTC)

JOB = """
from collections import Counter
from datetime import datetime

import pyarrow as pa

from schemas.tables import PROVENANCE, TableSpec
from stream_processors.derived import derived_provenance
from stream_processors.jobs.base import Batch, Derived, Job, Output, RawMessage, State
from stream_processors.jobs.context import JobContext

TABLE = TableSpec(
    "sizes", "How large messages were.", pa.schema([pa.field("bytes", pa.int64(), False), *PROVENANCE])
)


class Sizes(Job):
    name = "sizes"
    version = 1
    state_version = 1
    reads = ("telemetry.v1",)
    writes = (TABLE.name,)

    def __init__(self, context: JobContext) -> None:
        self._context = context

    def process(self, batch: Batch, state: State, now: datetime) -> Output:
        messages: tuple[RawMessage, ...] = batch.messages
        rows = [
            {"bytes": len(m.value), **derived_provenance(batch, now), "_row": i}
            for i, m in enumerate(messages)
        ]
        return Output(
            rows={TABLE.name: pa.Table.from_pylist(rows, schema=TABLE.schema)},
            state={"n": state.get("n", 0) + len(rows)},
            messages=(Derived("sizes.v1", "all", b"%d" % len(rows)),),
            counters=Counter(sized=len(rows)),
        )
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The job as pip leaves it: a module, and a distribution that names it."""
    (tmp_path / "sizes.py").write_text(JOB)
    distribution = tmp_path / "sizes-0.1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: sizes\nVersion: 0.1.0\n")
    (distribution / "entry_points.txt").write_text("[edgeloop.jobs]\nsizes = sizes:Sizes\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("sizes", None)


def test_a_job_written_for_0_2_0_is_found_by_its_entry_point_and_runs(installed):
    [point] = entry_points(group="edgeloop.jobs", name="sizes")
    messages = [RawMessage("telemetry.v1", 3, i, 1_767_225_600_000, b"m-1", [], b"x" * i) for i in range(3)]
    output = run_jobs(in_order([point.load()(None)]), messages, TaskState("task-03"), NOW)
    assert output.rows["sizes"]["bytes"].to_pylist() == [0, 1, 2]
    assert output.rows["sizes"]["_partition"].to_pylist() == [3, 3, 3]
    assert (output.state, output.counters) == ({"sizes/n": 3}, {"sizes/sized": 3})
    assert [m.topic for m in output.messages] == ["sizes.v1"]


def test_its_names_are_the_ones_of_today(installed):
    [point] = entry_points(group="edgeloop.jobs", name="sizes")
    module = sys.modules[point.load().__module__]
    for name in ("Batch", "Derived", "Job", "JobContext", "Output", "RawMessage", "derived_provenance"):
        assert getattr(module, name) is getattr(stream_processors, name)


@pytest.mark.parametrize(
    ("old", "name"), [("ingest", "Ingest"), ("aggregate", "AggregateWindows"), ("drift", "DriftWatch")]
)
def test_a_built_in_job_is_found_under_its_old_name_and_its_new_one(old, name):
    [new] = [e for e in entry_points(group="edgeloop.jobs") if e.name == old]
    assert getattr(import_module(f"stream_processors.jobs.{old}"), name) is new.load()


class OldNumbering(Numbering):
    """As it was written for 0.2.0: it names its table in ``writes``, and somebody made the table by hand."""

    tables = ()
    writes = (NUMBERED.name,)


@pytest.fixture
def old(tmp_path):
    """A lake in which a worker of 0.2.0 ran the job within its own commits: its state is in ``task-00``."""
    rig = UserJobRig(tmp_path / "lake", jobs=(OldNumbering(),))
    rig.lake.ensure_table(NUMBERED)
    rig.worker.open(TASK)
    rig.land(5)
    assert rig.worker.state(TASK).of_job("numbering") == {"machine-00": 10}
    return rig


def upgrade(rig):
    rig.replace_worker()
    rig.open()


@pytest.mark.parametrize("job", [OldNumbering, Numbering])
def test_a_job_of_0_2_0_goes_on_from_its_state_and_misses_and_repeats_nothing(old, job):
    upgrade(old)
    old.land(5)
    old.run(job())
    assert old.numbered() == old.expected()


def test_its_first_commit_here_has_a_number_that_no_row_of_it_had_before(old):
    upgrade(old)
    old.land(2)
    old.run()
    with connect(old.lake.root, comments=False) as con:
        twice = con.execute("SELECT _partition, _offset, _row FROM numbered GROUP BY ALL HAVING count(*) > 1")
        assert twice.fetchall() == []


def test_it_may_come_back_long_after_the_upgrade(old):
    old.installed = ()
    upgrade(old)
    old.land(SNAPSHOT_EVERY * 2 + 3, rows=1)
    old.installed = ("numbering",)
    upgrade(old)
    old.run()
    assert old.numbered() == old.expected()


def test_a_commit_that_0_2_0_had_only_decided_is_finished_with_the_rows_of_the_job(old):
    def dying(self, records):
        raise KeyboardInterrupt

    old.replace_worker((OldNumbering(),), type("Dying", (Checkpoint,), {"apply": dying}))
    old.worker.open(TASK)
    with pytest.raises(KeyboardInterrupt):
        old.land(1)
    upgrade(old)
    old.land(1)
    old.run()
    assert old.numbered() == old.expected()


def test_commits_of_a_worker_that_was_not_upgraded_yet_are_not_computed_again(old):
    upgrade(old)
    old.replace_worker((OldNumbering(),))
    old.worker.open(TASK)
    old.land(3)
    upgrade(old)
    old.land(2)
    old.run()
    assert old.numbered() == old.expected()


def test_an_old_worker_that_wakes_after_the_upgrade_lands_nothing(old):
    sleeping = old.worker
    upgrade(old)
    old.land(1)
    old.worker, awake = sleeping, old.worker
    with pytest.raises(TaskLostError):
        old.land(1)
    old.worker = awake
    old._sent -= 2
    old.run()
    assert old.numbered() == old.expected()
