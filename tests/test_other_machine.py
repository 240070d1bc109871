"""The way of a device on another machine: invited, joined, sending over an own address."""

import json
import os
import subprocess
import sys

import pytest

from infra.stack.device_access import kept_address
from schemas.join import JoinBundle
from schemas.profile_file import builtin_profiles
from tests.infra.cli import Edgeloop
from tests.simulators.device_listener import own_address
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def address():
    found = own_address()
    if found is None:
        pytest.skip("this machine has no address but loopback")
    return found


@pytest.fixture(scope="module")
def edgeloop(tmp_path_factory, address):
    command = Edgeloop(tmp_path_factory.mktemp("stack") / "state")
    try:
        up = command("up", "--listen", address)
        assert up.returncode == 0, up.stderr
        yield command
    finally:
        command("down")


class OtherMachine:
    """The device's command in a home of its own, without any variable of the project."""

    def __init__(self, home):
        self.home = home
        home.mkdir()

    def __call__(self, *arguments):
        kept = {
            k: v for k, v in os.environ.items() if not k.upper().startswith(("EDGE", "STREAM_", "MODEL_"))
        }
        return subprocess.run(
            [sys.executable, "-m", "edge_producer", *arguments],
            env={**kept, "XDG_STATE_HOME": str(self.home)},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )  # fmt: skip

    @property
    def folder(self):
        [found] = (self.home / "edgeloop-edge").glob("*")
        return found


def rows_of(edgeloop, device):
    [row] = edgeloop.json("sql", f"SELECT count(*) AS n FROM telemetry WHERE device_id = '{device}'")
    return row["n"]


SENSE = ("--source", "simulate", "--pace", "flat_out", "--duration-s", "60")


@pytest.mark.long
def test_a_device_elsewhere_needs_its_bundle_and_nothing_else(edgeloop, address, tmp_path):
    pump, file = tmp_path / "pump.toml", tmp_path / "pump-7.json"
    pump.write_text(builtin_profiles()["machine"].read_text().replace('name = "machine"', 'name = "pump"', 1))
    made = edgeloop("fleet", "invite", "pump-7", "--profile", str(pump), "-o", str(file))
    assert made.returncode == 0, made.stderr
    at = kept_address(edgeloop.state_dir).broker
    bundle = JoinBundle.model_validate_json(file.read_text())
    assert (bundle.broker, bundle.broker_tls, bundle.profile["name"]) == (at, True, "pump")
    assert {a.rpartition(":")[0] for a in (bundle.enrollment, bundle.delivery, at)} == {address}
    machine = OtherMachine(tmp_path / "home")
    before = machine("check", "--join", str(file))
    assert before.returncode == 0, before.stdout
    assert "gets its certificate at its first `run`" in before.stdout

    ran = machine("run", "--join", str(file), *SENSE)
    assert ran.returncode == 0, ran.stderr
    file.unlink()
    shown = machine("status").stdout
    assert f"broker {at}" in shown
    assert "certificate: valid for 2" in shown  # 23 hours and more
    checked = machine("check")
    assert checked.returncode == 0, checked.stdout
    assert "with the certificate of pump-7" in checked.stdout
    books = json.loads(machine("status", "--json").stdout)["books"]
    assert books["acked"] > 0
    wait_until(lambda: rows_of(edgeloop, "pump-7") == books["acked"], 60, "its rows in the lake")

    again = machine("run", *SENSE)
    assert again.returncode == 0, again.stderr
    assert edgeloop("fleet", "revoke", "pump-7").returncode == 0
    log = edgeloop.state_dir / "logs" / "kafka.log"

    def is_refused():
        ended = machine("run", *SENSE, "--drain-timeout-s", "8").returncode
        waits = json.loads(machine("status", "--json").stdout)["books"][
            "pending"
        ]  # rows may leave just before
        return ended in {1, 3} and "User:device pump-7 is Denied" in log.read_text() and waits

    wait_until(is_refused, 120, "the broker's refusal")
    shown = machine("status").stdout
    assert "does not let this device write: it was revoked" in shown or "blocked: " in shown
    books = json.loads(machine("status", "--json").stdout)["books"]
    assert books["pending"] > 0  # what was refused is kept, not lost
    assert books["acked"] == rows_of(edgeloop, "pump-7")


@pytest.mark.long
def test_bundles_for_many_are_written_into_a_folder(edgeloop, tmp_path):
    done = edgeloop(
        "fleet", "invite", "fan", "--profile", "machine", "--count", "3", "-o", str(tmp_path / "f")
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["fan-1.json", "fan-2.json", "fan-3.json"]
    (tmp_path / "d.csv").write_text("device_id,profile,site\nmill-1,machine,north\nmill-2,machine,south\n")
    done = edgeloop("fleet", "invite", "--csv", str(tmp_path / "d.csv"), "-o", str(tmp_path / "g"))
    assert done.returncode == 0, done.stderr
    sites = {t["device_id"]: t["site"] for t in edgeloop.json("fleet", "tokens")}
    assert (sites["mill-1"], sites["mill-2"], sites["fan-2"]) == ("north", "south", "local")
    old = edgeloop("fleet", "invite", "old-1", "--profile", "machine", "--release", "0.2.0")
    assert "broker" not in json.loads(old.stdout)


@pytest.mark.parametrize(
    "arguments",
    [["p", "--csv", "d.csv"], [], ["p"], ["p", "--profile", "machine", "--count", "2"]],
)
def test_an_invitation_that_is_not_clear_is_misuse(tmp_path, arguments):
    assert Edgeloop(tmp_path)("fleet", "invite", *arguments).returncode == 2
