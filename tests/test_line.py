"""The whole line, kill -9 of each part in turn: every acknowledged row is in the lake exactly once."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from edge_producer.sources.scenario import Scenario
from infra.audit import AuditScope, take_books
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from schemas.profile_file import find_profile
from tests.simulators.cloud import Cloud
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

DEVICES = tuple(f"machine-{i:02d}" for i in range(8))


@pytest.fixture
def cloud(broker, namespace, tmp_path):
    with Cloud(broker.bootstrap_servers, namespace, tmp_path) as running:
        yield running


def edge(cloud, tmp_path, seconds, speed=10.0):
    """Eight simulated devices that sense ten times real time; kept rows are many (p = 0.5)."""
    folder = tmp_path / "edge"
    folder.mkdir(exist_ok=True)
    start = datetime.now(UTC) - timedelta(seconds=seconds)
    scenario = folder / "scenario.json"
    scenario.write_text(Scenario(seed=3, start=start, devices=DEVICES).model_dump_json())
    options = {
        "source": "simulate", "scenario": str(scenario), "duration_s": str(seconds), "speed": str(speed),
        "stop_timeout_s": "20",
    }  # fmt: skip
    spec = EdgeSpec("e1", "machine", DEVICES, cloud.servers, cloud.namespace, site="test", options=options)
    process = EdgeProcess(spec, folder, tmp_path)
    process.register(cloud.lake, find_profile("machine"))
    return process


def windows(process):
    status = process.folder / "status.json"
    return json.loads(status.read_text())["counters"].get("windows", 0) if status.exists() else 0


def books(process, cloud):
    run = AuditScope.of([process.spool], datetime(2020, 1, 1, tzinfo=UTC))
    return take_books(run, cloud.servers, cloud.namespace, cloud.lake.root)


def assert_balanced(process, cloud):
    cloud.await_landed(books(process, cloud).spool.acked)
    taken = books(process, cloud)
    assert taken.violations() == []
    assert taken.spool.acked == taken.lake.distinct > 0


@pytest.mark.long
def test_what_devices_sense_is_queryable_and_the_books_balance(cloud, tmp_path):
    cloud.start()
    process = edge(cloud, tmp_path, seconds=30)
    process.start()
    assert process.child.wait(60)
    assert process.child.exit_code == 0
    assert_balanced(process, cloud)


@pytest.mark.long
def test_kill_9_of_edge_worker_and_broker_in_turn_loses_nothing_acknowledged(cloud, tmp_path, broker):
    worker = cloud.start()
    cloud.await_settled(worker)
    process = edge(cloud, tmp_path, seconds=300)
    process.start()
    wait_until(lambda: windows(process) > 200, 30, "200 windows")
    process.child.kill()
    process.start()
    wait_until(lambda: windows(process) > 500, 30, "500 windows")
    worker.kill()
    cloud.supervise()
    wait_until(lambda: windows(process) > 800, 30, "800 windows")
    broker.kill()
    broker.start()
    wait_until(lambda: windows(process) > 1300, 60, "1,300 windows")
    process.child.terminate()
    assert process.child.wait(60)
    assert_balanced(process, cloud)
