"""Cohorts: random, balanced over strata, the same for everybody who draws them."""

from collections import Counter

import pytest
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
    free = [m for m in members if m.pool and not drawn.holdout.includes(m.device_id)]
    return [m for m in free if drawn.canary.includes(m.device_id)]


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


@pytest.mark.parametrize(("count", "held"), [(19, 0), (20, 2), (50, 5)])
def test_a_group_that_is_large_enough_has_a_holdout_unless_its_profile_wants_none(count, held):
    members = fleet(count)
    drawn = draw("line-1", members, RolloutPolicy())
    assert abs(sum(drawn.holdout.includes(m.device_id) for m in members) - held) <= (1 if held else 0)
    assert draw("line-1", members, RolloutPolicy(no_holdout=True)).holdout.share == 0
    assert draw("line-1", members, RolloutPolicy(holdout_share=0.3)).holdout.share == 0.3


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


def off_balance(cohort, among):
    """Devices too many or too few, in each stratum and in total; an empty cohort outweighs everything."""
    here, got = (
        Counter(map(stratum, among)),
        Counter(stratum(m) for m in among if cohort.includes(m.device_id)),
    )
    off = sum(max(abs(got[s] - cohort.share * n) - 0.5, 0) for s, n in here.items())
    empty = len(among) if not got.total() else 0
    return off + abs(got.total() - round(cohort.share * len(among))) + empty, max(
        cohort.share * len(among), 1
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.floats(0, 0.5), st.floats(0.1, 1.0))
def test_the_imbalance_is_that_of_all_cohorts_together(count, held, pool):
    members = fleet(count, pool=pool)
    policy = RolloutPolicy(canary_share=0.1, phases=(0.3, 0.6, 1.0), holdout_share=held)
    drawn = draw("line-1", members, policy)
    free = [m for m in members if m.pool and not drawn.holdout.includes(m.device_id)]
    parts = [(drawn.canary, free)]
    parts += [(SaltedShare(salt=drawn.salt, share=share), members) for share in (0.3, 0.6)]
    parts += [(drawn.holdout, members)] if drawn.holdout.share else []
    off, expected = map(sum, zip(*(off_balance(*part) for part in parts), strict=True))
    assert abs(drawn.imbalance - off / expected) < 1e-9


def test_no_phase_of_a_small_fleet_is_empty():
    for count in range(3, 12):
        members = fleet(count)
        drawn = draw("line-1", members, RolloutPolicy(phases=(0.05, 1.0), canary_share=0.05, min_devices=1))
        first = SaltedShare(salt=drawn.salt, share=0.05)
        assert any(first.includes(m.device_id) for m in members)


def test_the_most_balanced_of_several_draws_is_taken_and_a_large_fleet_gets_one_only():
    assert draw("line-1", fleet(40), RolloutPolicy()).salt != "line-1/0"
    assert draw("line-1", fleet(20_001), RolloutPolicy()).salt == "line-1/0"
