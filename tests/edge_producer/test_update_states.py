"""Laws of the state machine: what may follow a state, when a set is tried again, how a comparison ends."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.updates.resource_limits import LimitCounts, limit_counts
from edge_producer.updates.schedule import LONGEST_S, Backoff
from edge_producer.updates.shadow_comparison import ShadowComparison
from edge_producer.updates.slots import ModelSet
from edge_producer.updates.update_states import (
    BACKOFF_LIMIT_S,
    BACKOFF_S,
    FOLLOWS,
    MAX_TRANSITIONS,
    SETTLED,
    Attempt,
    UpdateRecord,
    after_restart,
    parse_record,
)
from schemas.channel_documents import Release
from schemas.profile_file import find_profile
from schemas.updates import UpdateResult, UpdateState

NEW = ModelSet(releases={"machine": Release(version="machine-1.00000001", sha256="a" * 64)})
OLD = ModelSet(releases={"machine": Release(version="machine-0.00000000")})
MACHINE = find_profile("machine")


def attempt(**given) -> Attempt:
    release = NEW.releases["machine"]
    return Attempt(seq=3, rollout_id="r", wanted=NEW, before=OLD, release=release, path="p", **given)


def record(state: UpdateState, **given) -> UpdateRecord:
    return UpdateRecord(state=state, attempt=given.pop("attempt", attempt()), seq=3, **given)


@pytest.mark.parametrize("state", UpdateState)
def test_every_state_has_followers_and_survives_its_file(state):
    assert FOLLOWS[state]
    kept = record(state, told={"artifact": "x"}, failed=record(state).give_up(NEW, 3, "why"))
    assert parse_record(kept.model_dump_json().encode()) == kept


def test_causes_that_were_reported_keep_the_key_of_release_0_2_0():
    kept = b'{"state":"idle","told":{"metadata":"freeze: expired"}}'
    read = parse_record(kept)
    assert read.reported == {"metadata": "freeze: expired"}
    assert json.loads(read.model_dump_json())["told"] == read.reported


@pytest.mark.parametrize("raw", [b"", b"{", b'{"format":2}', b'{"state":"dancing"}', b"\xff\x00"])
def test_what_is_no_record_is_known_as_such(raw):
    assert parse_record(raw) is None


def test_no_file_is_a_new_device():
    assert parse_record(None) == UpdateRecord()


def test_a_state_that_may_not_follow_is_a_bug_and_raises():
    with pytest.raises(ValueError, match="does not follow"):
        record(UpdateState.FETCHING).to(UpdateState.COMMITTED)


@pytest.mark.parametrize("state", [s for s in UpdateState if s not in SETTLED])
def test_a_restart_leads_every_state_somewhere_and_counts(state):
    after = after_restart(record(state))
    changed = state in (UpdateState.COMMITTED, UpdateState.WATCH)
    assert after.state == (state if changed else UpdateState.IDLE)
    assert after.attempt is not None


@pytest.mark.parametrize("state", [s for s in UpdateState if s not in SETTLED])
def test_restarts_without_end_end(state):
    """Whatever breaks an attempt off again and again, it is given up after so many transitions."""
    now = record(state, attempt=attempt(live=True))
    for _ in range(MAX_TRANSITIONS + 5):
        now = after_restart(now)
        if now.failed or now.state is UpdateState.RESTORING:
            break
        if now.state is UpdateState.IDLE:
            now = now.begin(attempt(), UpdateState.FETCHING)
        elif now.state is UpdateState.COMMITTED:
            now = now.to(UpdateState.WATCH, attempt=now.attempt.model_copy(update={"live": True}))
    assert now.failed[NEW.digest].kind == "final"


def test_an_attempt_that_ended_begins_to_count_anew_and_one_broken_off_goes_on():
    broken = record(UpdateState.IDLE, attempt=attempt(transitions=9))
    assert broken.begin(attempt(), UpdateState.FETCHING).attempt.transitions == 10
    ended = record(UpdateState.IDLE, attempt=attempt(transitions=9), result=UpdateResult.NO_CHANGE_FAILED)
    assert ended.begin(attempt(), UpdateState.FETCHING).attempt.transitions == 1


def test_a_watch_whose_set_is_proven_is_over_whatever_the_record_says():
    crashed = record(UpdateState.WATCH, attempt=attempt(live=True, crashes=1))
    assert after_restart(crashed).state is UpdateState.RESTORING
    over = after_restart(crashed, NEW)
    assert (over.state, over.result) == (UpdateState.IDLE, UpdateResult.COMMITTED)


def test_what_failed_for_good_waits_for_a_newer_channel():
    failed = UpdateRecord(failed=UpdateRecord().give_up(NEW, 3, "golden"))
    assert not failed.may_try(NEW, 3, 1e12)
    assert failed.may_try(NEW, 4, 0)
    assert failed.may_try(OLD, 3, 0)


@given(st.integers(1, 40), st.floats(0, 0.999))
def test_passing_failures_back_off_with_jitter_and_a_bound(times, draw):
    now = UpdateRecord()
    for _ in range(times):
        now = UpdateRecord(failed=now.fail(NEW, 3, 1000.0, "line", lambda: draw))
    wait = now.failed[NEW.digest].not_before - 1000.0
    assert min(2.0 ** (times - 1), BACKOFF_LIMIT_S) / 2 <= wait <= BACKOFF_LIMIT_S
    assert not now.may_try(NEW, 3, 1000.0)
    assert now.may_try(NEW, 3, 1000.0 + wait)
    assert now.may_try(NEW, 3, -1e9), "a clock that was wrong does not lock a set out"


def test_backing_off_has_a_limit_and_starts_anew_after_success():
    subject = Backoff(lambda: 0.999)
    waits = [subject.failed() for _ in range(20)]
    assert waits == sorted(waits)
    assert waits[-1] <= LONGEST_S
    subject.reset()
    assert subject.failed() <= 1.0


def test_an_outage_of_days_is_waited_for_like_one_of_hours():
    subject = Backoff(lambda: 0.999)
    assert {subject.failed() <= LONGEST_S for _ in range(5000)} == {True}
    known = UpdateRecord().fail(NEW, 3, 0.0, "line")[NEW.digest].model_copy(update={"count": 5000})
    failed = UpdateRecord(failed={NEW.digest: known}).fail(NEW, 3, 0.0, "line")
    assert failed[NEW.digest].not_before <= BACKOFF_LIMIT_S


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_a_comparison_is_that_of_numpy(pairs):
    subject = ShadowComparison.start("old", "new", MACHINE)
    for old, new in pairs:
        subject = subject.add(old, new, 0.0)
    old, new = (np.array(side) for side in zip(*pairs, strict=True))
    assert subject.difference == pytest.approx((new - old).mean(), abs=1e-9)
    assert subject.m2 == pytest.approx(
        ((new - old) ** 2).sum() - len(old) * (new - old).mean() ** 2, abs=1e-9
    )
    assert (subject.old_mean, subject.new_mean) == pytest.approx((old.mean(), new.mean()))
    assert (subject.old_alarms, subject.new_alarms) == ((old >= 0.6).sum(), (new >= 0.6).sum())
    summary = subject.summary(in_force=True)
    assert (summary.active_version, summary.mean_difference) == ("new", -subject.difference)


def compared(windows) -> ShadowComparison:
    subject = ShadowComparison.start("old", "new", MACHINE)
    for old, new, took_s in windows:
        subject = subject.add(old, new, took_s)
    return subject


GOOD, LOST, LATE, BLANK = (0.1, 0.1, 0.0), (0.1, None, 0.0), (0.1, 0.1, 2.0), (None, None, 0.0)


@pytest.mark.parametrize(
    ("windows", "early", "verdict"),
    [
        ([GOOD] * 4, False, "wait"),
        ([GOOD] * 5, False, "pass"),
        ([BLANK] * 5, False, "pass"),
        ([LOST] * 4, False, "wait"),
        ([GOOD] * 4 + [LOST], False, "fail"),
        ([LOST] * 3, True, "fail"),
        ([LATE] * 3, True, "fail"),
        ([LATE] * 5, False, "fail"),
        ([GOOD] * 99 + [LATE], False, "pass"),
    ],
)
def test_a_comparison_ends_as_its_windows_say(windows, early, verdict):
    assert compared(windows).judge(5, early=early)[0] == verdict


def test_a_passing_failure_waits_twice_as_long_each_time():
    waits, now = [], UpdateRecord()
    for _ in range(5):
        now = UpdateRecord(failed=now.fail(NEW, 3, 1000.0, "line", lambda: 1.0))
        waits.append(now.failed[NEW.digest].not_before - 1000.0)
    assert waits == [BACKOFF_S * 2**k for k in range(5)]
    assert waits[0] == UpdateRecord().fail(NEW, 3, 0.0, "line", lambda: 0.0)[NEW.digest].not_before * 2


def test_the_longest_wait_there_is_locks_a_set_out_and_a_longer_one_was_no_wait():
    def may_try_at(now_s):
        failure = (
            UpdateRecord().fail(NEW, 3, 0.0, "line")[NEW.digest].model_copy(update={"not_before": 9000.0})
        )
        return UpdateRecord(failed={NEW.digest: failure}).may_try(NEW, 3, now_s)

    assert [may_try_at(9000.0 - BACKOFF_LIMIT_S + by) for by in (-1.0, 0.0, 1.0)] == [True, False, False]
    assert [may_try_at(9000.0 + by) for by in (-1.0, 0.0)] == [False, True]


def test_an_attempt_loops_only_beyond_its_most_transitions():
    assert not record(UpdateState.TRIAL, attempt=attempt(transitions=MAX_TRANSITIONS)).looping
    assert record(UpdateState.TRIAL, attempt=attempt(transitions=MAX_TRANSITIONS + 1)).looping


def test_a_set_that_is_proven_is_forgiven_and_no_longer_live_and_other_failures_stay():
    watching = record(UpdateState.WATCH, attempt=attempt(live=True))
    failed = watching.give_up(NEW, 3, "x") | watching.give_up(OLD, 2, "y")
    proved = watching.model_copy(update={"failed": failed}).proved(watching.attempt)
    assert set(proved.failed) == {OLD.digest}
    assert not proved.attempt.live


@pytest.mark.parametrize("state", UpdateState)
def test_a_restart_without_an_attempt_or_in_a_settled_state_changes_nothing(state):
    assert after_restart(record(state, attempt=None)) == record(state, attempt=None)
    if state in SETTLED:
        assert after_restart(record(state)) == record(state)


def test_a_watch_that_ended_in_order_is_no_crash():
    assert not attempt().live
    assert after_restart(record(UpdateState.WATCH)) == record(UpdateState.WATCH)


@pytest.mark.parametrize(
    ("windows", "wanted", "early", "verdict"),
    [
        ([LATE] * 10 + [GOOD] * 190, 200, False, "pass"),
        ([LATE] * 11 + [GOOD] * 189, 200, False, "fail"),
        ([LOST] * 3 + [GOOD] * 12, 99, True, "wait"),
        ([LOST] * 3 + [GOOD] * 11, 99, True, "fail"),
        ([LOST] * 2, 99, True, "wait"),
        ([LOST] * 3, 99, False, "wait"),
    ],
)
def test_a_share_at_its_bound_is_no_failure_yet(windows, wanted, early, verdict):
    assert compared(windows).judge(wanted, early=early)[0] == verdict


def test_a_score_at_the_rule_is_an_alarm_and_one_that_took_the_whole_hop_is_in_time():
    profile_rule, hop_s = MACHINE.decision.rules[0].enter, MACHINE.sampling.hop_s
    both = compared([(profile_rule, profile_rule, hop_s)])
    assert (both.old_alarms, both.new_alarms, both.missed) == (1, 1, 0)
    assert compared([(0.1, 0.1, hop_s * 1.001)]).missed == 1


BEFORE = LimitCounts(boot="b-1", machine=4, group=1)


def started(now: LimitCounts = BEFORE, **given) -> tuple[UpdateRecord, bool]:
    return UpdateRecord(limits=BEFORE, **given).started(now)


def killed(state: UpdateState, now: LimitCounts = BEFORE, **given) -> UpdateRecord:
    """What the next process makes of a record whose process was killed."""
    given.setdefault("attempt", attempt(live=state is UpdateState.WATCH))
    left = record(state, limits=BEFORE, running=True, **given)
    counted, hit = left.started(now)
    return after_restart(counted, ended=True, hit_limit=hit)


@pytest.mark.parametrize("state", [UpdateState.TRIAL, UpdateState.WATCH])
def test_one_kill_under_a_new_model_is_excused_and_a_second_one_counts(state):
    once = killed(state)
    assert (once.result, once.failed, once.attempt.crashes) == (None, {}, 1)
    again = once if state is UpdateState.WATCH else once.begin(attempt(), UpdateState.STAGED).to(state)
    twice = killed(state, attempt=again.attempt)
    assert (twice.state, twice.failed[NEW.digest].kind) == (UpdateState.RESTORING, "final")
    assert "ended 2 times" in twice.detail


def test_an_attempt_that_was_excused_in_its_trial_is_tried_again_and_goes_on_counting():
    excused = killed(UpdateState.TRIAL)
    assert excused.state is UpdateState.IDLE
    assert excused.may_try(NEW, 3, 0.0)
    newer = attempt().model_copy(update={"seq": 9})
    assert excused.begin(newer, UpdateState.STAGED).attempt.crashes == 1, "the next phase is the same offer"
    other = attempt().model_copy(update={"rollout_id": "another"})
    assert excused.begin(other, UpdateState.STAGED).attempt.crashes == 0


@pytest.mark.parametrize("state", [UpdateState.TRIAL, UpdateState.WATCH])
@pytest.mark.parametrize(
    "now", [LimitCounts(boot="b-1", machine=5, group=1), LimitCounts(boot="b-1", machine=4, group=2)]
)
def test_a_kill_for_want_of_memory_is_not_excused(state, now):
    ended = killed(state, now)
    assert ended.failed[NEW.digest].kind == "final"
    assert (ended.out_of_memory, ended.unclean_ends) == (1, 1)
    assert "resource limit" in ended.detail


def test_an_end_under_a_limit_of_its_own_is_not_excused_unless_the_machine_went_down():
    bounded = BEFORE.model_copy(update={"bounded": True})
    left = record(UpdateState.TRIAL, limits=bounded, running=True)
    assert left.started(bounded)[1]
    assert not left.started(bounded.model_copy(update={"boot": "b-2", "machine": 900}))[1]


def test_a_kill_before_the_trial_is_no_crash():
    fetching = killed(UpdateState.FETCHING)
    assert (fetching.attempt.crashes, fetching.unclean_ends) == (0, 1)


def test_restarts_are_counted_since_the_newest_rollout_and_ends_in_order_are_not_unclean():
    first, _ = UpdateRecord().started(BEFORE)
    assert (first.restarts, first.unclean_ends) == (0, 0), "the first start is no restart"
    orderly, _ = first.model_copy(update={"running": False}).started(BEFORE)
    assert (orderly.restarts, orderly.unclean_ends) == (1, 0)
    cut, _ = orderly.started(BEFORE)
    assert (cut.restarts, cut.unclean_ends) == (2, 1)
    same = cut.accept(7, cut.rollout_id)
    assert (same.seq, same.restarts) == (7, 2)
    another = cut.accept(8, "next")
    assert (another.restarts, another.unclean_ends, another.running) == (0, 0, True)


def test_a_record_of_a_device_that_never_restarted_has_the_keys_of_release_0_2_0():
    kept = json.loads(record(UpdateState.WATCH).model_dump_json())
    assert not {"running", "restarts", "unclean_ends", "out_of_memory", "limits"} & set(kept)
    counted, _ = record(UpdateState.WATCH, limits=BEFORE, running=True).started(BEFORE)
    assert parse_record(counted.model_dump_json().encode()) == counted


def test_the_counts_are_those_of_the_kernel(tmp_path):
    """The files of a process in a control group of a service manager."""
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir()
    (tmp_path / "groups/system.slice/edge.service").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("b-7\n")
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 17\noom_kill 5\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/edge.service\n")
    (tmp_path / "groups/system.slice/edge.service/memory.events").write_text("oom 3\noom_kill 2\n")
    counts = limit_counts(tmp_path / "proc", tmp_path / "groups")
    assert (counts.boot, counts.machine, counts.group) == ("b-7", 5, 2)
    blind = limit_counts(tmp_path / "none", tmp_path / "none")
    assert (blind.boot, blind.machine, blind.group) == ("", 0, 0)
