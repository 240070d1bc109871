"""Whoever looks or waits is told which process does not do its work, and the last line that it printed."""

import json
import os
from datetime import UTC, datetime

import pytest

from infra.process.child import created_at
from infra.stack.running import await_ready
from infra.stack.stack_file import ProcessEntry, StackFile, StackLock, TroubleWatch, write_stack
from schemas.errors import StackError
from tests.infra.cli import EdgeloopHere

SINCE = datetime(2026, 1, 2, tzinfo=UTC)
LAST = "KeyError: 'bearing'"


def entry(name: str, **facts) -> ProcessEntry:
    mine = os.getpid()
    return ProcessEntry(name=name, pid=mine, created=created_at(mine), log=f"/logs/{name}.log", **facts)


def stack_of(*processes: ProcessEntry, state="ready") -> StackFile:
    mine = os.getpid()
    return StackFile(
        state=state, owner="up", pid=mine, created=created_at(mine), started_at=SINCE, processes=processes
    )


@pytest.fixture
def edgeloop(tmp_path):
    """A folder whose stack this process holds."""
    lock = StackLock(tmp_path / "state")
    assert lock.acquire()
    yield EdgeloopHere(tmp_path / "state")
    lock.release()


LOOPS = entry("model-trainer", restarts=7, ends=3, since=SINCE, last_line=LAST)
GIVEN_UP = entry("worker-1", restarts=6, failed=f"ended 7 times in a row, exit code 1: {LAST}")


@pytest.mark.parametrize("ailing", [LOOPS, GIVEN_UP], ids=lambda e: e.name)
def test_a_stack_is_not_ready_while_one_of_its_processes_ends_again_and_again(edgeloop, ailing):
    write_stack(edgeloop.state_dir, stack_of(entry("kafka"), ailing))
    found = edgeloop.json("status")
    assert found["state"] == "degraded"
    assert {p["name"]: p["state"] == "running" for p in found["processes"]} == {
        "kafka": True,
        ailing.name: False,
    }
    [problem] = [p for p in found["problems"] if p.startswith(ailing.name)]
    assert LAST in problem
    shown = edgeloop("status").stdout
    assert "stack   degraded" in shown
    assert LAST in " ".join(shown.split())


def test_the_restarts_the_reason_and_since_when_are_facts_of_the_process(edgeloop):
    write_stack(edgeloop.state_dir, stack_of(LOOPS))
    [process] = edgeloop.json("status")["processes"]
    told = {name: process[name] for name in ("restarts", "ends", "since", "last_line")}
    assert told == {"restarts": 7, "ends": 3, "since": SINCE.isoformat(), "last_line": LAST}


def test_the_doctor_finds_it_and_a_stack_whose_processes_run_fit(edgeloop):
    write_stack(edgeloop.state_dir, stack_of(LOOPS))
    checks = checks_of(edgeloop)
    assert checks["stack"]["verdict"] == "fail"
    assert LAST in checks["stack"]["found"]
    write_stack(edgeloop.state_dir, stack_of(entry("kafka")))
    assert checks_of(edgeloop)["stack"]["verdict"] == "ok"


def test_who_waits_is_told_once_of_each_reason(edgeloop):
    write_stack(edgeloop.state_dir, stack_of(LOOPS, entry("kafka")))
    watch = TroubleWatch(edgeloop.state_dir)
    assert [LAST in line for line in watch.news()] == [True]
    write_stack(edgeloop.state_dir, stack_of(LOOPS.model_copy(update={"ends": 4}), entry("kafka")))
    assert watch.news() == []
    write_stack(edgeloop.state_dir, stack_of(LOOPS.model_copy(update={"last_line": "other"}), GIVEN_UP))
    assert len(watch.news()) == 2


def test_who_waits_for_a_start_is_told_what_stops_it(edgeloop):
    write_stack(edgeloop.state_dir, stack_of(LOOPS, state="starting"))
    with pytest.raises(StackError, match=r"trainer ended 3 times since 2026-01-02T00:00:00Z.*bearing"):
        await_ready(edgeloop.state_dir, timeout_s=0.0)


def test_a_stack_file_of_an_earlier_release_has_no_such_facts(edgeloop):
    old = stack_of(entry("kafka", restarts=2)).model_dump_json(exclude={"processes": {0: {"ends", "since"}}})
    assert StackFile.model_validate_json(old).troubles() == []


def checks_of(edgeloop) -> dict[str, dict]:
    return {c["name"]: c for c in json.loads(edgeloop("doctor", "--json").stdout)["checks"]}
