"""A job that was written for 0.2.0 is still found by its entry point and runs: its import paths are kept."""

import sys
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import entry_points

import pytest

import stream_processors
from stream_processors.engine.pipeline import in_order, run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.job import RawMessage

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
