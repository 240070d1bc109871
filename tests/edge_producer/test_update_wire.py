"""Laws of the door to the service: whatever comes through it is bounded, in bytes, in parts and in time."""

from __future__ import annotations

import pytest

from edge_producer.identity import load_or_create
from edge_producer.trust import TrustedTime
from edge_producer.updates.disk import Disk
from edge_producer.updates.identity import Membership
from edge_producer.updates.service import Delivery
from edge_producer.updates.updater import BUILD_TIME
from schemas.errors import ServiceUnavailableError
from tests.simulators.update_service import UpdateService, candidate


@pytest.fixture
def service(tmp_path):
    with UpdateService(tmp_path) as running:
        yield running


@pytest.fixture
def delivery(service, tmp_path):
    join, device = service.join(tmp_path / "join", "m-1"), load_or_create(tmp_path / "keys", "m-1")
    time = TrustedTime(tmp_path / "time.json", BUILD_TIME)
    subject = Delivery(join, Membership(tmp_path, join, device, time, Disk()).credentials())
    yield subject
    subject.close()


def test_a_download_ends_after_its_time_however_alive_it_is(service, delivery):
    release = service.sign(candidate(1))
    service.chunk_bytes, service.chunk_pause_s = 100, 0.05
    with pytest.raises(ServiceUnavailableError, match="DEADLINE"):
        list(delivery.fetch_artifact(release.sha256, 0, stall_s=10.0, total_s=0.4))
