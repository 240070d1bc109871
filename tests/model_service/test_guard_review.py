"""What the guard countersigns: a document that follows from what it read itself, held at each rule."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from model_service.rollout.guard_review import GuardFacts, examine
from model_service.rollout.observed import DeviceReport, GroupMember, Observed, PairedShadow
from model_service.rollout.rollout_record import RolloutRecord
from schemas.channel_documents import BROAD, CANARY, ChannelDocument, Release
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare
from schemas.learning_policy import RolloutPolicy
from tests.simulators.simulated_rollout import FACTORY, NEW

NOW = 1_000_000.0
DAY_S = 86400.0
SETTINGS = RolloutPolicy(phases=(0.25, 0.5, 1.0), soak_s=5.0, min_devices=2, max_failed=0.1)
HELD = SaltedShare(salt="s/holdout", share=0.01)
OTHER = Release(version="machine-7.00000007", sha256="7" * 64)
PUMP = Release(version="pump-0.00000000")


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def record(**changes) -> RolloutRecord:
    """A rollout whose next phase is its second broad one."""
    plan = RolloutRecord(
        rollout_id="r", group="g", family="machine", version=NEW.version, created_by="anna", state="running",
        target={"machine": NEW, "pump": PUMP}, baseline={"machine": FACTORY, "pump": PUMP}, settings=SETTINGS,
        canary=SaltedShare(salt="s", share=0.1), salt="s", holdout=HELD, phase=2,
    )  # fmt: skip
    return plan.model_copy(update=changes)


def document(seq=9, phase=2, plan=None, **changes) -> ChannelDocument:
    plan = plan or record()
    channel = ChannelDocument(
        group="g", ring=BROAD, seq=seq, rollout_id="r", target=plan.target, baseline=plan.baseline,
        cohort=plan.cohort(phase), holdout=plan.held_out(phase), issued=at(NOW), expires=at(NOW + DAY_S),
    )  # fmt: skip
    return channel.model_copy(update=changes)


def facts(**changes) -> GuardFacts:
    known = GuardFacts(
        settings=SETTINGS, release=NEW, gates_failed=(), completed={}, canary=document(1, 0, ring=CANARY),
        broad=document(8, 1), in_force=document(8, 1), lifetime_s=DAY_S, highest_seq=8,
        published_at=NOW - 100, waived=(), aborted=False,
    )  # fmt: skip
    return replace(known, **changes)


def reports(result, at, count=20):
    paired = PairedShadow(20, 0.0, 0)
    return {f"d{i}": [DeviceReport(1, at, "idle", result, NEW.version, paired=paired)] for i in range(count)}


def observed(result="committed", at=NOW - 90, **changes) -> Observed:
    devices = reports(result, at)
    return Observed({d: GroupMember(d, "s", "x", True) for d in devices}, devices, **changes)


def ruling(channel=None, phase=2, plan=None, known=None, seen=None, now=NOW):
    return examine(channel or document(), phase, plan or record(), known or facts(), seen or observed(), now)


def refused(reason, **given) -> bool:
    """Whether it is refused for that reason; what is signed is not."""
    found = ruling(**given)
    assert found.answer in ("sign", "refuse")
    assert found.answer == "sign" or reason in found.reason, found.reason
    return found.answer == "refuse"


def test_the_next_phase_of_a_rollout_whose_devices_did_well_is_signed():
    assert ruling() == ("sign", "")


def test_a_document_belongs_to_the_rollout_its_group_and_the_guards_ring():
    assert refused("ring", channel=document(ring=CANARY))
    assert refused("belongs to rollout", channel=document(rollout_id="r2"))
    assert refused("belongs to rollout", channel=document(group="g2"))


def test_a_document_has_a_number_above_all_that_are_published():
    assert [refused("not above 8", channel=document(seq=n)) for n in (7, 8, 9)] == [True, True, False]


@pytest.mark.parametrize("state", ["completed", "superseded", "rolled_back"])
def test_nothing_of_a_rollout_that_has_ended_is_signed(state):
    assert refused(f"the rollout is {state}", plan=record(state=state))


def test_a_document_lives_as_long_as_allowed_and_was_issued_within_a_day():
    longer = document(expires=at(NOW + DAY_S + 1))
    assert refused("would live", channel=longer)
    assert not refused("would live", channel=longer, known=facts(lifetime_s=DAY_S + 1))
    for late in (DAY_S, -DAY_S):
        assert refused("it was issued", now=NOW + late)
        long_ago = facts(published_at=NOW - 2 * DAY_S)
        settled = observed(at=NOW - 2 * DAY_S)
        assert not refused("", now=NOW + late * 0.999, known=long_ago, seen=settled)


def test_everybody_else_stays_on_what_the_rollout_began_with():
    assert refused("the baseline is not", channel=document(baseline={"machine": OTHER, "pump": PUMP}))


def test_a_baseline_was_completed_last_or_is_a_factory_set():
    old = Release(version="machine-1.0000000a", sha256="a" * 64)
    plan = record(baseline={"machine": old, "pump": PUMP})
    mine = document(plan=plan)
    assert refused("neither completed last", channel=mine, plan=plan)
    assert not refused("", channel=mine, plan=plan, known=facts(completed={"machine": old}))
    assert refused("neither completed last", known=facts(completed={"machine": old}))
    unsigned = record(baseline={"machine": Release(version="machine-3.00000000"), "pump": PUMP})
    assert refused("neither completed last", channel=document(plan=unsigned), plan=unsigned)
    zero = record(baseline={"machine": Release(version="machine-0.00000001", sha256="b" * 64), "pump": PUMP})
    assert refused("neither completed last", channel=document(plan=zero), plan=zero)


@pytest.mark.parametrize("release", [None, OTHER, Release(version=NEW.version, sha256="2" * 64)])
def test_the_target_is_what_trainer_and_gate_published(release):
    assert refused("is not published by trainer and gate", known=facts(release=release))


def test_a_target_that_names_no_release_of_the_family_is_refused():
    bare = document(target={"pump": PUMP}, baseline={"pump": PUMP})
    plan = record(target={"pump": PUMP}, baseline={"pump": PUMP})
    assert refused("digest none is not published", channel=bare, plan=plan, known=facts(release=None))
    factory = document(target={"machine": FACTORY, "pump": PUMP})
    assert refused("digest none is not published", channel=factory)
    assert refused("digest 777777777777 is", channel=document(target={"machine": OTHER, "pump": PUMP}))


def test_a_target_changes_its_family_alone():
    pump = Release(version="pump-2.00000002", sha256="2" * 64)
    assert refused("changes more than machine", channel=document(target={"machine": NEW, "pump": pump}))


def test_every_gate_passed_and_says_so():
    assert refused("no gate's verdict", known=facts(gates_failed=None))
    assert refused("did not pass quality, recall", known=facts(gates_failed=("quality", "recall")))


@pytest.mark.parametrize(("floor", "no"), [(0, False), (1, False), (2, True)])
def test_a_target_at_the_floor_may_run(floor, no):
    assert refused("below the floor", seen=observed(floors={"machine": floor})) is no
    assert not refused("below the floor", seen=observed(floors={"pump": floor}))


def test_the_reason_is_that_of_the_rollout():
    assert refused("reason security", channel=document(reason="security"))
    urgent = record(security=True)
    assert refused("reason normal", plan=urgent)
    assert not refused("", channel=document(reason="security"), plan=urgent)


def test_the_cohort_is_that_of_the_rollouts_next_phase():
    assert refused("phase 3 is not the rollout's next", phase=3)
    assert refused("phase 1 is not the rollout's next", phase=1)
    assert refused("is not that of phase 2", channel=document(cohort=record().cohort(3)))
    assert refused("is not that of phase 2", channel=document(cohort=SaltedShare(salt="s", share=0.4)))
    zero = record(phase=0)
    assert refused(
        "phase 0 is not the rollout's next", channel=document(plan=zero, phase=0), plan=zero, phase=0
    )
    beyond = record(phase=5)
    assert refused("phase 5 is not the", channel=document(plan=beyond, phase=4), plan=beyond, phase=5)


@pytest.mark.parametrize("phase", [1, 2, 3, 4])
def test_every_broad_phase_is_signed_in_its_turn(phase):
    plan = record(phase=phase)
    before = document(8, phase - 1) if phase > 1 else None
    known = facts(broad=before, in_force=before)
    assert ruling(document(phase=phase, plan=plan), phase, plan, known).answer == "sign"


def test_a_cohort_holds_the_one_before():
    other_salt = document(8, 1, cohort=SaltedShare(salt="t", share=0.25))
    assert refused("does not hold the one before", known=facts(broad=other_salt))
    larger = document(8, 1, cohort=SaltedShare(salt="s", share=0.6))
    assert refused("does not hold the one before", known=facts(broad=larger))
    same = document(8, 1, cohort=SaltedShare(salt="s", share=0.5))
    assert not refused("does not hold", known=facts(broad=same))


def test_without_a_published_canary_there_is_no_cohort_to_hold():
    assert refused("no canary document", known=facts(broad=None, canary=None))
    assert not refused("no canary document", known=facts(broad=None))


def test_the_holdout_stays_until_its_release_and_is_then_released():
    assert refused("the holdout is share 0 of salt none, not", channel=document(holdout=NOBODY))
    release = record(phase=4)
    mine = document(phase=4, plan=release)
    known = facts(broad=document(8, 3), in_force=document(8, 3))
    assert not refused("", channel=mine, phase=4, plan=release, known=known)
    kept = mine.model_copy(update={"holdout": HELD})
    known = replace(known, in_force=None)
    assert refused("the holdout is share 0.01", channel=kept, phase=4, plan=release, known=known)
    last = record(phase=3)
    assert refused("the holdout is", channel=document(phase=3, plan=last, holdout=NOBODY), phase=3, plan=last)


def test_a_cohort_that_names_devices_is_described_by_how_many():
    named = document(cohort=SaltedShare(salt="", share=0.5, devices=("a", "b")))
    assert refused("(share 0.5 of salt none and 2 ids)", channel=named)


def test_the_profile_has_not_changed_since_the_rollout_began():
    other = SETTINGS.model_copy(update={"soak_s": 6.0})
    assert refused("[rollout] changed", known=facts(settings=other))


def test_the_previous_phase_has_passed_by_the_guards_own_account():
    assert refused("phase 1 was never published", known=facts(published_at=None))
    assert refused("phase 1 has not passed: 6 of 6 devices", seen=observed("restored"))
    waits = ruling(known=facts(published_at=NOW - 4.9))
    assert (waits.answer, waits.reason.startswith("phase 1: devices are still trying")) == ("wait", True)
    assert ruling(known=facts(published_at=NOW - 5.0)).answer == "sign"


def test_only_a_waiver_that_the_guard_read_itself_counts():
    strict = SETTINGS.model_copy(update={"min_devices": 99})
    plan = record(settings=strict, waived=(1,))
    assert refused("phase 1 has not passed: not shown", plan=plan, known=facts(settings=strict))
    assert not refused("", plan=plan, known=facts(settings=strict, waived=(1,)))


def rollback(**changes) -> ChannelDocument:
    back = {"reason": "rollback", "target": record().baseline, "cohort": EVERYBODY, "holdout": NOBODY}
    return document(**back | changes)


def test_a_return_to_the_baseline_for_everybody_is_signed_while_the_rollout_aborts():
    aborting = {"plan": record(state="aborting"), "known": facts(aborted=True, published_at=None)}
    assert ruling(rollback(), **aborting).answer == "sign"
    assert refused("not aborting", channel=rollback())
    assert refused("must lead to the baseline", channel=rollback(target=record().target), **aborting)
    assert refused("must be for everybody", channel=rollback(cohort=SaltedShare(share=0.9)), **aborting)
    assert refused("must be for everybody", channel=rollback(holdout=HELD), **aborting)


def test_a_return_to_a_baseline_below_the_floor_is_not_signed():
    old = Release(version="machine-1.0000000a", sha256="a" * 64)
    plan = record(state="aborting", baseline={"machine": old, "pump": PUMP})
    known = facts(aborted=True, completed={"machine": old})
    mine = document(plan=plan, reason="rollback", target=plan.baseline, cohort=EVERYBODY, holdout=NOBODY)
    assert not refused("", channel=mine, plan=plan, known=known, seen=observed(floors={"machine": 1}))
    assert refused(
        "lies below the floor 2", channel=mine, plan=plan, known=known, seen=observed(floors={"machine": 2})
    )


def test_a_renewal_changes_number_and_dates_of_the_document_in_force_and_nothing_else():
    renewed = document(9, 1, issued=at(NOW), expires=at(NOW + DAY_S / 2))
    ended = {"plan": record(state="completed"), "known": facts(release=None, published_at=None)}
    assert ruling(renewed, **ended).answer == "sign"
    assert refused("", channel=renewed.model_copy(update={"holdout": NOBODY}), **ended)
    assert refused("", channel=renewed, known=facts(in_force=None))
    assert refused("would live", channel=document(9, 1, expires=at(NOW + 2 * DAY_S)))
    assert refused("not above", channel=document(8, 1))
