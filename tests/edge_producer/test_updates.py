"""Laws of updates: what a channel wants runs, proven, or the old set does, and the service knows which."""

from __future__ import annotations

import pytest

from tests.edge_producer.bench import Bench, edge_settings, quick_machine
from tests.simulators.update_service import UpdateService, candidate

PROFILE = quick_machine()


@pytest.fixture
def service(tmp_path):
    with UpdateService(tmp_path) as running:
        yield running


@pytest.fixture
def settings(tmp_path, service):
    service.join(tmp_path / "join", "m-1")
    return edge_settings(tmp_path)


def test_a_device_joins_tries_commits_and_tells(service, settings):
    release = service.sign(candidate(1))
    with Bench(settings, PROFILE) as bench:
        service.instruct(release)
        bench.settle(release.version)
        assert service.enrolled == ["m-1"]
        assert service.results("m-1") == ["committed", "committed"]
        states = [r.state for r in service.reports["m-1"]]
        print(states)
