"""Laws of the updater's schedule: no burst of checks, and nothing is never due. No clock, no service."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.updates.schedule import (
    DENIED_S,
    LONGEST_S,
    MARGIN_S,
    OFFLINE_S,
    SHORTEST_PAUSE_S,
    SHORTEST_S,
    Backoff,
    UpdateSchedule,
)

POLL_S = 60.0
HALF_A_DAY_S = 43_200.0
DRAWS = st.floats(0, 1, exclude_max=True)
TIMES = st.floats(-1e6, 1e9)


def fresh(draw: float = 0.5, poll_s: float = POLL_S) -> UpdateSchedule:
    return UpdateSchedule(poll_s, lambda: draw)


def checked(now_s: float = 0.0, draw: float = 0.5) -> UpdateSchedule:
    """A schedule whose first check has just succeeded."""
    subject = fresh(draw)
    subject.check_begins(now_s)
    subject.contact_succeeded()
    return subject


def next_check_s(subject: UpdateSchedule, now_s: float) -> float:
    """When the next check is due, as the agent finds out: by the pause that it waits."""
    return now_s + subject.pause(now_s, reports=False)


# Checks


@given(TIMES)
def test_a_new_schedule_has_everything_due_whatever_the_clock_counts_from(now_s):
    subject = fresh()
    assert subject.check_due(now_s)
    assert subject.report_due(now_s)
    assert subject.may_send_reports(now_s)
    assert subject.pause(now_s, reports=True) == SHORTEST_PAUSE_S


@given(TIMES, DRAWS)
def test_without_hints_a_check_follows_the_last_one_by_half_to_one_and_a_half_polls(now_s, draw):
    subject = checked(now_s, draw)
    assert not subject.check_due(now_s + 0.499 * POLL_S)
    assert subject.check_due(now_s + 1.501 * POLL_S)


@given(TIMES)
def test_a_hint_brings_the_next_check_forward_to_the_shortest_distance_and_counts_once(now_s):
    subject = checked(now_s)
    assert subject.hint()
    assert not subject.hint(), "no one is woken for it twice"
    assert not subject.check_due(now_s + 0.99 * SHORTEST_S)
    assert subject.check_due(now_s + 1.01 * SHORTEST_S)
    subject.check_begins(now_s + 2 * SHORTEST_S)
    assert not subject.check_due(now_s + 4 * SHORTEST_S), "it is answered"
    assert subject.hint()


@given(
    st.lists(
        st.tuples(st.sampled_from(["hint", "retry", "report", "nothing"]), st.floats(0, 5)), max_size=200
    ),
    DRAWS,
)
def test_no_check_comes_sooner_than_the_shortest_distance_whatever_hints_and_retries_come(events, draw):
    subject, now_s, last_s = fresh(draw), 0.0, -math.inf
    for event, passed_s in events:
        now_s += passed_s / 10
        if event == "hint":
            subject.hint()
        elif event == "retry":
            subject.retry(now_s, passed_s - 2.5)
        elif event == "report":
            subject.report_at_once()
        if subject.check_due(now_s):
            assert now_s - last_s >= SHORTEST_S
            last_s = now_s
            subject.check_begins(now_s)
            subject.contact_succeeded()


def test_a_hint_shortens_the_wait_after_a_failure_and_one_from_before_it_does_not():
    subject = checked()
    subject.hint()
    subject.check_begins(10.0)
    subject.hint()
    subject.contact_failed(10.0, denied=True)
    assert not subject.check_due(10.0 + DENIED_S - 1.0)
    subject.hint()
    assert subject.check_due(10.0 + SHORTEST_S)


def test_hints_during_an_outage_lead_to_a_check_a_second_after_the_failure_and_no_sooner():
    subject = fresh()
    for _ in range(5):
        subject.contact_failed(0.0)
    subject.hint()
    assert not subject.check_due(0.99 * SHORTEST_S)
    assert subject.check_due(SHORTEST_S)


def test_the_end_of_an_attempt_has_the_service_checked_at_once():
    subject = checked()
    subject.check_at_once()
    assert subject.check_due(0.0)


@given(TIMES, st.floats(SHORTEST_S, 0.49 * POLL_S))
def test_what_may_be_tried_again_is_checked_just_after_that_time_and_never_later_than_the_poll(now_s, wait_s):
    subject = checked(now_s)
    subject.retry(now_s, wait_s)
    assert next_check_s(subject, now_s) == pytest.approx(now_s + wait_s + MARGIN_S)
    subject.retry(now_s, HALF_A_DAY_S)
    assert next_check_s(subject, now_s) == pytest.approx(now_s + wait_s + MARGIN_S)


# Clocks


@given(st.lists(st.sampled_from(["hint", "retry", "check"]), max_size=30))
def test_a_clock_that_stands_still_gives_one_check(events):
    subject, checks = fresh(), 0
    for event in events:
        if event == "hint":
            subject.hint()
        elif event == "retry":
            subject.retry(5.0, -3.0)
        if subject.check_due(5.0):
            checks += 1
            subject.check_begins(5.0)
            subject.contact_succeeded()
    assert checks <= 1


@given(st.floats(0, 1e9))
def test_a_clock_that_jumps_ahead_makes_one_check_due_and_not_those_it_jumped_over(jump_s):
    subject = checked()
    now_s = 1.5 * POLL_S + jump_s
    assert subject.check_due(now_s)
    subject.check_begins(now_s)
    assert not subject.check_due(now_s + 0.499 * POLL_S)


# Failures


@given(st.lists(DRAWS, min_size=2, max_size=60))
def test_waits_after_failures_grow_until_the_bound_and_stay_there(draws):
    subject = UpdateSchedule(POLL_S, iter(draws).__next__)
    waits = []
    for _ in draws:
        subject.contact_failed(0.0)
        waits.append(subject.pause(0.0, reports=False))
    growing = [wait for k, wait in enumerate(waits) if 2.0**k < LONGEST_S]
    assert growing == sorted(growing)
    assert all(LONGEST_S / 2 <= wait <= LONGEST_S for wait in waits[len(growing) :])
    assert subject.failures == len(draws)


def test_an_answer_begins_the_waits_anew():
    subject = fresh()
    for _ in range(20):
        subject.contact_failed(0.0)
    subject.contact_succeeded()
    assert subject.failures == 0
    subject.contact_failed(0.0)
    assert subject.pause(0.0, reports=True) <= 1.0


def test_a_failure_holds_up_checks_and_reports_alike_and_a_new_report_is_tried_at_once():
    subject = checked()
    subject.contact_failed(0.0)
    assert (subject.check_due(0.4), subject.report_due(0.4)) == (False, False)
    subject.report_at_once()
    assert (subject.check_due(0.4), subject.report_due(0.4)) == (False, True)


@given(DRAWS)
def test_who_is_denied_waits_a_minute_for_a_person_however_few_its_failures(draw):
    subject = fresh(draw)
    subject.contact_failed(0.0, denied=True)
    assert not subject.check_due(DENIED_S - 0.01)
    assert subject.check_due(DENIED_S)


def test_half_a_day_of_failures_overflows_nothing_and_leaves_the_next_check_within_a_minute():
    subject, backoff, now_s, checks = fresh(0.999), Backoff(lambda: 0.999), 0.0, 0
    while now_s < HALF_A_DAY_S:
        assert subject.check_due(now_s)
        checks += 1
        subject.check_begins(now_s)
        subject.contact_failed(now_s)
        now_s = next_check_s(subject, now_s)
    assert checks > HALF_A_DAY_S / LONGEST_S - 1
    assert {backoff.failed() <= LONGEST_S for _ in range(5000)} == {True}, "a power of two once overflowed"


EVENTS = ["check", "failed", "denied", "offline", "hint", "retry", "report", "refused", "ended", "worked"]


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.floats(0, 3600)), max_size=60), DRAWS)
def test_nothing_is_ever_due_never(events, draw):
    subject, now_s = fresh(draw), 0.0
    happen = {
        "check": lambda: subject.check_begins(now_s),
        "failed": lambda: subject.contact_failed(now_s),
        "denied": lambda: subject.contact_failed(now_s, denied=True),
        "offline": lambda: subject.offline(now_s),
        "hint": subject.hint,
        "retry": lambda: subject.retry(now_s, 3600.0),
        "report": subject.report_at_once,
        "refused": lambda: subject.reports_refused(now_s, denied=True),
        "ended": subject.check_at_once,
        "worked": subject.contact_succeeded,
    }
    for event, passed_s in events:
        now_s += passed_s
        happen[event]()
        assert subject.pause(now_s, reports=False) <= max(1.5 * POLL_S, LONGEST_S, DENIED_S)
        assert subject.report_due(now_s + max(LONGEST_S, DENIED_S))
        assert subject.pause(now_s, reports=True) <= subject.pause(now_s, reports=False)


def test_the_end_of_flight_mode_is_noticed_soon_and_is_no_failure():
    subject = fresh()
    subject.check_begins(0.0)
    subject.offline(0.0)
    assert not subject.check_due(0.9 * OFFLINE_S)
    assert subject.check_due(OFFLINE_S)
    assert subject.failures == 0


# Reports


def test_reports_that_are_refused_wait_and_checks_go_on():
    subject = checked()
    wait_s = subject.reports_refused(0.0)
    subject.hint()
    subject.report_at_once()
    assert not subject.may_send_reports(0.9 * wait_s)
    assert not subject.report_due(0.9 * wait_s), "a new one waits with the others"
    assert subject.check_due(SHORTEST_S)
    assert subject.may_send_reports(wait_s)


def test_refusals_back_off_by_themselves_and_one_taken_report_begins_anew():
    subject = fresh(0.999)
    waits = [subject.reports_refused(0.0) for _ in range(10)]
    assert waits == sorted(waits)
    assert waits[-1] <= LONGEST_S
    assert subject.failures == 0
    subject.reports_accepted()
    assert subject.reports_refused(0.0) <= 1.0
    assert subject.reports_refused(0.0, denied=True) == DENIED_S


def test_a_pause_ends_for_reports_only_where_some_wait():
    subject = checked()
    assert subject.pause(0.0, reports=True) == SHORTEST_PAUSE_S
    assert subject.pause(0.0, reports=False) == POLL_S


def test_nobody_has_hinted_at_anything_before_the_first_hint():
    assert UpdateSchedule(60.0).hint()


@given(st.floats(1.0, 600.0), TIMES)
def test_nothing_comes_sooner_than_the_service_asked_for_whatever_hints_come(asked_s, now_s):
    subject = checked(now_s)
    subject.contact_failed(now_s, at_least_s=asked_s)
    subject.hint()
    subject.report_at_once()
    subject.check_at_once()
    before_s = now_s + 0.99 * asked_s
    assert not subject.check_due(before_s)
    assert not subject.report_due(before_s)
    assert subject.check_due(now_s + asked_s + LONGEST_S)


def test_reports_wait_as_long_as_the_service_asks_and_checks_go_on():
    subject = checked()
    assert subject.reports_refused(0.0, at_least_s=300.0) == 300.0
    assert not subject.may_send_reports(299.0)
    assert subject.check_due(2 * POLL_S)
    assert subject.may_send_reports(300.0)
