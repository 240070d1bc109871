"""What a replay waits for: what its own edge process has sent, where it has sent it."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from feature_store.lake import Lake
from infra.line_watch import LineWatcher
from schemas.topics import ALERT, TELEMETRY, partition_for
from stream_processors.engine.task_loading import task_name
from tests.edge_producer.spool_rig import SpoolRig
from tests.simulators.line import TASK, make_checkpoint, make_lake, on_task
from tests.simulators.messages import T0, SimDevice, SimDirectory, SimLog

pytestmark = pytest.mark.kafka

OWN = next(f"d-{i}" for i in range(99) if partition_for(f"d-{i}") == TASK)
OTHER = next(f"d-{i}" for i in range(99) if partition_for(f"d-{i}") != TASK)


@dataclass
class Spooled:
    """An edge process, as far as the watcher asks for one: where its spool lies, and its status file."""

    spool: Path
    said: dict = field(default_factory=dict)

    def status(self):
        return self.said


@pytest.fixture
def line(tmp_path, admin, namespace, lake_root):
    """A lake, the watcher of an edge process that has sent three rows, and the messages of its device."""
    rig, lake = SpoolRig(tmp_path, devices=(OWN,)), make_lake(lake_root)
    rig.sense([1.0, 2.0, 3.0], OWN)
    rig.flush()
    rig.settle(rig.seal())
    rig.close()
    device = SimDevice(OWN)
    sent = device.rows(0, 3)
    admin.send_all(TELEMETRY.named(namespace), [(sent.key, sent.headers, sent.value)])
    watcher = LineWatcher(Lake.open(lake_root), admin, namespace, [Spooled(rig.path)], T0)
    return lake, watcher, device, sent


def test_it_waits_for_no_partition_and_no_topic_that_only_others_have_written_to(line, admin, namespace):
    """It ended after two minutes without progress when the task of another device had stopped."""
    lake, watcher, device, sent = line
    for topic, key in ((TELEMETRY, OTHER), (ALERT, OWN), (ALERT, OTHER)):
        admin.send(topic.named(namespace), key.encode(), [], b"a backlog that no task reads")
    so_far = watcher.sent()
    assert so_far.ends == {(task_name(TASK), TELEMETRY.base): 1}
    assert watcher.behind(so_far) > 0
    checkpoint = make_checkpoint(lake, SimDirectory(device))
    checkpoint.open(TASK)
    checkpoint.process({TASK: [on_task(SimLog().append(sent))]})
    assert watcher.lag() == 3
    assert watcher.behind(so_far) == 0


def test_what_others_send_later_is_not_waited_for(line, admin, namespace):
    _, watcher, _, _ = line
    before = watcher.sent()
    admin.send(TELEMETRY.named(namespace), OWN.encode(), [], b"later, on the same partition")
    assert before.ends == {(task_name(TASK), TELEMETRY.base): 1}
    assert watcher.behind(before) == 1


@pytest.mark.parametrize("behind", [0, 5])
def test_it_waits_for_its_own_offsets_alone_though_others_write_behind_them(line, admin, namespace, behind):
    """The task stands still behind our message, and the replay has ended all the same."""
    lake, watcher, device, sent = line
    for _ in range(behind):
        admin.send(TELEMETRY.named(namespace), OWN.encode(), [], b"of others, on the same partition")
    watcher.edges[0].said = {"phase": "stopped", "log_ends": {TELEMETRY.base: {str(TASK): 1}}}
    so_far = watcher.sent()
    assert so_far.ends == {(task_name(TASK), TELEMETRY.base): 1}
    assert watcher.behind(so_far) == 1
    checkpoint = make_checkpoint(lake, SimDirectory(device))
    checkpoint.open(TASK)
    checkpoint.process({TASK: [on_task(SimLog().append(sent))]})
    assert watcher.lag() == behind
    assert watcher.behind(so_far) == 0


@pytest.mark.parametrize(
    "said",
    [
        {"phase": "sensing", "log_ends": {}},
        {"phase": "stopped"},
        {"phase": "stopped", "log_ends": {TELEMETRY.base: {str(TASK): -1}}},
    ],
    ids=["it runs", "an earlier release", "the broker did not say"],
)
def test_where_nobody_knows_its_offsets_it_waits_for_all_that_stands_there(line, admin, namespace, said):
    _, watcher, _, _ = line
    admin.send(TELEMETRY.named(namespace), OWN.encode(), [], b"of others")
    watcher.edges[0].said = said
    assert watcher.sent().ends == {(task_name(TASK), TELEMETRY.base): 2}
