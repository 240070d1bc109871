"""What a user's job writes to the pipe that its process reports through is believed if it is a report."""

from __future__ import annotations

import logging
import os

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.job_status import STOPPED, JobStatusFiles
from schemas.instants import utc_now
from stream_processors.settings import StreamSettings
from stream_processors.user_jobs.child_report import (
    BUSY,
    CALLING,
    LOADED,
    LOADING,
    REFUSED,
    line_of,
    report_of,
)
from stream_processors.user_jobs.job_process import JobProcess
from tests.simulators.installed_jobs import install
from tests.simulators.line import make_lake
from tests.waiting import wait_until

REPORTS = [
    (LOADING, {}),
    (LOADED, {"job": "mine"}),
    (REFUSED, {"error": "no", "traceback": "Traceback"}),
    (CALLING, {"task": 0, "upto": 7}),
    (BUSY, {}),
]
STRANGE = [
    b"",
    b"5",
    b"[1]",
    b"null",
    b"true",
    b'"busy"',
    b"{}",
    b"a print",
    b'{"phase": 5}',
    b'{"phase": "x"}',
]
RUDE = f"""
import os

for descriptor in range(3, 1024):
    try:
        os.write(descriptor, b"".join(line + bytes([10]) for line in {STRANGE!r}))
    except OSError:
        pass
raise ImportError("and has said so")
"""
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["phase", "job", "task"]), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(("phase", "more"), REPORTS)
def test_a_report_is_read_as_it_was_written_and_needs_each_of_its_fields(phase, more):
    assert report_of(line_of(phase, **more)) == {"phase": phase, **more}
    for name in more:
        assert report_of(line_of(phase, **{k: v for k, v in more.items() if k != name})) is None
        assert report_of(line_of(phase, **{**more, name: [more[name]]})) is None


@pytest.mark.parametrize("line", STRANGE)
def test_a_line_that_is_no_report_is_none(line):
    assert report_of(line) is None


@given(json | st.binary())
def test_whatever_is_written_is_a_report_or_none(written):
    found = report_of(written if isinstance(written, bytes) else orjson.dumps(written))
    assert found is None or found["phase"] in dict(REPORTS)


def test_a_job_that_writes_into_its_workers_pipe_is_counted_told_once_and_judged_by_its_reports(
    tmp_path, monkeypatch, caplog
):
    install(tmp_path, "rude", RUDE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("STREAM_LAKE_ROOT", str(make_lake(tmp_path / "lake").root))
    settings = StreamSettings(lake_root=tmp_path / "lake")
    process = JobProcess("rude", settings, JobStatusFiles(tmp_path / "lake"), tick_s=0.01)

    def found():
        return JobStatusFiles(tmp_path / "lake").read("rude", "task-00")

    def ends():
        process.check([0], utc_now())
        return found() is not None

    with caplog.at_level(logging.WARNING):
        wait_until(ends, 60, "the job to be stopped")
    assert (found().state, found().error) == (STOPPED, "ImportError: and has said so")
    assert process.strange_lines == len(STRANGE)
    assert sum("are no reports" in r.getMessage() for r in caplog.records) == 4  # 1, 2, 4, 8 lines
    assert not any(r.exc_info for r in caplog.records)
