"""The plan of a rollout: which phases it has, whom each treats, and where evidence is asked for."""

import pytest

from model_service.rollout.rollout_record import RolloutPause, RolloutRecord, shares
from schemas.channel_documents import BROAD, CANARY
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare
from schemas.learning_policy import RolloutPolicy

DEVICES = [f"d{i}" for i in range(200)]


def record(phases=(0.25, 0.5, 1.0), holdout=NOBODY, canary=NOBODY) -> RolloutRecord:
    return RolloutRecord(
        rollout_id="r", group="g", family="machine", version="machine-1.00000001", created_by="anna",
        settings=RolloutPolicy(phases=phases), canary=canary, salt="s", holdout=holdout,
    )  # fmt: skip


def holding(share=0.2) -> RolloutRecord:
    return record(holdout=SaltedShare(salt="h", share=share))


def treated(plan, phase, in_pool=False):
    return {d for d in DEVICES if plan.treats(phase, d, in_pool)}


def test_shares_rise_each_is_there_once_and_everybody_comes_last():
    assert shares(RolloutPolicy(phases=(0.5, 0.2, 0.5))) == (0.2, 0.5, 1.0)
    assert shares(RolloutPolicy(phases=(1.0,))) == (1.0,)


def test_the_release_of_a_holdout_is_a_phase_of_its_own():
    assert (record().last_soaking, record().last_phase) == (3, 3)
    assert (holding().last_soaking, holding().last_phase) == (3, 4)
    at = [holding().model_copy(update={"phase": n}).releases for n in range(5)]
    assert at == [False, False, False, False, True]


def test_evidence_is_asked_for_wherever_somebody_follows():
    assert [record().asks(n) for n in range(4)] == [True, True, True, False]
    assert record().looks == 3
    assert [holding().asks(n) for n in range(5)] == [True, True, True, True, False]
    assert holding().looks == 4


def test_the_canary_ring_is_phase_zero_alone():
    assert [record().ring(n) for n in range(4)] == [CANARY, BROAD, BROAD, BROAD]


def test_each_phase_treats_a_larger_share_of_one_salt_and_the_last_everybody():
    plan = record()
    sizes = [treated(plan, n) for n in range(4)]
    assert sizes[0] == set()
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3] == set(DEVICES)
    for n, share in ((1, 0.25), (2, 0.5)):
        own = SaltedShare(salt="s", share=share)
        assert sizes[n] == {d for d in DEVICES if own.includes(d)}
        assert plan.cohort(n) == own


def test_canaries_are_of_the_pool_and_stay_treated():
    plan = record(canary=EVERYBODY)
    assert treated(plan, 0, in_pool=True) == treated(plan, 1, in_pool=True) == set(DEVICES)
    assert treated(plan, 0) == set()
    assert plan.cohort(0) == EVERYBODY


def test_those_held_out_are_treated_by_the_release_only():
    plan = holding()
    held = {d for d in DEVICES if plan.holdout.includes(d)}
    assert held
    for phase in range(4):
        assert plan.held_out(phase) == plan.holdout
        assert not treated(plan, phase, in_pool=True) & held
    assert treated(plan, 3) == set(DEVICES) - held
    assert plan.held_out(4) == NOBODY
    assert treated(plan, 4) == set(DEVICES)


@pytest.mark.parametrize(
    ("kind", "needs"),
    [("person", "operator"), ("refused", "operator"), ("not_shown", "approver"), ("failures", "approver")],
)
def test_missing_evidence_and_failures_need_an_approver(kind, needs):
    assert RolloutPause(kind=kind, reason="", at=0.0).needs == needs
