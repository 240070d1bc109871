"""How an aborted rollout ends: which documents bring devices back, and which devices are still away."""

from dataclasses import replace

import pytest

from model_service.rollout.observed import DeviceReport, DeviceStatus, GroupMember, Observed, SentDocument
from model_service.rollout.return_to_baseline import advance_return, is_blocked
from model_service.rollout.rollout_record import RolloutPause, RolloutRecord
from model_service.rollout.transitions import Note, Propose
from schemas.channel_documents import BROAD, CANARY, Release
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare
from schemas.learning_policy import RolloutPolicy
from tests.simulators.simulated_rollout import FACTORY, NEW

NOW = 1000.0
OLD = Release(version="machine-2.0000000a", sha256="a" * 64)
SETTINGS = RolloutPolicy(phases=(0.5, 1.0), reach_s=60.0, silent_s=30.0)
MEMBERS = {d: GroupMember(d, "s", "x", True) for d in ("d0", "d1")}


def record(**changes) -> RolloutRecord:
    plan = RolloutRecord(
        rollout_id="r", group="g", family="machine", version=NEW.version, created_by="anna", state="aborting",
        target={"machine": NEW}, baseline={"machine": FACTORY}, settings=SETTINGS, canary=EVERYBODY, salt="s",
        phase=1, ended_because="it failed",
    )  # fmt: skip
    return plan.model_copy(update=changes)


def sent(seq, purpose="phase", state="published", ring=CANARY, phase=1, at=NOW, detail=""):
    return SentDocument(seq, ring, purpose, phase, state, at, detail)


def runs(release, channel_seq=9, state="idle", last_seen=NOW):
    return DeviceStatus(last_seen, channel_seq, state, {} if release is None else {"machine": release})


BACK = (sent(1, phase=0), sent(9, "rollback"))
"""The canary document, and the return to the baseline."""


def step(plan=None, documents=BACK, statuses=None, now=NOW, **seen):
    both = {"d0": runs(FACTORY), "d1": runs(FACTORY)} if statuses is None else statuses
    return advance_return(plan or record(), Observed(MEMBERS, statuses=both, sent=documents, **seen), now)


def proposed(transition):
    return [a.ring for a in transition.actions if isinstance(a, Propose)]


@pytest.mark.parametrize(("floor", "blocked"), [(1, False), (2, False), (3, True)])
def test_a_baseline_at_the_floor_is_a_way_back(floor, blocked):
    assert bool(is_blocked(record(baseline={"machine": OLD}), {"machine": floor})) is blocked
    assert not is_blocked(record(baseline={"machine": OLD}), {"pump": floor})


def test_a_factory_set_is_always_a_way_back():
    assert is_blocked(record(), {"machine": 9}) == ""


def test_without_a_way_back_a_person_is_asked_once_and_a_successor_ends_it():
    plan = record(baseline={"machine": OLD})
    asked = step(plan, floors={"machine": 3})
    assert asked.record.pause.kind == "person"
    assert "below the floor 3" in asked.record.pause.reason
    assert [a.step for a in asked.actions if isinstance(a, Note)] == ["abort_refused"]
    assert step(asked.record, floors={"machine": 3}).actions == ()
    other = replace_reason(asked.record, "something else")
    assert step(other, floors={"machine": 3}).actions != ()
    assert step(plan, floors={"machine": 3}, successor="r2").record.state == "superseded"


def replace_reason(plan, reason):
    return plan.model_copy(update={"pause": plan.pause.model_copy(update={"reason": reason})})


def test_nothing_is_decided_while_a_document_waits_or_a_person_was_asked():
    assert step(documents=(*BACK, sent(10, "rollback", "proposed", BROAD))).record == record()
    waiting = record(pause=RolloutPause(kind="refused", reason="no", at=NOW))
    assert step(waiting, documents=BACK[:1]).actions == ()


def test_each_ring_that_was_told_of_the_target_gets_a_return():
    broad = sent(5, ring=BROAD)
    assert proposed(step(documents=BACK[:1])) == [CANARY]
    assert proposed(step(documents=(BACK[0], broad))) == [CANARY, BROAD]
    assert proposed(step(documents=(*BACK, broad))) == [BROAD]
    assert proposed(step(documents=(BACK[0], replace(broad, state="withdrawn")))) == [CANARY]
    assert proposed(step(documents=BACK[:1], broad_elsewhere=True)) == [CANARY, BROAD]
    only_back = (*BACK, sent(10, "rollback", ring=BROAD))
    assert proposed(step(documents=only_back)) == []


def test_a_return_names_the_baseline_for_everybody():
    [back] = step(documents=BACK[:1]).actions
    assert (back.target, back.cohort, back.holdout) == ({"machine": FACTORY}, EVERYBODY, NOBODY)
    assert (back.purpose, back.reason, back.phase) == ("rollback", "rollback", 1)
    assert back.evidence == {"because": "it failed"}


def test_a_refused_return_is_asked_about_and_then_proposed_again():
    no = (BACK[0], sent(9, "rollback", "refused", detail="too old"))
    asked = step(documents=no)
    assert asked.record.pause.kind == "refused"
    assert "too old" in asked.record.pause.reason
    resumed = record(handled_refusal=9)
    assert proposed(step(resumed, documents=no)) == [CANARY]


def test_it_ends_when_all_are_back():
    ended = step()
    assert ended.record.state == "rolled_back"
    assert ended.actions[0].detail == {"baseline": FACTORY.version, "away": 0}


def test_a_device_that_is_away_is_waited_for_from_the_newest_return_on():
    away = {"d0": runs(NEW), "d1": runs(FACTORY)}
    two = (*BACK, sent(5, ring=BROAD), sent(10, "rollback", ring=BROAD, at=NOW + 5))
    waits = step(documents=two, statuses=away, now=NOW + 64.9)
    assert (waits.record.state, waits.due) == ("aborting", NOW + 65)
    taken_back = (*two, sent(12, "rollback", "withdrawn", BROAD, at=NOW + 50))
    assert step(documents=taken_back, statuses=away, now=NOW + 50).due == NOW + 65
    ended = step(documents=two, statuses=away, now=NOW + 65)
    assert ended.record.state == "rolled_back_partial"
    assert ended.actions[0].detail["away"] == 1
    assert step(statuses=away, successor="r2").record.state == "rolled_back_partial"


def away(status, reports=(), plan=None, documents=BACK):
    """Whether a device is waited for."""
    statuses = {"d0": runs(FACTORY)} | ({} if status is None else {"d1": status})
    return step(plan, documents, statuses, reports={"d1": list(reports)}).record.state == "aborting"


def trial(at=NOW):
    return DeviceReport(1, at, "trial", "", NEW.version)


def test_a_device_that_never_took_an_offer_is_not_away():
    assert not away(None)
    assert away(None, [trial()])


def test_any_factory_set_is_as_good_as_another_and_nothing_else_is_the_baseline():
    other_factory = Release(version="machine-0.00000007")
    assert not away(runs(other_factory))
    assert not away(runs(None))
    assert away(runs(OLD))
    signed = record(baseline={"machine": OLD})
    assert away(runs(FACTORY), plan=signed)
    assert away(runs(NEW), plan=signed)


def test_a_device_amid_an_update_that_has_not_followed_the_return_yet_is_away():
    assert away(runs(FACTORY, 8, "trial"), [trial()])
    assert not away(runs(FACTORY, 9, "trial"), [trial()])
    assert not away(runs(FACTORY, 8, "idle"))
    not_yet = (*BACK, sent(11, "rollback", "withdrawn", BROAD))
    assert not away(runs(FACTORY, 9, "trial"), [trial()], documents=not_yet)


def test_a_device_that_the_phase_does_not_treat_is_amid_nothing():
    others = record(canary=NOBODY, phase=1, salt="s", settings=SETTINGS, holdout=SaltedShare(devices=("d1",)))
    assert not away(runs(FACTORY, 8, "trial"), [trial()], plan=others)
