"""Look-ups start no broker: without one they answer from the lake, and say what cannot be known."""

import pytest

from feature_store.commit_log import CommitLog
from infra.stack.stack_file import LOCK, read_stack
from stream_processors.engine.records import TaskState
from tests.feature_store.fleets import land, machine_lake, quarantined
from tests.infra.cli import EdgeloopHere

LOOK_UPS = (("dlq", "list"), ("job", "lag"), ("topic", "list"))


@pytest.fixture
def edgeloop(tmp_path) -> EdgeloopHere:
    return EdgeloopHere(tmp_path / "state")


def started_nothing(edgeloop) -> bool:
    return read_stack(edgeloop.state_dir) is None and not (edgeloop.state_dir / LOCK).exists()


@pytest.mark.parametrize("command", LOOK_UPS, ids=" ".join)
def test_in_a_folder_without_anything_a_look_up_answers_and_starts_nothing(edgeloop, command):
    done = edgeloop(*command, "--json")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "no stack is up, and this look-up starts none: " in done.stderr
    assert started_nothing(edgeloop)


def test_messages_of_a_topic_are_nowhere_but_in_the_log(edgeloop):
    done = edgeloop("topic", "tail", "telemetry.v1")
    assert done.returncode == 1
    assert "only a broker reads the log: `edgeloop up` first" in done.stderr
    assert started_nothing(edgeloop)


def test_what_was_refused_is_listed_from_the_lake_and_shown_by_its_place(edgeloop):
    lake = machine_lake(edgeloop.state_dir / "lake")
    refused = quarantined(
        topic=["label.v1"] * 4, producer=["m-1", None, "m-2", "m-2"], verified=[True, False, True, True],
        error=["DecodeError"] * 2 + ["SchemaError"] * 2, reason=["r"] * 4, n_bytes=[7, 900, 0, 0],
        n_messages=[1, 30, 0, 0], last_offset=[3, 49, 60, 60], _partition=[5] * 4, _offset=[3, 20, 60, 60],
        _row=[0, 0, 1, 2],
    )  # fmt: skip
    land(lake, quarantine=refused)
    found = {x["id"]: x for x in edgeloop.json("dlq", "list")}
    assert {place: x["messages"] for place, x in found.items()} == {
        "label.v1[5]@3": 1, "label.v1[5]@20..49": 30, "label.v1[5]@60": 1,
    }  # fmt: skip
    assert [x["id"] for x in edgeloop.json("dlq", "list", "--error", "SchemaError")] == ["label.v1[5]@60"]
    shown = edgeloop.json("dlq", "show", "label.v1[5]@20..49")
    assert (shown["message_bytes"], shown["signed"], shown["value"]) == (900, False, None)
    assert "label.v1[5]@20..49" in edgeloop("dlq", "list").stdout
    assert edgeloop("dlq", "show", "0:1").returncode == 1
    assert started_nothing(edgeloop)


def test_how_far_the_tasks_read_is_in_the_lake_and_what_they_lag_is_not(edgeloop):
    root = machine_lake(edgeloop.state_dir / "lake").root
    for number in (0, 7):
        state = TaskState(f"task-{number:02d}", 4, {"telemetry.v1": 1000 + number})
        CommitLog(root).write_snapshot(state.task, 4, state.to_bytes())
    found = edgeloop.json("job", "lag")
    assert [(o["task"], o["next"], o["commit"], o["end"], o["lag"]) for o in found] == [
        ("task-00", 1000, 4, None, None),
        ("task-07", 1007, 4, None, None),
    ]
    topics = {t["name"]: t for t in edgeloop.json("topic", "list")}
    assert (topics["telemetry.v1"]["read"], topics["telemetry.v1"]["messages"]) == (2007, None)
    assert started_nothing(edgeloop)
