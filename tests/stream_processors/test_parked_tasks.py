"""A task whose landing job fails is left alone for a while, then goes on where it stopped; others never wait."""

import pytest

from feature_store import connect
from schemas.topics import partition_for
from stream_processors.engine.parked import FIRST_S, LONGEST_S, ParkedTasks
from stream_processors.engine.stopped import stopped_in
from stream_processors.engine.task_buffers import TaskBuffer
from stream_processors.job import RawMessage
from tests.simulators.cloud import Cloud, Feed
from tests.simulators.faulty_worker import UNTIL_MENDED
from tests.simulators.messages import SimDevice
from tests.waiting import wait_until


def message(offset):
    return RawMessage("telemetry.v1", 3, offset, 0, b"k", [], b"v")


def test_a_task_that_fails_again_and_again_is_tried_ever_more_rarely():
    parked, waits = ParkedTasks(), []
    for _ in range(9):
        waits.append(parked.park(3, TaskBuffer({"telemetry.v1": 0}), [message(0)], now=0.0))
        parked.resume(3, {})
    assert waits[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert waits[-1] == LONGEST_S
    parked.went_well([3])
    assert parked.park(3, TaskBuffer({"telemetry.v1": 0}), [], now=0.0) == FIRST_S


def test_it_goes_on_at_its_checkpoint_and_where_that_knows_nothing_at_its_first_message():
    parked = ParkedTasks()
    held = TaskBuffer({"telemetry.v1": 9, "books.v1": 4}, [message(7), message(8)])
    parked.park(3, held, [message(5), message(6)], now=0.0)
    assert (parked.tasks, parked.due(FIRST_S - 1), parked.due(FIRST_S)) == ({3}, [], [3])
    assert parked.resume(3, {"books.v1": 2}).next_offsets == {"telemetry.v1": 5, "books.v1": 2}
    assert parked.tasks == frozenset()


def crew(partition, n):
    """Ids of devices of one partition."""
    names = (f"machine-{i}" for i in range(1000))
    return [name for name in names if partition_for(name) == partition][:n]


@pytest.mark.kafka
@pytest.mark.faults
def test_a_stopped_task_holds_up_no_other_and_goes_on_by_itself_once_the_cause_is_gone(
    broker, namespace, tmp_path
):
    with Cloud(broker.bootstrap_servers, namespace, tmp_path) as cloud:
        failing, others = Feed(cloud, devices=0), Feed(cloud, devices=0)
        failing.devices = [SimDevice(name, f"{i:016x}") for i, name in enumerate(crew(3, 5))]
        others.devices = [SimDevice(name, f"{i + 9:016x}") for i, name in enumerate(crew(4, 3))]
        cloud.register(*failing.devices, *others.devices)
        worker = cloud.start("tests.simulators.faulty_worker")
        cloud.await_settled(worker)
        failing.send_from(UNTIL_MENDED)
        wait_until(lambda: stopped_in(cloud.lake.root), 60, "the task to be shown as stopped")
        others.send(3)
        failing.send_from(UNTIL_MENDED + 1)
        cloud.await_landed(others.rows)
        assert {s["task"] for s in stopped_in(cloud.lake.root)} == {"task-03"}
        (cloud.lake.root / "mended").touch()
        cloud.await_landed(others.rows + 2 * len(failing.devices))
        assert connect(cloud.lake.root).execute("SELECT count(*) FROM quarantine").fetchone() == (0,)
        wait_until(lambda: not stopped_in(cloud.lake.root), 30, "the stop to be taken away")
        assert worker.exit_code is None
