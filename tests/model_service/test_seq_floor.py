"""A registry that was set back: seqs and rollout ids of before the restore are never used again."""

import time

import pytest

from model_service.rollout.seq_floor import raise_seq
from schemas.channel_documents import BROAD, CANARY, ChannelDocument
from schemas.cohorts import NOBODY
from schemas.instants import utc_now
from schemas.proto.delivery_pb2 import Installed
from schemas.updates import Attack
from tests.simulators.rollout_deployment import GROUP, RolloutDeployment, quick_profile

ENDED = ("completed", "rolled_back", "rolled_back_partial")
FLOOR = 10_000


@pytest.fixture
def restored(tmp_path):
    """A registry that knows no rollout, of a fleet that has seen some."""
    made = RolloutDeployment(tmp_path)
    made.use(quick_profile())
    with made.registry.transaction() as connection:
        assert raise_seq(connection, GROUP, FLOOR, time.time()) == FLOOR
    yield made
    made.registry.close()


def refuse_what_is_lost(deployment, device):
    """A device repeats that it waits for a document above the one that it accepted before the restore."""
    now = utc_now()
    lost = ChannelDocument(
        group=GROUP, ring=CANARY, seq=3, rollout_id=f"{GROUP}-1", target={}, baseline={}, cohort=NOBODY,
        issued=now, expires=now,
    )  # fmt: skip
    told = {"wanted": deployment.installed[device], "attempted": Installed()}
    deployment.report(device, lost, "idle", "no_change_refused", attack=Attack.REPLAYED_CHANNEL, **told)


def test_what_devices_report_about_lost_rollouts_counts_against_none_of_the_new_ones(restored):
    names = restored.join(20)
    for name in names:
        refuse_what_is_lost(restored, name)
    for number, major in ((FLOOR + 1, 1), (FLOOR + 2, 2)):
        new = restored.sign(major)
        engine, guard = restored.engine(), restored.guard()
        for _ in range(60):
            engine.tick()
            guard.tick()
            restored.obey(names)
            record = restored.rollout(number)
            if record is not None and record.state in ENDED:
                break
        assert record.state == "completed"
        assert record.version == new.version
        assert restored.repo.channels(GROUP)[BROAD].seq > FLOOR
