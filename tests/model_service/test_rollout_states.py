"""Laws of the rollout state machine: what may follow what, and on which evidence."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_service.rollout import rollout_states
from model_service.rollout.device_progress import ProgressKind
from model_service.rollout.phase_judge import judge
from model_service.rollout.rollout_record import ENDED
from schemas.channel_documents import Release
from schemas.cohorts import EVERYBODY
from schemas.errors import RegistryError
from tests.simulators.simulated_rollout import (
    BROAD,
    CANARY,
    FACTORY,
    NEW,
    SETTINGS,
    SimulatedRollout,
    fleet,
    new_record,
    started,
)


def failed(rollout: SimulatedRollout) -> int:
    """Number of devices that have reported a failure."""
    return sum(
        any(r.result in ("restored", "not_restored") for r in reports) for reports in rollout.reports.values()
    )


def test_a_good_model_reaches_everybody_phase_by_phase():
    rollout = started()
    shares = []
    while rollout.record.state == "running":
        shares.append(len([d for d in rollout.members if rollout.wanted(d) == NEW]))
        rollout.phase_passes()
    assert rollout.record.state == "completed"
    assert shares == sorted(shares)
    assert shares[0] == 3
    assert all(rollout.runs[d] == NEW for d in rollout.members)


def test_each_phase_holds_the_devices_of_the_one_before():
    rollout = started(40)
    treated = set()
    while rollout.record.state == "running":
        now = {d for d in rollout.members if rollout.wanted(d) == NEW}
        assert treated <= now
        treated = now
        rollout.phase_passes()


def test_nothing_follows_before_the_soak_is_over():
    rollout = started()
    rollout.all_commit()
    rollout.now += SETTINGS.soak_s - 0.5
    rollout.advance_until_quiet()
    assert rollout.record.phase == 0
    rollout.now += 1.0
    rollout.advance_until_quiet()
    assert rollout.record.phase == 1


def test_a_failing_model_is_rolled_back_and_never_leaves_the_canaries():
    rollout = started()
    for device in rollout.treated():
        rollout.restore(device)
    rollout.advance_until_quiet()
    assert rollout.record.state == "rolled_back"
    assert {s.ring for s in rollout.sent} == {CANARY}
    assert all(rollout.wanted(d) == FACTORY for d in rollout.members)


def test_an_abort_in_a_broad_phase_brings_both_rings_back_to_the_baseline():
    rollout = started()
    rollout.phase_passes()
    rollout.all_commit()
    rollout.take(rollout_states.abort(rollout.record, "asked", "anna", rollout.now))
    rollout.advance_until_quiet()
    assert rollout.record.state == "aborting"
    assert {s.ring for s in rollout.sent if s.purpose == "rollback"} == {CANARY, BROAD}
    assert all(rollout.wanted(d) == FACTORY for d in rollout.members)
    rollout.all_commit()
    rollout.advance_until_quiet()
    assert rollout.record.state == "rolled_back"


def test_a_device_that_cannot_be_reached_leaves_the_return_partial():
    rollout = started()
    away = rollout.treated()[0]
    rollout.all_commit()
    rollout.take(rollout_states.abort(rollout.record, "asked", "anna", rollout.now))
    rollout.advance_until_quiet()
    for device in rollout.members:
        if device != away and rollout.runs.get(device) == NEW:
            rollout.commit(device)
    rollout.advance_until_quiet()
    assert rollout.record.state == "aborting"
    rollout.now += SETTINGS.reach_s + 1
    rollout.advance_until_quiet()
    assert rollout.record.state == "rolled_back_partial"


def test_silence_after_taking_the_offer_counts_as_failure():
    rollout = started()
    for device in rollout.treated():
        rollout.deliver(device, rollout.report(device, "trial"))
    rollout.now += SETTINGS.silent_s + 1
    rollout.advance_until_quiet()
    assert rollout.record.state in ("rolled_back", "aborting")
    assert "failed" in rollout.record.ended_because


def test_devices_out_of_reach_only_bound_the_coverage():
    rollout = started()
    lost = sorted(rollout.members)[-1]
    while rollout.record.state == "running":
        for device in rollout.treated():
            if device != lost:
                rollout.commit(device)
        rollout.now += SETTINGS.reach_s + SETTINGS.soak_s
        rollout.advance_until_quiet()
    assert rollout.record.state == "completed_partial"
    assert "11 of 12" in rollout.record.ended_because


def test_a_deferred_device_is_no_failure():
    rollout = started()
    first, *others = rollout.treated()
    rollout.deliver(first, rollout.report(first, "deferred", "no_change_deferred"))
    for device in others:
        rollout.commit(device)
    rollout.now += SETTINGS.soak_s + 1
    rollout.advance_until_quiet()
    assert rollout.record.phase == 0
    rollout.now += SETTINGS.reach_s
    rollout.advance_until_quiet()
    assert rollout.record.phase == 1


def test_one_failure_in_a_small_phase_asks_a_person():
    rollout = started()
    first, *others = rollout.treated()
    rollout.restore(first)
    for device in others:
        rollout.commit(device)
    rollout.now += SETTINGS.soak_s + 1
    rollout.advance_until_quiet()
    assert (rollout.record.state, rollout.record.pause.kind) == ("paused", "failures")
    with pytest.raises(RegistryError, match="approver"):
        rollout_states.resume(rollout.record, "otto", "", rollout.observed(), approves=False)
    rollout.take(
        rollout_states.resume(rollout.record, "anna", "sensor is broken", rollout.observed(), approves=True)
    )
    rollout.advance_until_quiet()
    assert (rollout.record.state, rollout.record.phase) == ("running", 1)


def test_too_few_shadows_ask_an_approver_and_never_promote():
    rollout = started(4, SETTINGS.model_copy(update={"min_devices": 4}))
    rollout.phase_passes()
    assert (rollout.record.state, rollout.record.pause.kind) == ("paused", "not_shown")
    assert rollout.record.phase == 0


def test_alarms_that_rise_too_much_stop_the_rollout():
    rollout = started(48)
    rollout.all_commit(gain=1.0)
    rollout.advance_until_quiet()
    assert rollout.record.state == "aborting"
    assert "alarms rise" in rollout.record.ended_because


def test_a_security_rollout_skips_soak_and_guards_and_no_device_check():
    rollout = started(48, security=True)
    rollout.all_commit(gain=1.0)
    rollout.advance_until_quiet()
    assert rollout.record.phase == 1
    assert all(c.reason == "security" for c in rollout.documents.values())
    for device in rollout.treated():
        rollout.restore(device)
    rollout.advance_until_quiet()
    assert rollout.record.state == "aborting"


def test_a_holdout_stays_on_baseline_through_the_last_soak_and_is_then_released():
    rollout = started(40, SETTINGS.model_copy(update={"holdout_share": 0.2}))
    held = {d for d in rollout.members if rollout.record.holdout.includes(d)}
    assert held
    while rollout.record.phase < rollout.record.last_soaking:
        assert all(rollout.wanted(d) == FACTORY for d in held)
        rollout.phase_passes()
    assert all(rollout.wanted(d) == FACTORY for d in held)
    rollout.phase_passes()
    assert rollout.record.releases
    assert all(rollout.wanted(d) == NEW for d in held)
    rollout.phase_passes()
    assert rollout.record.state == "completed"


def test_a_pause_by_a_person_holds_the_next_phase_and_takes_back_what_waits():
    rollout = started()
    rollout.all_commit()
    rollout.now += SETTINGS.soak_s + 1
    rollout.advance()  # the broad document waits for the guard
    rollout.take(rollout_states.pause(rollout.record, "anna", "lunch", rollout.now))
    assert rollout.sent[-1].state == "withdrawn"
    rollout.advance_until_quiet()
    assert (rollout.record.state, rollout.sent[-1].state) == ("paused", "withdrawn")
    rollout.take(rollout_states.resume(rollout.record, "otto", "", rollout.observed(), approves=False))
    rollout.advance_until_quiet()
    assert rollout.sent[-1].state == "published"
    assert rollout.sent[-1].seq > rollout.sent[-2].seq


def test_nothing_more_is_offered_while_the_guard_decides():
    rollout = started()
    rollout.all_commit()
    rollout.now += SETTINGS.soak_s + 1
    rollout.advance()
    sent = list(rollout.sent)
    assert sent[-1].state == "proposed"
    rollout.advance()
    assert rollout.sent == sent


@pytest.mark.parametrize("state", ["completed", "completed_partial"])
def test_a_completed_rollout_can_be_taken_back(state):
    rollout = started()
    rollout.record = rollout.record.model_copy(update={"state": state})
    rollout.take(rollout_states.back(rollout.record, "it was worse", "anna", rollout.now))
    assert (rollout.record.state, rollout.record.ended_because) == ("aborting", "it was worse")
    rollout.advance_until_quiet()
    assert all(rollout.wanted(d) == FACTORY for d in rollout.members)


@pytest.mark.parametrize(
    ("state", "is_ended"), [("running", True), ("paused", True), ("draft", False), ("rolled_back", False)]
)
def test_what_has_not_completed_cannot_be_taken_back_and_is_told_how_it_ends(state, is_ended):
    record = started().record.model_copy(update={"state": state})
    with pytest.raises(RegistryError, match=f"is {state}, not completed") as refused:
        rollout_states.back(record, "it was worse", "anna", 0.0)
    assert ("edgeloop rollout abort" in str(refused.value)) is is_ended


def test_a_refusal_of_the_guard_pauses_and_is_asked_again_with_a_new_seq():
    rollout = started()
    rollout.all_commit()
    rollout.now += SETTINGS.soak_s + 1
    rollout.advance()
    rollout.publish(refuse="the cohort is too large")
    rollout.advance_until_quiet()
    assert (rollout.record.state, rollout.record.pause.kind) == ("paused", "refused")
    assert "too large" in rollout.record.pause.reason
    rollout.take(rollout_states.resume(rollout.record, "otto", "", rollout.observed(), approves=False))
    rollout.advance_until_quiet()
    assert (rollout.record.state, rollout.sent[-1].state) == ("running", "published")


def test_a_failure_that_shows_while_the_guard_is_still_deciding_ends_the_rollout():
    rollout = started()
    canaries = rollout.treated()
    rollout.all_commit()
    rollout.now += SETTINGS.soak_s + 1
    rollout.advance()
    for device in canaries:
        rollout.restore(device)
    rollout.advance()
    assert rollout.record.state == "aborting"
    assert rollout.sent[-1].state == "withdrawn"


def test_a_successor_waits_until_nobody_is_amid_an_update():
    rollout = started()
    first = rollout.treated()[0]
    rollout.deliver(first, rollout.report(first, "trial"))
    rollout.successor = "line-2"
    rollout.advance_until_quiet()
    assert rollout.record.state == "running"
    rollout.commit(first)
    rollout.advance_until_quiet()
    assert rollout.record.state == "superseded"


def test_an_abort_below_the_floor_is_refused_and_waits_for_a_person():
    old = Release(version="machine-1.0000000a", sha256="a" * 64)
    new = NEW.model_copy(update={"version": "machine-2.00000001"})
    members = fleet(12)
    record = new_record(members, baseline=old).model_copy(
        update={"target": {"machine": new}, "version": new.version}
    )
    rollout = SimulatedRollout(members, record, floors={"machine": 2})
    rollout.begin()
    rollout.take(rollout_states.abort(rollout.record, "asked", "anna", rollout.now))
    rollout.advance_until_quiet()
    assert rollout.record.state == "aborting"
    assert "floor 2" in rollout.record.pause.reason
    assert not [s for s in rollout.sent if s.purpose == "rollback"]
    rollout.successor = "line-2"
    rollout.advance_until_quiet()
    assert rollout.record.state == "superseded"


@pytest.mark.parametrize("state", ENDED)
def test_what_has_ended_stays_ended(state):
    rollout = started()
    ended = rollout.record.model_copy(update={"state": state})
    assert rollout_states.advance(ended, rollout.observed(), rollout.now).record == ended
    with pytest.raises(RegistryError):
        rollout_states.abort(ended, "late", "anna", rollout.now)
    with pytest.raises(RegistryError):
        rollout_states.pause(ended, "anna", "late", rollout.now)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["commit", "restore", "try", "silence", "refuse", "wait", "soak", "pause", "resume", "abort"]
        ),
        st.integers(0, 15),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False), st.booleans())
def test_no_order_repetition_or_loss_of_reports_completes_a_rollout_with_too_many_failures(
    events, chance: random.Random, security
):
    rollout = started(16, security=security)
    for event, number in events:
        device = sorted(rollout.members)[number]
        _apply(rollout, event, device, chance)
        rollout.advance()
        rollout.publish()
        _laws(rollout)
        rollout.advance_until_quiet()
        _laws(rollout)


def _apply(rollout: SimulatedRollout, event: str, device: str, chance: random.Random) -> None:
    is_offered = rollout.wanted(device) == NEW
    match event:
        case "wait":
            rollout.now += 25.0
        case "soak":
            rollout.now += 6.0
        case "pause" if rollout.record.state == "running":
            rollout.take(rollout_states.pause(rollout.record, "anna", "", rollout.now))
        case "resume" if rollout.record.pause is not None:
            rollout.take(rollout_states.resume(rollout.record, "anna", "", rollout.observed(), approves=True))
        case "abort" if rollout.record.state in ("running", "paused"):
            rollout.take(rollout_states.abort(rollout.record, "asked", "anna", rollout.now))
        case "commit":
            rollout.commit(device)
        case _ if is_offered:
            end = {"restore": ("restored", "restored"), "refuse": ("idle", "no_change_refused")}
            reports = [rollout.report(device, "fetching"), rollout.report(device, "trial")]
            if event in end:
                reports.append(rollout.report(device, *end[event]))
            kept = [r for r in reports if chance.random() > 0.3 or r.result]
            kept += [r for r in kept if chance.random() < 0.3]
            chance.shuffle(kept)
            for report in kept:
                rollout.deliver(device, report)


def _laws(rollout: SimulatedRollout) -> None:
    record = rollout.record
    seqs = [s.seq for s in rollout.sent]
    assert seqs == sorted(set(seqs))
    if record.state == "aborting" and any(s.purpose == "rollback" for s in rollout.sent):
        back = [rollout.documents[s.seq] for s in rollout.sent if s.purpose == "rollback"]
        assert all(c.target == c.baseline and c.cohort == EVERYBODY for c in back)
    if record.state in ("completed", "completed_partial"):
        out = rollout.observed().published_at("phase", record.phase, BROAD)
        found = judge(record, record.phase, out, rollout.observed(), rollout.now)
        bad = found.count(ProgressKind.FAILED, ProgressKind.SILENT)
        reached = bad + found.count(ProgressKind.COMMITTED, ProgressKind.TRYING)
        assert bad <= record.settings.max_failed * reached or (bad == 1 and record.waived)
        assert (record.state == "completed") == (found.count(ProgressKind.COMMITTED) == len(found.progress))
    if record.state in ("rolled_back", "rolled_back_partial"):
        assert all(rollout.wanted(d) == FACTORY for d in rollout.members)


def test_where_nothing_follows_the_quality_guard_is_not_asked():
    rollout = started(4, SETTINGS.model_copy(update={"min_devices": 4, "phases": (1.0,)}))
    assert rollout.record.looks == 1
    rollout.phase_passes()
    assert rollout.record.phase == 1
    rollout.all_commit(gain=0.1)
    rollout.now += SETTINGS.soak_s + 1
    rollout.advance_until_quiet()
    assert rollout.record.state == "completed"


def test_a_rollout_completes_in_its_last_phase_and_proposes_no_other():
    rollout = started()
    while rollout.record.state == "running":
        rollout.phase_passes()
    assert rollout.record.phase == rollout.record.last_phase
    assert {s.phase for s in rollout.sent} == set(range(rollout.record.last_phase + 1))


def test_a_successor_waits_for_a_document_that_is_not_published_yet():
    rollout = started()
    rollout.all_commit()
    rollout.now += SETTINGS.soak_s + 1
    rollout.advance()
    assert rollout.observed().pending()
    rollout.successor = "line-2"
    rollout.advance()
    assert rollout.record.state == "running"
    rollout.publish()
    rollout.advance()
    assert rollout.record.state == "superseded"


def test_resuming_what_runs_changes_nothing_and_what_does_not_is_refused():
    rollout = started()
    running = rollout.record
    again = rollout_states.resume(running, "anna", "", rollout.observed(), approves=True)
    assert (again.record, again.actions) == (running, ())
    draft = running.model_copy(update={"state": "draft"})
    with pytest.raises(RegistryError, match="nothing to resume"):
        rollout_states.resume(draft, "anna", "", rollout.observed(), approves=True)


def test_a_pause_says_who_asked_and_why():
    rollout = started()
    paused = rollout_states.pause(rollout.record, "anna", "lunch", rollout.now).record
    assert paused.pause.reason == "anna: lunch"
    assert rollout_states.pause(rollout.record, "anna", "", rollout.now).record.pause.reason == "anna: asked"
    assert rollout_states.pause(paused, "otto", "", rollout.now).actions == ()


@pytest.mark.parametrize("security", [True, False])
def test_the_start_says_whether_it_is_a_security_rollout(security):
    [note] = rollout_states.begin(new_record(fleet(4), security=security)).actions
    assert bool(note.detail["security"]) is security
