"""When a training run starts: once per change, and never behind a person's back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from model_service.training.run_states import RunState
from model_service.training.training_run import TRAINER, RunReason, TrainingRun
from model_service.training.trigger import (
    MORE_ROWS,
    ClockFacts,
    ExtendRun,
    StartRun,
    VerdictSummary,
    next_open,
    on_clock,
    on_release,
    on_verdicts,
)
from tests.quick_machine_profile import quick_machine_profile

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
COLLECTING, DECLINED, DISMISSED = RunState.COLLECTING, RunState.DECLINED, RunState.DISMISSED
EXAMINING, FAILED, TRAINED, WAITING = RunState.EXAMINING, RunState.FAILED, RunState.TRAINED, RunState.WAITING
AGE, DRIFT, LABELS, SCHEDULE = RunReason.AGE, RunReason.DRIFT, RunReason.LABELS, RunReason.SCHEDULE
MACHINE = quick_machine_profile()
REACH_S = 3 * MACHINE.drift.window_s


def policy(**training):
    return MACHINE.model_copy(update={"training": MACHINE.training.model_copy(update=training)})


def verdict(onset_s: float, number: int = 0) -> VerdictSummary:
    onset = NOW + onset_s * SECOND
    return VerdictSummary(
        f"task-01/{number}/{onset_s}", "machine/h/g/x", "covariate", onset, onset + 10 * SECOND
    )


def run(
    state: RunState, *, onset_s: float | None = 0.0, age_s: float = 0.0, reason=DRIFT, by=TRAINER
) -> TrainingRun:
    at = NOW - age_s * SECOND
    onset = None if onset_s is None else NOW + onset_s * SECOND
    return TrainingRun("r", "machine", "machine", state, reason, by, at, at, onset=onset)


def test_verdicts_of_one_onset_start_one_run():
    [start] = on_verdicts(MACHINE, [verdict(0), verdict(5, 1), verdict(-3, 2)], [])
    assert isinstance(start, StartRun)
    assert (start.onset, len(start.verdicts)) == (NOW - 3 * SECOND, 3)


def test_verdicts_of_two_onsets_start_two_runs():
    assert len(on_verdicts(MACHINE, [verdict(0), verdict(REACH_S + 5)], [])) == 2


def test_a_change_that_was_trained_on_or_dismissed_is_never_taken_up_again():
    for state in (TRAINED, DISMISSED, FAILED, EXAMINING, COLLECTING):
        [action] = on_verdicts(MACHINE, [verdict(REACH_S)], [run(state)])
        assert isinstance(action, ExtendRun)
        assert not action.reopen


def test_new_evidence_opens_a_run_again_that_had_found_no_reason():
    for state in (DECLINED, WAITING):
        [action] = on_verdicts(MACHINE, [verdict(-REACH_S)], [run(state)])
        assert isinstance(action, ExtendRun)
        assert action.reopen


@given(st.lists(st.floats(-1e5, 1e5), max_size=30), st.lists(st.floats(-1e5, 1e5), max_size=5))
def test_every_verdict_is_taken_up_exactly_once(onsets, known):
    verdicts = [verdict(s, i) for i, s in enumerate(onsets)]
    actions = on_verdicts(MACHINE, verdicts, [run(TRAINED, onset_s=s) for s in known])
    taken = [v for a in actions for v in a.verdicts]
    assert sorted(taken) == sorted(v.event_id for v in verdicts)


def test_automatic_runs_wait_while_the_last_one_cools_down_and_peoples_do_not():
    profile = policy(cooldown_s=30.0)
    fresh = [run(TRAINED, age_s=10), run(EXAMINING, onset_s=500)]
    assert next_open(profile, fresh, NOW) is None
    assert next_open(profile, fresh, NOW + 25 * SECOND) == fresh[1]
    asked = replace(fresh[1], requested_by="olga")
    assert next_open(profile, [fresh[0], asked], NOW) == asked
    declined = [run(DECLINED, age_s=1), run(EXAMINING, onset_s=500)]
    assert next_open(profile, declined, NOW) == declined[1]  # nothing was trained


def test_runs_are_worked_on_one_at_a_time_oldest_first():
    first, second = run(COLLECTING, age_s=20), run(EXAMINING, onset_s=500)
    assert next_open(MACHINE, [first, second], NOW) == first


RENEWED = policy(renewals=2)


def learnt(after_s: float, **more) -> TrainingRun:
    """A run that made the model in force so long after its onset."""
    return replace(run(TRAINED), updated_at=NOW + after_s * SECOND, **more)


def test_a_learnt_change_is_trained_again_once_twice_the_time_has_passed():
    made = learnt(20)
    assert on_release(RENEWED, [made], made, 30.0, NOW + 39 * SECOND) is None
    start = on_release(RENEWED, [made], made, 30.0, NOW + 40 * SECOND)
    assert start == StartRun(DRIFT, made.onset, made.verdicts, made.run_id, MORE_ROWS * 30.0)


def test_a_learnt_change_is_trained_again_a_few_times_and_then_never_more():
    made = [learnt(20 * 2**i, run_id=f"r{i}") for i in range(3)]
    late = NOW + timedelta(days=1)
    assert all(on_release(RENEWED, made[:n], made[n - 1], 30.0, late) for n in range(1, len(made)))
    assert on_release(RENEWED, made, made[-1], 30.0, late) is None


def test_a_learnt_change_is_renewed_for_the_profile_that_it_was_made_for_alone():
    made, late = learnt(20), NOW + timedelta(days=1)
    twin = RENEWED.model_copy(update={"name": "machine_demo"})
    assert on_release(twin, [made], made, 30.0, late) is None
    assert on_release(RENEWED, [made], made, 30.0, late) is not None


def test_a_learnt_change_is_left_alone_where_something_else_has_happened_since():
    made, late = learnt(20), NOW + timedelta(days=1)
    for other in (run(WAITING, onset_s=500), run(EXAMINING, onset_s=500), run(DECLINED, onset_s=500)):
        assert on_release(RENEWED, [made, replace(other, run_id="other")], made, 30.0, late) is None
    assert on_release(policy(auto=False, renewals=2), [made], made, 30.0, late) is None
    assert on_release(policy(renewals=0), [made], made, 30.0, late) is None
    clock = replace(made, reason=SCHEDULE, onset=None)
    assert on_release(RENEWED, [clock], clock, 30.0, late) is None


def test_clocks_and_labels_start_runs_when_due_and_no_sooner():
    facts = ClockFacts([], None, NOW)
    for setting, reason in (({"schedule_s": 60.0}, SCHEDULE), ({"max_age_s": 60.0}, AGE)):
        assert on_clock(policy(**setting), facts, NOW + 59 * SECOND) is None
        assert on_clock(policy(**setting), facts, NOW + 60 * SECOND) == StartRun(reason)
    assert on_clock(policy(label_count=5), replace(facts, new_labels=4), NOW) is None
    assert on_clock(policy(label_count=5), replace(facts, new_labels=5), NOW) == StartRun(LABELS)
    assert on_clock(MACHINE, facts, NOW + timedelta(days=999)) is None


def test_a_clock_starts_nothing_while_a_run_is_open_or_cools_down():
    due = policy(schedule_s=60.0, cooldown_s=100.0)
    for state, age_s in ((COLLECTING, 500), (TRAINED, 70)):
        facts = ClockFacts([run(state, age_s=age_s, reason=SCHEDULE, onset_s=None)], None, NOW - 999 * SECOND)
        assert on_clock(due, facts, NOW) is None
    old = ClockFacts([run(TRAINED, age_s=500, reason=SCHEDULE, onset_s=None)], None, NOW - 999 * SECOND)
    assert on_clock(due, old, NOW) == StartRun(SCHEDULE)


def test_a_model_made_for_another_reason_restarts_the_clock():
    facts = ClockFacts([], NOW - 10 * SECOND, NOW - 999 * SECOND)
    assert on_clock(policy(max_age_s=60.0), facts, NOW) is None
