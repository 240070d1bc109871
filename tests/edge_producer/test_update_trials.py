"""Laws of waiting in a trial: a busy child is waited for, a hanging one fails, the clock decides which."""

from __future__ import annotations

import threading
import time

import pytest

from edge_producer.model_switch import ScoredWindow
from edge_producer.updates.shadow_comparison import ShadowComparison
from edge_producer.updates.trials import ANSWER_S, INPUT_S, READY_S, TrialChild, TrialFeed
from edge_producer.updates.update_once import synthetic_windows
from tests.edge_producer.bundles import hot, outside_when_hot
from tests.quick_machine_profile import quick_machine_profile
from tests.waiting import wait_until

MACHINE = quick_machine_profile()
WANTED = 5
HOPS_S = 10 * MACHINE.sampling.hop_s


class Child:
    """A trial process that is ready, answers and dies when the test has it."""

    def __init__(self) -> None:
        self.ready = True
        self.failure_reason = ""
        self.offered: list[int] = []

    def add_feed(self, _trial) -> None:
        pass

    def offer(self, _device_id, number, _samples) -> bool:
        self.offered.append(number)
        return True


class Trial:
    """One feed on a clock that stands still until ``pass_s``."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.child = Child()
        self.windows = synthetic_windows(MACHINE, "m-1")
        start = ShadowComparison.start("old", "new", MACHINE)
        self.feed = TrialFeed("m-1", self.child, start, 0, lambda: None, lambda: self.now_s)

    def pass_s(self, seconds: float) -> str:
        self.now_s += seconds
        return self.feed.progress(WANTED)[0]

    def window(self) -> None:
        self.feed.observe(next(self.windows), ScoredWindow("old", 0.1, 0.0))

    def answer(self) -> None:
        self.feed.answered(self.child.offered.pop(0), 0.1, 0.0, alarm=False)


@pytest.fixture
def trial():
    return Trial()


def test_a_child_that_is_not_ready_is_waited_for_and_then_deferred_not_failed(trial):
    trial.child.ready = False
    assert trial.pass_s(READY_S) == "wait"
    assert trial.pass_s(0.1) == "defer"


def test_a_model_that_does_not_answer_fails(trial):
    trial.window()
    assert trial.pass_s(max(ANSWER_S, HOPS_S)) == "wait"
    assert trial.pass_s(0.1) == "fail"


def test_each_answer_gives_a_slow_model_more_time(trial):
    trial.window()
    trial.window()
    assert trial.pass_s(max(ANSWER_S, HOPS_S)) == "wait"
    trial.answer()
    assert trial.pass_s(max(ANSWER_S, HOPS_S)) == "wait"
    assert trial.pass_s(0.1) == "fail"


def test_a_pause_of_the_sensor_is_no_fault_of_the_model(trial):
    trial.window()
    trial.answer()
    assert trial.pass_s(86_400.0) == "wait"
    trial.window()
    assert trial.pass_s(max(ANSWER_S, HOPS_S)) == "wait"


def test_a_trial_without_a_single_window_is_deferred(trial):
    bound_s = READY_S + INPUT_S + 4 * MACHINE.sampling.hop_s
    assert trial.pass_s(bound_s) == "wait"
    assert trial.pass_s(0.1) == "defer"


def test_enough_good_answers_pass_however_long_they_took(trial):
    for _ in range(WANTED):
        assert trial.pass_s(READY_S) == "wait"
        trial.window()
        trial.answer()
    assert trial.pass_s(0.0) == "pass"


def test_a_child_that_died_fails_whatever_the_clock_says(trial):
    trial.child.failure_reason = "the trial process ended with code -9"
    assert trial.pass_s(0.0) == "fail"


def test_a_model_whose_score_leaves_its_range_fails_its_trial(tmp_path):
    """A real child: on golden windows it is as good as any, on a hot one it says 1.5 more."""
    outside_when_hot(1).write(tmp_path)
    child, woken = TrialChild(tmp_path, MACHINE), threading.Event()
    try:
        start = ShadowComparison.start("old", "new", MACHINE)
        feed = TrialFeed("m-1", child, start, 0, woken.set, time.monotonic)
        child.add_feed(feed)
        wait_until(lambda: child.ready or child.failure_reason, 60.0, "the child")
        assert child.failure_reason == ""
        window = next(synthetic_windows(MACHINE, "m-1"))
        feed.observe(window, ScoredWindow("old", 0.1, 0.0))
        wait_until(lambda: feed.comparison.seen, 60.0, "an answer")
        feed.observe(hot(window), ScoredWindow("old", 0.1, 0.0))
        wait_until(lambda: child.failure_reason, 60.0, "the failure")
        state, reason = feed.progress(WANTED)
        assert state == "fail"
        assert "outside [0, 1]" in reason
    finally:
        child.end()
