"""A device takes configurations over at their instant, keeps and takes them back; attacks named.

The rig: `UpdaterRig` under `PLANNED` at a `ConfigCloud`, which signs with real keys and serves real TLS. Its
windows' event times are those of `synthetic_windows`: the first ends shortly after 2026-01-01.
"""

from datetime import UTC, datetime, timedelta

import pytest

from edge_producer.updates.resources import UpdaterResources
from schemas.cohorts import NOBODY
from schemas.config_manifest import no_config
from schemas.updates import Attack
from tests.edge_producer.config_cloud import PLAN, PLANNED, ConfigCloud, config
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, quick_machine

NONE = no_config(PLAN).version
SOON = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=20)
LATER = datetime(2126, 1, 1, tzinfo=UTC)


@pytest.fixture
def cloud(tmp_path):
    with ConfigCloud(tmp_path / "cloud") as service:
        service.join(tmp_path / "join", "m-1")
        yield service


@pytest.fixture
def start(tmp_path):
    """Starts the device's process, again if it was started before."""
    opened = []

    def begin(profile=PLANNED, **given):
        while opened:
            opened.pop().close()
        resources = UpdaterResources.of(profile)
        if given:
            from dataclasses import replace

            resources = replace(resources, **given)
        opened.append(UpdaterRig(edge_settings(tmp_path), profile, resources=resources))
        return opened[0]

    yield begin
    while opened:
        opened.pop().close()


def shown(rig):
    return rig.agent.status["configs"][PLAN]


def driven(rig, **wanted):
    """Windows and steps until the status shows this and all of it is reported."""

    def done():
        told = shown(rig)
        return all(told[k] == v for k, v in wanted.items()) and not rig.agent.status["unreported"]

    rig.drive(done, what=str(wanted))
    return shown(rig)


def test_a_signed_configuration_comes_into_force_and_is_reported(cloud, start):
    bundle = config()
    channel = cloud.name_config(cloud.sign_config(bundle))
    rig = start()
    driven(rig, version=bundle.manifest.version, result="committed")
    rig.sense()
    assert rig.devices["m-1"].parameters == {"green_s": [20.0, 30.0], "offset_s": 7.0}
    newest = cloud.reports["m-1"][-1]
    assert (newest.attempted.version, newest.rollout_id) == (bundle.manifest.version, channel.rollout_id)
    assert {i.family: i.version for i in newest.installed} == {
        "machine": cloud.factory.version,
        PLAN: bundle.manifest.version,
    }
