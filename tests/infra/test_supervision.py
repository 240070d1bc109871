"""When a process that ended is started again."""

from pathlib import Path

from infra.process.child import ChildProcess
from infra.stack.supervision import LONGEST_PAUSE_S, MAX_QUICK_ENDS, RestartRule, Supervised
from tests.waiting import wait_until


def test_pauses_double_up_to_a_bound():
    rule = RestartRule()
    pauses = [rule.ended(1.0) for _ in range(MAX_QUICK_ENDS)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE_S]


def test_too_many_quick_ends_stop_it():
    rule = RestartRule()
    assert [rule.ended(0.1) for _ in range(MAX_QUICK_ENDS + 1)][-1] is None


def test_a_long_life_clears_the_count():
    rule = RestartRule()
    for _ in range(MAX_QUICK_ENDS):
        rule.ended(0.1)
    assert rule.ended(3600.0) == 0.5


def test_a_process_that_ended_is_started_again_when_its_pause_is_over(tmp_path: Path):
    def spawn() -> ChildProcess:
        return ChildProcess("quick", ["true"], tmp_path / "log")

    process = Supervised("quick", spawn, spawn(), started=100.0)
    first = process.child.pid
    wait_until(lambda: process.child.exit_code is not None, 10, "its end")
    assert process.check(101.0)
    assert not process.check(101.4)
    assert process.check(101.5)
    assert process.child.pid != first
    process.child.stop()


def test_a_process_that_keeps_failing_says_so(tmp_path: Path):
    def spawn() -> ChildProcess:
        return ChildProcess("broken", ["sh", "-c", "echo no disk; exit 3"], tmp_path / "log")

    process, now = Supervised("broken", spawn, spawn(), started=0.0), 0.0
    while process.failed is None:
        wait_until(lambda: process.due is not None or process.child.exit_code is not None, 10, "its end")
        process.check(now)
        now += LONGEST_PAUSE_S
    assert process.entry().failed == f"ended {MAX_QUICK_ENDS + 1} times in a row, exit code 3: no disk"


def test_a_child_is_killed_when_it_does_not_listen(tmp_path: Path):
    child = ChildProcess(
        "deaf", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], tmp_path / "log"
    )
    wait_until(lambda: child.log_tail() == ["ready"], 10, "its trap")
    assert child.stop(timeout_s=0.3) == -9
