"""What is in force is said again before it expires, and nothing else changes by it."""

import time

import pytest

from model_service.rollout.channel_renewal import ChannelRenewal
from schemas.channel_documents import BROAD, CANARY
from tests.simulators.rollouts import FAMILY, GROUP, Service, quick_profile


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    made.use(quick_profile())
    yield made
    made.registry.close()


def ended(service, names, **deeds):
    engine, guard = service.engine(), service.guard()
    for _ in range(20):
        engine.tick()
        guard.tick()
        service.obey(names, **deeds)
    return engine, guard


def renewal(service, engine):
    return ChannelRenewal(
        service.registry, service.repo, service.settings.channel_s, engine.announcer.highest
    )


def test_a_completed_rollout_is_said_again_to_everybody(service):
    names = service.join(20)
    new = service.sign(1)
    engine, guard = ended(service, names)
    before = service.repo.channels(GROUP)[BROAD]
    assert renewal(service, engine).step(time.time()) == 0
    # As if most of the channel's life had passed.
    later = time.time() + 0.7 * service.settings.channel_s
    assert renewal(service, engine).step(later) == 1
    assert renewal(service, engine).step(later) == 0
    guard.clock = lambda: later
    engine.tick()
    guard.tick()
    engine.tick()
    after = service.repo.channels(GROUP)[BROAD]
    assert after.seq > before.seq
    assert after.expires > before.expires
    assert all(service.in_force(d).wanted(d) == {FAMILY: new} for d in names)


def test_after_a_canary_came_back_its_way_back_is_said_again(service):
    names = service.join(20)
    service.sign(1)
    engine, _ = ended(service, names, bad=names)
    before = service.repo.channels(GROUP)[CANARY]
    later = time.time() + 0.7 * service.settings.channel_s
    assert renewal(service, engine).step(later) == 1
    engine.tick()
    after = service.repo.channels(GROUP)[CANARY]
    assert after.seq > before.seq
    assert after.target == before.target == after.baseline


def test_a_group_with_a_rollout_under_way_is_left_to_it(service):
    service.join(20)
    service.sign(1)
    engine = service.engine()
    engine.tick()
    assert renewal(service, engine).step(time.time() + 0.7 * service.settings.channel_s) == 0
