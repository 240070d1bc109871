"""Laws of budgets: nobody calls more often than allowed, who waits as told is served, and sums stay small."""

from hypothesis import given
from hypothesis import strategies as st

from model_service.fleet.twin_reports import PERIOD_S as TWIN_S
from model_service.fleet.twin_reports import TwinReports
from model_service.service.call_budgets import CallBudgets, CallRate
from model_service.service.refusal_log import PERIOD_S, RefusalLog
from model_service.service.refusals import OverBudgetError


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def spend(budgets, key, rate):
    try:
        budgets.spend(key, rate)
    except OverBudgetError as exc:
        return exc.retry_after_s
    return 0.0


RATES = st.builds(CallRate, burst=st.integers(1, 20), per_s=st.floats(0.01, 50))


@given(RATES, st.lists(st.floats(0, 5), max_size=100))
def test_no_span_sees_more_calls_than_the_burst_and_the_rate_allow(rate, pauses):
    clock = Clock()
    budgets, passed = CallBudgets(clock), []
    for pause in pauses:
        clock.now += pause
        if not spend(budgets, "m-1", rate):
            passed.append(clock.now)
    for i, first in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= rate.burst + (passed[j] - first) * rate.per_s + 1e-6


@given(RATES, st.integers(0, 60))
def test_whoever_waits_as_told_is_served(rate, calls):
    clock = Clock()
    budgets = CallBudgets(clock)
    for _ in range(calls):
        spend(budgets, "m-1", rate)
    wait_s = spend(budgets, "m-1", rate)
    clock.now += wait_s + 1e-6
    assert not wait_s or not spend(budgets, "m-1", rate)


def test_a_burst_is_as_long_as_it_may_be_and_no_longer():
    budgets, rate = CallBudgets(Clock()), CallRate(burst=5, per_s=1.0)
    assert [spend(budgets, "m-1", rate) for _ in range(7)] == [0.0] * 5 + [1.0] * 2


def test_one_callers_flood_takes_nothing_from_another():
    budgets, rate = CallBudgets(Clock()), CallRate(burst=5, per_s=1.0)
    assert any(spend(budgets, "m-1", rate) for _ in range(100))
    assert not spend(budgets, "m-2", rate)


def test_callers_that_came_once_are_forgotten():
    clock = Clock()
    budgets, rate = CallBudgets(clock), CallRate(burst=5, per_s=1.0)
    for number in range(100_000):
        clock.now += 0.01
        budgets.spend(number, rate)
    assert len(budgets) < 10_000


def test_a_flood_of_refusals_is_one_line_a_minute_and_kind():
    log, lines = RefusalLog(), []
    for tick in range(6000):
        now = tick / 10
        for kind in ("Report", "Enroll"):
            lines += filter(None, [log.line(kind, f"{kind} refused: number {tick}", now)])
        lines += log.sums(now)
    assert len(lines) <= 2 * (600 / PERIOD_S + 1)
    assert log.counts == {"Report": 6000, "Enroll": 6000}


def test_every_refusal_stands_in_a_line_or_in_a_sum():
    log = RefusalLog()
    lines = [line for n in range(25) if (line := log.line("Report", "refused", now=float(n)))]
    sums = log.sums(now=PERIOD_S)
    assert len(lines) == 1
    assert sums == ["24 more in 60 s, the last: refused"]
    assert log.sums(now=3 * PERIOD_S) == []
    assert log.line("Report", "refused", now=3 * PERIOD_S) == "refused"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2 * TWIN_S)), max_size=60))
def test_every_twin_report_is_recorded_once_and_seldom(events):
    twins, now, recorded, times = TwinReports(), 0.0, {}, {"a": [], "b": []}
    for device, pause in events:
        now += pause
        twins.refused(device, now)
        for name, number in twins.due(now).items():
            recorded[name] = recorded.get(name, 0) + number
            times[name].append(now)
    for name, number in twins.due(now, all_now=True).items():
        recorded[name] = recorded.get(name, 0) + number
    for name in "ab":
        assert recorded.get(name, 0) == sum(device == name for device, _ in events)
        assert all(b - a >= TWIN_S for a, b in zip(times[name], times[name][1:], strict=False))
    assert twins.unrecorded() == {}
