"""The six steps of README.md with machines of one's own, typed as they stand there.

The device is in an environment of its own that holds the extras `edge` and `mqtt` alone, and reaches the
pipeline at an address of this machine that is not loopback.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.infra.cli import Edgeloop
from tests.simulators.device_listener import own_address
from tests.simulators.edge_environment import EdgeEnvironment, InstalledEdgeEnvironment
from tests.simulators.mqtt_broker import MqttBroker
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent
JOURNEY = "Your own machines, in six steps"
CLOUD, PLANT = "10.0.0.5", "mqtt://10.0.0.9/"
HEALTHY = 1390
"""Lines of the example before its fault: a history with one that nobody excludes or labels gives no model."""
MEASURED = {"pressure": "5.4", "flow": "21.0", "motor_current": "12.5"}


def steps() -> list[list[str]]:
    """Commands of each numbered step, without comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {JOURNEY}\n")[1].split("\n## ")[0]
    parts = re.split(r"^\d\. ", text, flags=re.MULTILINE)[1:]
    return [[line.strip() for line in re.findall(r"^ {7}\S.*$", p, re.MULTILINE)] for p in parts]


class OtherMachine:
    """The device's own machine: its environment, its home, and a copy of what was carried there."""

    def __init__(self, folder: Path, environment: type[EdgeEnvironment]) -> None:
        self.environment = environment(folder / "venv")
        self.home = folder / "home"
        self.home.mkdir()

    def starts(self, line: str) -> subprocess.Popen[str]:
        """What a person types there, begun."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("EDGE", "STREAM_", "MODEL_"))}
        kept.pop("PYTHONPATH", None)
        return subprocess.Popen(
            [str(self.environment.bin / "edgeloop-edge"), *shlex.split(line)[1:]],
            env={**kept, "XDG_STATE_HOME": str(self.home)}, cwd=self.home, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def imports(self, package: str) -> bool:
        command = [str(self.environment.python), "-I", "-c", f"import {package}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def types(self, line: str) -> str:
        process = self.starts(line)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, f"{line}\n{out}\n{err}"
        return out


@pytest.fixture(scope="module")
def address() -> str:
    found = own_address()
    if found is None:
        pytest.skip("this machine has no address but loopback")
    return found


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MqttBroker]:
    """An MQTT broker to which the pump's sensors publish plain numbers."""
    broker, over = MqttBroker(tmp_path_factory.mktemp("plant")), threading.Event()
    broker.start()

    def publish() -> None:
        with broker.publisher() as publisher:
            while not over.wait(0.2):
                for channel, value in MEASURED.items():
                    publisher.give(f"plant/pump-7/{channel}", value)

    sensors = threading.Thread(target=publish)
    sensors.start()
    yield broker
    over.set()
    sensors.join()
    broker.stop()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Edgeloop]:
    made = Edgeloop(tmp_path / "cloud")
    yield made
    made("down")


def test_the_page_has_six_steps_and_each_is_a_command():
    assert len(steps()) == 6
    assert all(all(line.startswith("edgeloop") for line in step) and step for step in steps())


@pytest.mark.parametrize(
    "environment", [EdgeEnvironment, pytest.param(InstalledEdgeEnvironment, marks=pytest.mark.long)]
)
def test_the_six_steps_do_what_the_page_says(environment, cloud, plant, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = (ROOT / "examples" / "pump.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("history.csv").write_text("".join(lines[:HEALTHY]), encoding="utf-8")
    machine = OtherMachine(tmp_path / "machine", environment)
    for package in ("duckdb", "faust", "typer"):
        assert not machine.imports(package), f"{package} is no part of the extras"
    there = f"mqtt://127.0.0.1:{plant.port}/"
    typed = [[line.replace(CLOUD, address).replace(PLANT, there) for line in step] for step in steps()]

    for line in (line for step in typed[:4] for line in step):
        done = cloud(*shlex.split(line)[1:])
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    shutil.copy("pump-7.json", machine.home)

    check, run, status = typed[4]
    machine.types(check)
    device = machine.starts(run)
    try:
        wait_until(lambda: landed(cloud, "device_states") or device.poll() is not None, 120, "the device")
        wait_until(lambda: "running" in machine.types(status), 60, "its source")
        assert device.poll() is None, device.communicate()
        assert f"source {there}plant/pump-7/+: running" in machine.types(status)
        assert f"broker {address}:" in machine.types(status)
        for line in typed[5]:
            done = cloud(*shlex.split(line)[1:])
            assert done.returncode == 0, f"{line}\n{done.stderr}"
    finally:
        device.send_signal(signal.SIGINT)
        _, said = device.communicate(timeout=60)
    assert device.returncode == 0, said
    books = json.loads(machine.types(f"{status} --json"))["books"]
    assert books["sensed"] > 0
    assert books["pending"] == 0
    wait_until(lambda: landed(cloud, "books"), 60, "its books in the lake")
    wait_until(lambda: first_model(cloud)["state"] == "published", 60, "its first model to be published")
    assert named_in_step_6() == [f"default-{len(pushes_to(cloud, 'default')) + 1}"]
    assert cloud.json("sql", "SELECT count(*) AS n FROM quarantine") == [{"n": 0}]


def first_model(cloud: Edgeloop) -> dict[str, Any]:
    [model] = [m for m in cloud.json("model", "list") if m["version"].startswith("pump-1.")]
    return model


def named_in_step_6() -> list[str]:
    """Rollouts that the last step says to resume."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {JOURNEY}\n")[1].split("\n## ")[0]
    return re.findall(r"`edgeloop rollout resume (\S+)`", text)


def pushes_to(cloud: Edgeloop, group: str) -> list[str]:
    """Rollouts of profiles in a group; the model's begins a minute after the device has joined."""
    found = cloud.json("rollout", "history")
    return [r["rollout_id"] for r in found if (r["group"], r["kind"]) == (group, "profile")]


def landed(cloud: Edgeloop, table: str) -> int:
    [row] = cloud.json("sql", f"SELECT count(*) AS n FROM {table} WHERE device_id = 'pump-7'")
    return int(row["n"])
