"""The whole line with gateways: real edge processes, broker, worker and lake, and books that balance."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from edge_producer.sources.scenario import Scenario
from feature_store import connect
from feature_store.device_registry import DeviceRegistry
from infra.audit import AuditScope, take_books
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from schemas.boot_ids import boot_tag, gateway_tag
from schemas.profile_file import find_profile
from tests.simulators.cloud import Cloud
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka]

GATE = "gateway-1"
DEVICES = tuple(f"machine-{i:02d}" for i in range(6))
MACHINE = find_profile("machine")


@pytest.fixture
def cloud(broker, namespace, tmp_path):
    with Cloud(broker.bootstrap_servers, namespace, tmp_path) as running:
        yield running


def edge(cloud, folder, name, devices, seconds=20, gateway="", **options):
    """Simulated devices that sense ten times real time."""
    root = folder / "edge"
    root.mkdir(exist_ok=True)
    start = datetime.now(UTC) - timedelta(seconds=seconds)
    scenario = root / f"{name}.json"
    scenario.write_text(Scenario(seed=3, start=start, devices=devices).model_dump_json())
    options = {
        "source": "simulate", "scenario": str(scenario), "duration_s": str(seconds), "speed": "10.0",
        "stop_timeout_s": "20", **options,
    }  # fmt: skip
    spec = EdgeSpec(name, "machine", devices, cloud.servers, cloud.namespace, site="test", options=options)
    return EdgeProcess(replace(spec, gateway=gateway), root, folder)


def ended(process, code=0):
    assert process.child.wait(90)
    assert process.child.exit_code == code


def books(cloud, *processes):
    run = AuditScope.of([p.spool for p in processes], datetime(2020, 1, 1, tzinfo=UTC))
    return take_books(run, cloud.servers, cloud.namespace, cloud.lake.root)


def assert_balanced(cloud, *processes):
    cloud.await_landed(books(cloud, *processes).spool.acked)
    taken = books(cloud, *processes)
    assert taken.violations() == []
    assert taken.spool.acked == taken.lake.distinct > 0


def ask(cloud, sql):
    with connect(cloud.lake.root, comments=False) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.long
def test_what_a_gateway_sends_for_its_devices_is_queryable_and_the_books_balance(cloud, tmp_path):
    cloud.start()
    process = edge(cloud, tmp_path, "site", DEVICES, gateway=GATE)
    process.register(cloud.lake, MACHINE)
    process.start()
    ended(process)
    assert_balanced(cloud, process)
    boots = ask(cloud, "SELECT DISTINCT device_id, boot_id FROM telemetry_machine ORDER BY 1")
    assert [device for device, _ in boots] == list(DEVICES)
    assert {boot_tag(boot) for _, boot in boots} == {gateway_tag(GATE)}
    together = "SELECT count(DISTINCT device_id) AS n FROM summaries GROUP BY _partition, _offset"
    assert ask(cloud, f"SELECT max(n) > 1 FROM ({together})") == [(True,)]
    assert ask(cloud, "SELECT count(DISTINCT _partition) FROM telemetry_machine") == [(1,)]
    assert ask(cloud, "SELECT count(DISTINCT device_id) FROM books") == [(len(DEVICES),)]
    assert ask(cloud, "SELECT count(*), count(gateway) FROM fleet") == [(len(DEVICES), len(DEVICES))]


def test_a_device_that_moves_behind_a_gateway_with_a_full_spool_loses_and_doubles_nothing(cloud, tmp_path):
    worker = cloud.start()
    cloud.await_settled(worker)
    moved, offline = DEVICES[0], tmp_path / "no-network"
    offline.touch()
    away = {"offline_file": str(offline), "drain_timeout_s": "1"}
    alone = edge(cloud, tmp_path, "alone", (moved,), **away)
    alone.register(cloud.lake, MACHINE)
    for _ in range(2):  # two starts, nothing of which the cloud has seen
        alone.start()
        ended(alone, code=1)
    # The worker's look-ups know the device as its own producer when it moves.
    site = edge(cloud, tmp_path, "site", DEVICES[1:], gateway=GATE)
    site.register(cloud.lake, MACHINE)
    site.start()
    ended(site)
    assert_balanced(cloud, site)
    DeviceRegistry(cloud.lake).assign([moved], GATE)
    now_behind = edge(cloud, tmp_path, "site", DEVICES, gateway=GATE)
    now_behind.start()
    ended(now_behind)
    offline.unlink()
    emptied = edge(cloud, tmp_path, "alone", (moved,), duration_s="0.001")
    emptied.start()
    ended(emptied)
    assert_balanced(cloud, alone, now_behind)
    # By its books: of a start of twenty windows chance may send no row.
    boots = ask(cloud, f"SELECT DISTINCT boot_id FROM books WHERE device_id = '{moved}' AND sensed > 0")
    assert sorted(boot_tag(boot) is None for (boot,) in boots) == [False, True, True]
    # The start that empties the spool is a boot of its own: what it says of itself is all that is refused.
    refused = ask(cloud, "SELECT DISTINCT topic, error FROM quarantine")
    assert refused == [("device-state.v1", "ForeignBootError")]


def test_a_gateway_whose_device_was_assigned_to_another_is_refused_with_its_bytes_kept(cloud, tmp_path):
    worker = cloud.start()
    cloud.await_settled(worker)
    process = edge(cloud, tmp_path, "site", DEVICES[:2], gateway=GATE)
    process.register(cloud.lake, MACHINE)
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    DeviceRegistry(cloud.lake, clock=lambda: hour_ago).assign(DEVICES[:2], None)
    process.start()
    ended(process)
    wait_until(lambda: ask_refused(cloud), 60, "something to be refused")
    assert cloud.landed() == (0, 0)
    [(errors, verified)] = ask(cloud, "SELECT list(DISTINCT error), bool_and(verified) FROM quarantine")
    assert (errors, verified) == (["ForeignBootError"], True)


def ask_refused(cloud):
    return ask(cloud, "SELECT count(*) FROM quarantine") != [(0,)]
