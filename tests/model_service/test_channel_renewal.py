"""The document in force is renewed before it expires, and nothing else changes."""

import time

import pytest

from model_service.rollout.channel_renewal import ChannelRenewal
from schemas.channel_documents import BROAD, CANARY
from tests.simulators.rollout_deployment import FAMILY, GROUP, RolloutDeployment, quick_profile


@pytest.fixture
def deployment(tmp_path):
    made = RolloutDeployment(tmp_path)
    made.use(quick_profile())
    yield made
    made.registry.close()


def ended(deployment, names, **behaviour):
    engine, guard = deployment.engine(), deployment.guard()
    for _ in range(20):
        engine.tick()
        guard.tick()
        deployment.obey(names, **behaviour)
    return engine, guard


def renewal(deployment, engine):
    return ChannelRenewal(
        deployment.registry,
        deployment.repo,
        deployment.settings.channel_s,
        engine.channel_publisher.highest_seq,
    )


def test_the_document_of_a_completed_rollout_is_renewed_for_everybody(deployment):
    names = deployment.join(20)
    new = deployment.sign(1)
    engine, guard = ended(deployment, names)
    before = deployment.repo.channels(GROUP)[BROAD]
    assert renewal(deployment, engine).step(time.time()) == 0
    # As if most of the channel's life had passed.
    later = time.time() + 0.7 * deployment.settings.channel_s
    assert renewal(deployment, engine).step(later) == 1
    assert renewal(deployment, engine).step(later) == 0
    guard.clock = lambda: later
    engine.tick()
    guard.tick()
    engine.tick()
    after = deployment.repo.channels(GROUP)[BROAD]
    assert after.seq > before.seq
    assert after.expires > before.expires
    assert all(deployment.in_force(d).wanted(d) == {FAMILY: new} for d in names)


def test_after_a_canary_was_rolled_back_its_return_is_renewed(deployment):
    names = deployment.join(20)
    deployment.sign(1)
    engine, _ = ended(deployment, names, bad=names)
    before = deployment.repo.channels(GROUP)[CANARY]
    later = time.time() + 0.7 * deployment.settings.channel_s
    assert renewal(deployment, engine).step(later) == 1
    engine.tick()
    after = deployment.repo.channels(GROUP)[CANARY]
    assert after.seq > before.seq
    assert after.target == before.target == after.baseline


def test_a_group_with_a_rollout_under_way_is_left_to_it(deployment):
    deployment.join(20)
    deployment.sign(1)
    engine = deployment.engine()
    engine.tick()
    assert renewal(deployment, engine).step(time.time() + 0.7 * deployment.settings.channel_s) == 0
