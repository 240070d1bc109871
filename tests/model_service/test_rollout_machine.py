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
from tests.simulators.rollout_world import (
    BROAD,
    CANARY,
    FACTORY,
    NEW,
    SETTINGS,
    World,
    fleet,
    new_record,
    started,
)


def failed(world: World) -> int:
    """Devices whose delivered reports say that they did not take it well."""
    return sum(any(r.result in ("restored", "not_restored") for r in told) for told in world.told.values())


def test_a_good_model_reaches_everybody_phase_by_phase():
    world = started()
    shares = []
    while world.record.state == "running":
        shares.append(len([d for d in world.members if world.wanted(d) == NEW]))
        world.phase_passes()
    assert world.record.state == "completed"
    assert shares == sorted(shares)
    assert shares[0] == 3
    assert all(world.runs[d] == NEW for d in world.members)


def test_each_phase_holds_the_devices_of_the_one_before():
    world = started(40)
    treated = set()
    while world.record.state == "running":
        now = {d for d in world.members if world.wanted(d) == NEW}
        assert treated <= now
        treated = now
        world.phase_passes()


def test_nothing_follows_before_the_soak_is_over():
    world = started()
    world.all_commit()
    world.now += SETTINGS.soak_s - 0.5
    world.look_until_quiet()
    assert world.record.phase == 0
    world.now += 1.0
    world.look_until_quiet()
    assert world.record.phase == 1


def test_a_failing_model_is_taken_back_and_never_leaves_the_canaries():
    world = started()
    for device in world.treated():
        world.restore(device)
    world.look_until_quiet()
    assert world.record.state == "rolled_back"
    assert {s.ring for s in world.sent} == {CANARY}
    assert all(world.wanted(d) == FACTORY for d in world.members)


def test_an_abort_in_a_broad_phase_turns_both_rings_to_the_baseline():
    world = started()
    world.phase_passes()
    world.all_commit()
    world.take(rollout_states.abort(world.record, "asked", "anna", world.now))
    world.look_until_quiet()
    assert world.record.state == "aborting"
    assert {s.ring for s in world.sent if s.purpose == "rollback"} == {CANARY, BROAD}
    assert all(world.wanted(d) == FACTORY for d in world.members)
    world.all_commit()
    world.look_until_quiet()
    assert world.record.state == "rolled_back"


def test_a_device_that_cannot_be_reached_leaves_the_way_back_partial():
    world = started()
    away = world.treated()[0]
    world.all_commit()
    world.take(rollout_states.abort(world.record, "asked", "anna", world.now))
    world.look_until_quiet()
    for device in world.members:
        if device != away and world.runs.get(device) == NEW:
            world.commit(device)
    world.look_until_quiet()
    assert world.record.state == "aborting"
    world.now += SETTINGS.reach_s + 1
    world.look_until_quiet()
    assert world.record.state == "rolled_back_partial"


def test_silence_after_taking_the_offer_counts_as_failure():
    world = started()
    for device in world.treated():
        world.deliver(device, world.report(device, "trial"))
    world.now += SETTINGS.silent_s + 1
    world.look_until_quiet()
    assert world.record.state in ("rolled_back", "aborting")
    assert "failed" in world.record.ended_because


def test_devices_out_of_reach_only_bound_the_coverage():
    world = started()
    lost = sorted(world.members)[-1]
    while world.record.state == "running":
        for device in world.treated():
            if device != lost:
                world.commit(device)
        world.now += SETTINGS.reach_s + SETTINGS.soak_s
        world.look_until_quiet()
    assert world.record.state == "completed_partial"
    assert "11 of 12" in world.record.ended_because


def test_a_deferred_device_is_no_failure():
    world = started()
    first, *others = world.treated()
    world.deliver(first, world.report(first, "deferred", "no_change_deferred"))
    for device in others:
        world.commit(device)
    world.now += SETTINGS.soak_s + 1
    world.look_until_quiet()
    assert world.record.phase == 0
    world.now += SETTINGS.reach_s
    world.look_until_quiet()
    assert world.record.phase == 1


def test_one_failure_in_a_small_phase_asks_a_person():
    world = started()
    first, *others = world.treated()
    world.restore(first)
    for device in others:
        world.commit(device)
    world.now += SETTINGS.soak_s + 1
    world.look_until_quiet()
    assert (world.record.state, world.record.pause.kind) == ("paused", "failures")
    with pytest.raises(RegistryError, match="approver"):
        rollout_states.resume(world.record, "otto", "", world.seen(), approves=False)
    world.take(rollout_states.resume(world.record, "anna", "sensor is broken", world.seen(), approves=True))
    world.look_until_quiet()
    assert (world.record.state, world.record.phase) == ("running", 1)


def test_too_few_shadows_ask_an_approver_and_never_promote():
    world = started(4, SETTINGS.model_copy(update={"min_devices": 4}))
    world.phase_passes()
    assert (world.record.state, world.record.pause.kind) == ("paused", "not_shown")
    assert world.record.phase == 0


def test_alarms_that_rise_too_much_stop_the_rollout():
    world = started(48)
    world.all_commit(gain=1.0)
    world.look_until_quiet()
    assert world.record.state == "aborting"
    assert "alarms rise" in world.record.ended_because


def test_a_security_rollout_skips_soak_and_guards_and_no_device_check():
    world = started(48, security=True)
    world.all_commit(gain=1.0)
    world.look_until_quiet()
    assert world.record.phase == 1
    assert all(c.reason == "security" for c in world.documents.values())
    for device in world.treated():
        world.restore(device)
    world.look_until_quiet()
    assert world.record.state == "aborting"


def test_a_holdout_stays_on_baseline_through_the_last_soak_and_is_then_released():
    world = started(40, SETTINGS.model_copy(update={"holdout_share": 0.2}))
    held = {d for d in world.members if world.record.holdout.includes(d)}
    assert held
    while world.record.phase < world.record.last_soaking:
        assert all(world.wanted(d) == FACTORY for d in held)
        world.phase_passes()
    assert all(world.wanted(d) == FACTORY for d in held)
    world.phase_passes()
    assert world.record.releases
    assert all(world.wanted(d) == NEW for d in held)
    world.phase_passes()
    assert world.record.state == "completed"


def test_a_pause_by_a_person_holds_the_next_phase_and_takes_back_what_waits():
    world = started()
    world.all_commit()
    world.now += SETTINGS.soak_s + 1
    world.look()  # the broad document waits for the guard
    world.take(rollout_states.pause(world.record, "anna", "lunch", world.now))
    assert world.sent[-1].state == "withdrawn"
    world.look_until_quiet()
    assert world.record.state == "paused"
    world.take(rollout_states.resume(world.record, "otto", "", world.seen(), approves=False))
    world.look_until_quiet()
    assert world.sent[-1].state == "published"
    assert world.sent[-1].seq > world.sent[-2].seq


def test_a_refusal_of_the_guard_pauses_and_is_asked_again_with_a_new_seq():
    world = started()
    world.all_commit()
    world.now += SETTINGS.soak_s + 1
    world.look()
    world.publish(refuse="the cohort is too large")
    world.look_until_quiet()
    assert (world.record.state, world.record.pause.kind) == ("paused", "refused")
    assert "too large" in world.record.pause.reason
    world.take(rollout_states.resume(world.record, "otto", "", world.seen(), approves=False))
    world.look_until_quiet()
    assert (world.record.state, world.sent[-1].state) == ("running", "published")


def test_a_failure_that_shows_while_the_guard_thinks_ends_the_rollout():
    world = started()
    canaries = world.treated()
    world.all_commit()
    world.now += SETTINGS.soak_s + 1
    world.look()
    for device in canaries:
        world.restore(device)
    world.look()
    assert world.record.state == "aborting"
    assert world.sent[-1].state == "withdrawn"


def test_a_successor_waits_until_nobody_is_amid_an_update():
    world = started()
    first = world.treated()[0]
    world.deliver(first, world.report(first, "trial"))
    world.successor = "line-2"
    world.look_until_quiet()
    assert world.record.state == "running"
    world.commit(first)
    world.look_until_quiet()
    assert world.record.state == "superseded"


def test_an_abort_below_the_floor_is_refused_and_waits_for_a_person():
    old = Release(version="machine-1.0000000a", sha256="a" * 64)
    new = NEW.model_copy(update={"version": "machine-2.00000001"})
    members = fleet(12)
    record = new_record(members, baseline=old).model_copy(
        update={"target": {"machine": new}, "version": new.version}
    )
    world = World(members, record, floors={"machine": 2})
    world.begin()
    world.take(rollout_states.abort(world.record, "asked", "anna", world.now))
    world.look_until_quiet()
    assert world.record.state == "aborting"
    assert "floor 2" in world.record.pause.reason
    assert not [s for s in world.sent if s.purpose == "rollback"]
    world.successor = "line-2"
    world.look_until_quiet()
    assert world.record.state == "superseded"


@pytest.mark.parametrize("state", ENDED)
def test_what_has_ended_stays_ended(state):
    world = started()
    ended = world.record.model_copy(update={"state": state})
    assert rollout_states.advance(ended, world.seen(), world.now).record == ended
    with pytest.raises(RegistryError):
        rollout_states.abort(ended, "late", "anna", world.now)
    with pytest.raises(RegistryError):
        rollout_states.pause(ended, "anna", "late", world.now)


DEEDS = st.lists(
    st.tuples(
        st.sampled_from(
            ["commit", "restore", "try", "silence", "refuse", "wait", "soak", "pause", "resume", "abort"]
        ),
        st.integers(0, 15),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(DEEDS, st.randoms(use_true_random=False), st.booleans())
def test_no_order_repetition_or_loss_of_reports_completes_a_rollout_with_too_many_failures(
    deeds, chance: random.Random, security
):
    world = started(16, security=security)
    for deed, number in deeds:
        device = sorted(world.members)[number]
        _do(world, deed, device, chance)
        world.look()
        world.publish()
        _laws(world)
        world.look_until_quiet()
        _laws(world)


def _do(world: World, deed: str, device: str, chance: random.Random) -> None:
    wants = world.wanted(device) == NEW
    match deed:
        case "wait":
            world.now += 25.0
        case "soak":
            world.now += 6.0
        case "pause" if world.record.state == "running":
            world.take(rollout_states.pause(world.record, "anna", "", world.now))
        case "resume" if world.record.pause is not None:
            world.take(rollout_states.resume(world.record, "anna", "", world.seen(), approves=True))
        case "abort" if world.record.state in ("running", "paused"):
            world.take(rollout_states.abort(world.record, "asked", "anna", world.now))
        case "commit":
            world.commit(device)
        case _ if wants:
            end = {"restore": ("restored", "restored"), "refuse": ("idle", "no_change_refused")}
            reports = [world.report(device, "fetching"), world.report(device, "trial")]
            if deed in end:
                reports.append(world.report(device, *end[deed]))
            kept = [r for r in reports if chance.random() > 0.3 or r.result]
            kept += [r for r in kept if chance.random() < 0.3]
            chance.shuffle(kept)
            for report in kept:
                world.deliver(device, report)


def _laws(world: World) -> None:
    record = world.record
    seqs = [s.seq for s in world.sent]
    assert seqs == sorted(set(seqs))
    if record.state == "aborting" and any(s.purpose == "rollback" for s in world.sent):
        back = [world.documents[s.seq] for s in world.sent if s.purpose == "rollback"]
        assert all(c.target == c.baseline and c.cohort == EVERYBODY for c in back)
    if record.state in ("completed", "completed_partial"):
        out = world.seen().published_at("phase", record.phase, BROAD)
        found = judge(record, record.phase, out, world.seen(), world.now)
        bad = found.count(ProgressKind.FAILED, ProgressKind.SILENT)
        reached = bad + found.count(ProgressKind.COMMITTED, ProgressKind.TRYING)
        assert bad <= record.settings.max_failed * reached or (bad == 1 and record.waived)
        assert (record.state == "completed") == (found.count(ProgressKind.COMMITTED) == len(found.standings))
    if record.state in ("rolled_back", "rolled_back_partial"):
        assert all(world.wanted(d) == FACTORY for d in world.members)


def test_where_nothing_follows_the_quality_guard_is_not_asked():
    world = started(4, SETTINGS.model_copy(update={"min_devices": 4, "phases": (1.0,)}))
    assert world.record.looks == 1
    world.phase_passes()
    assert world.record.phase == 1
    world.all_commit(gain=0.1)
    world.now += SETTINGS.soak_s + 1
    world.look_until_quiet()
    assert world.record.state == "completed"
