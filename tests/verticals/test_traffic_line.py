"""Intersections through a real broker: phases are served with numbers, an incident is alarmed, rows land."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.traffic.intersection_sensors import CHANNELS, IntersectionSensors
from feature_store import connect
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from schemas.profile_file import find_profile
from schemas.verticals.traffic.standard_junction import MIN_GREEN_S
from tests.edge_producer.actuator_rig import SocketServer
from tests.simulators.canonical import write_canonical
from tests.simulators.cloud import Cloud
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300), pytest.mark.long]

PROFILE = find_profile("traffic_demo")
DEVICES = ("x-1", "x-2")
RATE_HZ = PROFILE.sampling.rate_hz
"""Seconds of the street in one of the clock."""
SAMPLES, INCIDENT_AT_S = 3000, 600.0 / RATE_HZ
FORECAST_FROM = timedelta(hours=0.75) / RATE_HZ
"""Three quarters of an hour of the street are known."""
INCIDENT = Injection(kind="incident", start_s=INCIDENT_AT_S, channel="queue_ew", devices=DEVICES[:1])


@pytest.fixture
def cloud(broker, namespace, tmp_path):
    with Cloud(broker.bootstrap_servers, namespace, tmp_path) as running:
        yield running


def yesterday_afternoon() -> datetime:
    """Fifteen o'clock: neither the peak nor the night."""
    now = datetime.now(UTC)
    return now.replace(hour=15, minute=0, second=0, microsecond=0) - timedelta(days=1)


def fleet(cloud, folder, start, actions):
    """One process with both intersections, on fifty minutes of the street."""
    for device in DEVICES:
        own = (INCIDENT,) if device in INCIDENT.devices else ()
        sensors = IntersectionSensors.of(GeneratorRequest(5, device, RATE_HZ, own, 0.0, start))
        columns = dict(zip(CHANNELS, sensors.block(0, SAMPLES).T, strict=True))
        write_canonical(folder / "recordings", device, start, RATE_HZ, columns)
    options = {
        "source": "replay",
        "recording": str(folder / "recordings"),
        "speed": "6.0",
        "actions_file": str(actions),
        "stop_timeout_s": "20",
    }
    spec = EdgeSpec("e1", PROFILE.name, DEVICES, cloud.servers, cloud.namespace, site="test", options=options)
    process = EdgeProcess(spec, folder, folder)
    process.register(cloud.lake, PROFILE)
    return process


def test_phases_are_served_an_incident_is_alarmed_and_rows_land(cloud, tmp_path):
    cloud.start()
    server, actions = SocketServer(tmp_path / "signal.sock"), tmp_path / "actions.toml"
    actions.write_text(f'[actuator]\nsocket = "{server.path}"\n')
    start = yesterday_afternoon()
    process = fleet(cloud, tmp_path, start, actions)
    process.start()
    assert process.child.wait(120)
    assert process.child.exit_code == 0, process.child.log_tail(5)

    status = process.status()
    hops = (SAMPLES - PROFILE.sampling.window_samples) // PROFILE.sampling.hop_samples + 1
    counters = status["counters"]
    assert counters["windows"] == hops * len(DEVICES)
    assert counters.get("function_failed", 0) == 0, status
    served = [order for order in server.orders if order["action"] == "serve_phase"]
    assert {order["device"] for order in served} == set(DEVICES)
    assert {order["numbers"]["phase"] for order in served} == {0.0, 1.0, 2.0, 3.0}
    assert all(min(MIN_GREEN_S) <= order["numbers"]["green_s"] <= 50 for order in served)
    at_last = {order["device"]: order["action"] for order in server.orders}
    assert at_last == dict.fromkeys(DEVICES, PROFILE.decision.fail_safe)  # the process has ended

    with connect(cloud.lake.root, comments=False) as con:
        table = f"telemetry_{PROFILE.name}"

        def landed():
            return con.execute(f"SELECT count(*) FROM {table}").fetchone()[0]

        wait_until(lambda: landed() > 0, 60, "rows in the lake")

        def forecasts():
            return con.execute(
                "SELECT device_id, min(event_time), min(score_flow_next_hour), max(score_flow_next_hour), "
                f"min(score_queue_next_hour), max(score_queue_next_hour) FROM {table} "
                "WHERE score_flow_next_hour IS NOT NULL GROUP BY device_id"
            ).fetchall()

        wait_until(lambda: len(forecasts()) == len(DEVICES), 60, "forecasts of both in the lake")
        for _, at, *bounds in forecasts():
            assert at - start >= FORECAST_FROM
            assert 0.0 < bounds[0] <= bounds[1] < 1.0
            assert 0.0 <= bounds[2] <= bounds[3] < 1.0
    wait_until(lambda: alarms(cloud), 60, "an alarm in the lake")
    found = alarms(cloud)
    assert {device for device, _ in found} == {"x-1"}
    first = min(at for _, at in found)
    assert timedelta(seconds=INCIDENT_AT_S) <= first - start <= timedelta(seconds=SAMPLES / RATE_HZ), (
        first - start
    )


def alarms(cloud):
    with connect(cloud.lake.root, comments=False) as con:
        return con.execute(
            "SELECT device_id, event_time FROM alarms WHERE action = 'report_incident'"
        ).fetchall()
