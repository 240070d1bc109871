"""How far workers are behind, on the log as it is."""

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from feature_store.lake import Lake
from infra.kafka.lag import lags
from infra.settings import StackSettings
from infra.stack.stack_status import collect_status
from schemas.topics import AGGREGATE, DEVICE_PARTITIONS, TELEMETRY
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka

GROWN = DEVICE_PARTITIONS + 4


@pytest.fixture
def grown(broker, admin, namespace):
    """A namespace whose telemetry somebody gave more partitions, with messages in the last one."""
    name = TELEMETRY.named(namespace)
    client = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    client.create_partitions([NewPartitions(name, GROWN)])[name].result(30)
    wait_until(lambda: admin.topics()[name] == GROWN, 30, "the partitions")
    producer = ck.Producer({"bootstrap.servers": broker.bootstrap_servers})
    for _ in range(3):
        producer.produce(name, b"x", partition=GROWN - 1)
    assert producer.flush(30) == 0
    return namespace


def test_messages_in_a_partition_that_was_added_count(admin, grown, lake_root):
    Lake.open(lake_root)
    found = [lag for lag in lags(lake_root, admin, grown) if lag.lag]
    assert [(lag.task, lag.topic, lag.lag) for lag in found] == [(f"task-{GROWN - 1}", "telemetry.v1", 3)]
    per_topic = [lag.task for lag in lags(lake_root, admin, grown) if lag.topic == AGGREGATE.base]
    assert (
        len(per_topic) == DEVICE_PARTITIONS
    )  # a topic that did not grow has no lag where it has no partition


def test_status_shows_them_and_names_the_topic(broker, grown, tmp_path):
    settings = StackSettings(state_dir=tmp_path, broker=broker.bootstrap_servers, namespace=grown)
    status = collect_status(settings)
    assert sum(lag["lag"] for lag in status["lag"]) == 3
    [problem] = [p for p in status["problems"] if "partitions" in p]
    assert f"{grown}.telemetry.v1 has {GROWN} partitions" in problem
