"""Laws of a gateway's certificate: it joins as a device does, and nothing leaves before it has."""

from __future__ import annotations

import pytest

from edge_producer.device_identity import DeviceKeys
from edge_producer.settings import EdgeSettings
from edge_producer.updates.updater import Updater
from schemas.profile_file import find_profile
from tests.simulators.update_service import UpdateService
from tests.waiting import wait_until

GATE, DEVICE = "g-1", "m-1"


@pytest.fixture
def service(tmp_path):
    with UpdateService(tmp_path) as running:
        yield running


def updater(tmp_path, service, *joining) -> Updater:
    join_dir = tmp_path / "join"
    join_dir.mkdir(exist_ok=True)
    for name in joining:
        service.join(join_dir, name)
    settings = EdgeSettings(
        state_dir=tmp_path / "edge", profile="machine", devices=(DEVICE,), gateway=GATE, join_dir=join_dir,
        update_poll_s=0.2,
    )  # fmt: skip
    keys = DeviceKeys(settings.keys_dir, settings.producers, settings.producers)
    return Updater(settings, find_profile("machine"), keys=keys, patient=True)


def test_a_gateway_joins_with_a_bundle_and_a_key_of_its_own(tmp_path, service):
    made = updater(tmp_path, service, GATE)
    assert not made.has_joined(GATE)
    made.start()
    try:
        wait_until(lambda: made.has_joined(GATE), 30, "the gateway to join")
    finally:
        made.stop()
    assert made.gateway_status == {"name": GATE, "joined": True, "error": ""}
    assert (tmp_path / "edge" / "updates" / GATE / "certificate.pem").exists()


def test_a_gateway_without_a_bundle_says_so_and_has_not_joined(tmp_path, service):
    made = updater(tmp_path, service)
    made.start()
    try:
        wait_until(lambda: (made.gateway_status or {})["error"], 30, "the status to say why")
    finally:
        made.stop()
    assert not made.has_joined(GATE)
    assert "has no join bundle" in (made.gateway_status or {})["error"]
