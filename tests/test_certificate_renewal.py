"""Certificates that live for seconds: a gateway renews its own over and over, and no row is lost.

The whole way: the model service issues them, the gateway's updater renews them, its sender shows them to the
broker's listener at an address that is not loopback, and the books balance.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.stack.device_access import kept_address
from tests.infra.cli import Edgeloop
from tests.simulators.device_listener import own_address
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.long, pytest.mark.timeout(900)]

LIFE_S = 30
ENDS = 4
"""Certificates that the gateway shows, one after the other."""
DEVICES = ("pump-1", "pump-2")


@pytest.fixture
def edgeloop(tmp_path: Path) -> Iterator[Edgeloop]:
    command = Edgeloop(tmp_path / "state")
    yield command
    command("down")


def said(folder: Path) -> dict[str, Any]:
    path = folder / "status.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def test_a_gateways_certificate_is_renewed_over_and_over_and_nothing_is_lost(edgeloop, tmp_path):
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    up = edgeloop("up", "--listen", address, MODEL_CERTIFICATE_S=str(LIFE_S))
    assert up.returncode == 0, up.stderr
    joins, home = tmp_path / "join", tmp_path / "gateway"
    joins.mkdir()
    invited = edgeloop("fleet", "invite-gateway", "hall-3", "-o", str(joins / "hall-3.json"))
    assert invited.returncode == 0, invited.stderr
    for name in DEVICES:
        given = ("--profile", "machine", "--gateway", "hall-3", "-o", str(joins / f"{name}.json"))
        assert edgeloop("fleet", "invite", name, *given).returncode == 0
    at = kept_address(edgeloop.state_dir)
    assert at is not None
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("EDGE", "STREAM_", "MODEL_"))}
    command = [sys.executable, "-m", "edge_producer", "run", "--gateway", "hall-3", "--devices"]
    command += [",".join(DEVICES), "--join-dir", str(joins), "--profile", "machine", "--state-dir", str(home)]
    command += ["--bootstrap-servers", at.broker, "--broker-tls", "true", "--stop-timeout-s", "60"]
    with (tmp_path / "log").open("w") as log:
        gateway = subprocess.Popen(command, env=kept, cwd=tmp_path, stdout=log, stderr=log)
    ends: set[str] = set()

    def renewed() -> bool:
        assert gateway.poll() is None, (tmp_path / "log").read_text()
        until = said(home).get("broker", {}).get("certificate_until")
        ends.update([until] if until else [])
        return len(ends) >= ENDS

    try:
        wait_until(renewed, 600, f"{ENDS} certificates, one after the other")
    finally:
        gateway.send_signal(signal.SIGINT)
        gateway.wait(120)
    assert gateway.returncode == 0
    books = said(home)["books"]
    assert books["pending"] == 0
    assert books["acked"] > 0

    def landed() -> int:
        [row] = edgeloop.json("sql", "SELECT count(*) AS n FROM telemetry")
        return int(row["n"])

    wait_until(lambda: landed() >= books["acked"], 120, "its rows in the lake")
    assert landed() == books["acked"]
    assert edgeloop.json("sql", "SELECT count(*) AS n FROM quarantine") == [{"n": 0}]
