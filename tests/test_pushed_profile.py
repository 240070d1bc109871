"""A pushed profile on its whole way: signed, rolled out, taken over by a device, judged by workers."""

import json
import os
import signal
import subprocess
import sys

import pytest

from schemas.profile_file import builtin_profiles
from tests.infra.cli import Edgeloop, EdgeloopHere
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]

TEXT = builtin_profiles()["machine"].read_text()
ROWS = "SELECT count(*) AS n FROM telemetry"


class RunningDevice:
    """`edgeloop-edge run` in a home of its own, with flight mode to switch."""

    def __init__(self, home, bundle):
        self.home = home
        home.mkdir()
        command = [sys.executable, "-m", "edge_producer", "run", "--join", str(bundle)]
        command += ["--source", "simulate", "--update-poll-s", "1"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("EDGE", "STREAM_", "MODEL_"))}
        with (home / "log").open("wb") as log:
            own = {**kept, "XDG_STATE_HOME": str(home)}
            self.run = subprocess.Popen(command, env=own, cwd=home, stderr=log)

    @property
    def seen(self):
        [found] = (self.home / "edgeloop-edge").glob("*/status.json")
        return json.loads(found.read_text())

    def offline(self, *, off):
        [folder] = (p.parent for p in (self.home / "edgeloop-edge").glob("*/status.json"))
        (folder / "offline").touch() if off else (folder / "offline").unlink()

    def end(self):
        self.run.send_signal(signal.SIGTERM)
        assert self.run.wait(60) == 0, (self.home / "log").read_text()


@pytest.fixture
def edgeloop(tmp_path):
    command = Edgeloop(tmp_path / "state")
    try:
        up = command("up")
        assert up.returncode == 0, up.stderr
        yield EdgeloopHere(tmp_path / "state")
    finally:
        command("down")


def test_a_push_reaches_a_running_device_and_every_row_is_judged_by_its_own_boots_version(edgeloop, tmp_path):
    def push(p):
        file = tmp_path / f"{p}.toml"
        file.write_text(TEXT.replace("p = 0.08\np_min = 0.01", f"p = {p}\np_min = 0.002", 1))
        return edgeloop.json("profile", "push", str(file), "--group", "default")

    def runs(number):
        wait_until(lambda: device.seen["profile_version"]["number"] == number, 60, f"machine@{number}")

    def reported():
        [joined] = edgeloop.json("fleet", "devices", "--group", "default")
        return tuple((joined["profile_state"] or {}).get(k) for k in ("number", "outcome", "attack"))

    bundle = tmp_path / "m-7.json"
    invited = edgeloop("fleet", "invite", "m-7", "--profile", "machine", "-o", str(bundle))
    assert invited.returncode == 0, invited.stderr
    device = RunningDevice(tmp_path / "home", bundle)
    try:
        wait_until(lambda: any((tmp_path / "home").glob("edgeloop-edge/*/status.json")), 60, "its status")
        wait_until(lambda: device.seen["books"]["acked"], 180, "a row of the file")  # one window in twelve
        assert device.seen["profile_version"]["number"] == 0
        pushed = push(0.5)
        assert [r["behind"] for r in pushed["rollouts"]] == [""]
        runs(2)
        device.offline(off=True)
        pending = device.seen["books"]["pending"]
        wait_until(lambda: device.seen["books"]["pending"] > pending + 2, 60, "rows that wait")
        push(0.003)
        device.offline(off=False)
        runs(3)
        wait_until(lambda: reported() == (3, "applied", ""), 60, "its report")
    finally:
        device.end()
    acked = device.seen["books"]["acked"]
    wait_until(lambda: edgeloop.json("sql", ROWS)[0]["n"] == acked, 60, "every row in the lake")
    assert edgeloop.json("sql", "SELECT count(*) AS n FROM quarantine")[0]["n"] == 0
    sent = edgeloop("topic", "tail", "telemetry.v1", "-n", "500", "--json").stdout.splitlines()
    rates = {}
    for message in map(json.loads, sent):
        version, _ = message["envelope"]["version"] or (0, "")
        rates.setdefault(version, set()).update(row["sample_p"] for row in message["rows"])
    assert {number: rates[number] for number in (0, 2)} == {
        0: {0.08},
        2: {0.5},
    }  # of 3 a row may not have come
