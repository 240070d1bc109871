"""What was set aside, and which jobs are stopped, is shown where the person looks, and can be asked back."""

import json

import pytest

from stream_processors.engine.poison_store import PoisonStore
from tests.infra.cli import EdgeloopHere
from tests.simulators.line import TASK
from tests.stream_processors.poison_rig import Fault, PoisonLine, devices, offsets


@pytest.fixture
def on(tmp_path):
    """A lake in which a state key was set aside, a message quarantined, and a job stopped."""
    made = PoisonLine(tmp_path / "lake", devices(5), {"tally": Fault()})
    made.worker().process({TASK: made.send(10)})
    made.faults = {"tally": Fault(keys=frozenset({"machine-03"}))}
    made.worker().process({TASK: []})
    made.faults = {"tally": Fault(offsets=frozenset(range(11, 19))), "ingest": Fault(offsets=offsets(10))}
    made.worker().process({TASK: made.send(1)})
    made.worker().process({TASK: made.send(8)})
    return made


@pytest.fixture
def edgeloop(tmp_path, on):
    return EdgeloopHere(tmp_path)


def test_list_and_status_name_what_was_set_aside_and_what_is_stopped(edgeloop):
    listed = edgeloop("job", "set-aside", "list").stdout
    assert "machine-03" in listed
    assert "job tally of task-00 is stopped since" in listed
    assert "ZeroDivisionError" in listed
    status = edgeloop("status").stdout
    assert "problem job tally of task-00 is stopped since" in status
    assert "set aside: `edgeloop job set-aside list`" in status


def test_an_entry_is_shown_with_its_value_and_given_back_on_request(edgeloop, on):
    [entry] = json.loads(edgeloop("job", "set-aside", "list", "--json").stdout)["set_aside"]
    shown = edgeloop("job", "set-aside", "show", entry["id"])
    assert "value      2" in shown.stdout
    assert edgeloop("job", "set-aside", "restore", entry["id"]).returncode == 0
    on.faults = {"tally": Fault()}
    on.worker().process({TASK: []})
    assert on.state().of_job("tally")["machine-03"] >= 2


def test_an_unknown_entry_is_refused(edgeloop):
    for command in ("show", "restore"):
        assert edgeloop("job", "set-aside", command, "task-00/99/0").returncode == 1


def test_control_characters_of_a_key_are_shown_as_escapes(edgeloop, on):
    for path in on.lake.root.rglob("_poison/*/*.json"):  # the file and its copy, without digests
        raw = json.loads(path.read_text().replace("machine-03", "a\\u001b[2Jb"))
        path.write_text(json.dumps({k: v for k, v in raw.items() if k != "digest"}))
    assert PoisonStore(on.lake.root).entries()[0]["what"] == "a\x1b[2Jb"
    assert "\x1b" not in edgeloop("job", "set-aside", "list").stdout
