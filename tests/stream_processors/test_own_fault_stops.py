"""A task whose landing job fails through our own fault is left alone, and goes on once that is mended."""

import pytest

from feature_store import connect
from feature_store.stopped_tasks import StoppedTasks
from schemas.topics import partition_for
from tests.simulators.cloud import Cloud, Feed
from tests.simulators.faulty_worker import UNTIL_MENDED
from tests.simulators.messages import SimDevice
from tests.waiting import wait_until


def crew(partition, n):
    """Ids of devices of one partition."""
    names = (f"machine-{i}" for i in range(1000))
    return [name for name in names if partition_for(name) == partition][:n]


@pytest.mark.long
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
        stopped = StoppedTasks(cloud.lake.root)
        wait_until(stopped.all, 60, "the task to be shown as stopped")
        others.send(3)
        failing.send_from(UNTIL_MENDED + 1)
        cloud.await_landed(others.rows)
        assert set(stopped.all()) == {"task-03"}
        (cloud.lake.root / "mended").touch()
        cloud.await_landed(others.rows + 2 * len(failing.devices))
        assert connect(cloud.lake.root, comments=False).execute(
            "SELECT count(*) FROM quarantine"
        ).fetchone() == (0,)
        wait_until(lambda: not stopped.all(), 30, "the stop to be taken away")
        assert worker.exit_code is None
