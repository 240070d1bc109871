"""From an MQTT topic to a Kafka topic, on two real brokers, by the device's own command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edge_producer.status_file import read_status
from schemas.profile_file import parse_profile
from schemas.row_schemas import telemetry_rows
from tests.edge_producer.test_on_kafka import Log
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka

PROFILE = """
name = "plant"
drift = { window_s = 300.0 }
channels = [
    { name = "heat", unit = "degC", min = -50, max = 150 },
    { name = "load", unit = "A", min = 0, max = 50 },
]
features.set = "plant"
features.compute = [{ channel = "heat", kinds = ["mean"] }, { channel = "load", kinds = ["mean"] }]
sampling = { rate_hz = 0.1, window_samples = 1, hop_samples = 1 }
filter = { p = 1.0 }
source = { time_field = "t", time_format = "epoch_ms" }
"""


def test_every_sample_of_an_mqtt_topic_is_a_row_on_kafka(mqtt_brokers, broker, admin, namespace, tmp_path):
    mqtt = mqtt_brokers("3.1.1")
    (tmp_path / "plant.toml").write_text(PROFILE)
    argv = [sys.executable, "-m", "edge_producer", "run", "--devices", "pump-7"]
    argv += ["--profile", str(tmp_path / "plant.toml"), "--state-dir", str(tmp_path / "edge")]
    argv += ["--source", f"{mqtt.address}/plant/{{device}}", "--namespace", namespace]
    argv += ["--bootstrap-servers", broker.bootstrap_servers, "--config", str(tmp_path / "edge.toml")]
    (tmp_path / "edge.toml").write_text("commit_interval_s = 0.1\n")
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)

    def status(*names):
        found = read_status(tmp_path / "edge" / "status.json") or {}
        for name in names:
            found = found.get(name, {})
        return found or 0

    try:
        wait_until(lambda: process.poll() is not None or status("source", "subscribed"), 60, "the topic")
        with mqtt.publisher() as publisher:
            for k in range(20):
                sample = {"t": 1_700_000_000_000 + k * 10_000, "heat": 20 + k, "load": k}
                publisher.give("plant/pump-7", json.dumps(sample))
            publisher.give("plant/pump-7", "no sample")
        wait_until(lambda: status("books", "acked") >= 20, 60, "rows on Kafka")
        assert status("source", "malformed") == 1
    finally:
        process.terminate()
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log.decode()
    rows = Log(admin, namespace).rows("telemetry.v1", telemetry_rows(parse_profile(PROFILE, "plant")))
    found = {(row["heat_mean"], row["load_mean"]) for row in rows}
    assert found >= {(20.0 + k, float(k)) for k in range(20)}
