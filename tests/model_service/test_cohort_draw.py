"""Cohorts: random, balanced over strata, the same for everybody who draws them."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from model_service.rollout.cohort_draw import canary_share, draw, stratum
from model_service.rollout.observed import GroupMember
from schemas.cohorts import SaltedShare
from schemas.learning_policy import RolloutPolicy


def fleet(count, sites=2, pool=1.0):
    chosen = SaltedShare(salt="pool", share=pool)
    return [
        GroupMember(f"d{i}", f"site-{i % sites}", f"hw-{i % 3}", chosen.includes(f"d{i}"))
        for i in range(count)
    ]


def canaries(members, drawn):
    return [m for m in members if m.pool and drawn.canary.includes(m.device_id)]


def test_the_same_rollout_draws_the_same_cohorts():
    members = fleet(40)
    assert draw("line-1", members, RolloutPolicy()) == draw("line-1", members, RolloutPolicy())
    assert draw("line-1", members, RolloutPolicy()).salt != draw("line-2", members, RolloutPolicy()).salt


def test_a_small_fleet_gets_as_many_canaries_as_asked_for():
    for number in range(20):
        members = fleet(20)
        assert len(canaries(members, draw(f"line-{number}", members, RolloutPolicy()))) == 4


def test_a_small_pool_still_gives_the_share_of_the_whole_group():
    members = fleet(200, pool=0.3)
    found = len(canaries(members, draw("line-1", members, RolloutPolicy(canary_share=0.2))))
    assert 36 <= found <= 44


def test_a_canary_is_large_enough_to_show_something_where_the_group_is():
    for count in range(1, 10):
        members = fleet(count)
        assert len(canaries(members, draw("line-1", members, RolloutPolicy(min_devices=3)))) == min(count, 3)


def test_whoever_joins_a_group_that_had_nobody_is_a_canary():
    assert draw("line-1", [], RolloutPolicy()).canary.share == 1.0


def test_strata_get_their_part():
    members = fleet(120, sites=4)
    drawn = draw("line-1", members, RolloutPolicy(canary_share=0.25, phases=(0.5, 1.0)))
    here = Counter(stratum(m) for m in members)
    got = Counter(stratum(m) for m in canaries(members, drawn))
    assert all(abs(got[s] - 0.25 * n) <= 2.5 for s, n in here.items())
    assert drawn.imbalance < 0.2


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 60),
    st.floats(0.05, 1.0),
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3),
    st.floats(0.05, 1.0),
)
def test_the_first_phase_holds_the_canaries(count, share, phases, pool):
    members = fleet(count, pool=pool)
    policy = RolloutPolicy(canary_share=share, phases=tuple(phases))
    drawn = draw("line-1", members, policy)
    first = SaltedShare(salt=drawn.salt, share=min(phases))
    assert canary_share(members, policy) <= min(*phases, 1.0)
    assert all(first.includes(m.device_id) for m in canaries(members, drawn))


def test_nobody_is_named_one_by_one():
    drawn = draw("line-1", fleet(20), RolloutPolicy(holdout_share=0.2))
    assert drawn.canary.devices == drawn.holdout.devices == ()
    assert drawn.holdout.share == 0.2
