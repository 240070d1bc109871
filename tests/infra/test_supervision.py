"""When a process that ended is started again."""

from datetime import UTC, datetime
from pathlib import Path

from infra.process.child import ChildProcess
from infra.stack.supervision import (
    LONGEST_PAUSE_S,
    MAX_QUICK_ENDS,
    QUICK_S,
    STEADY_S,
    RestartRule,
    Supervised,
    telling_line,
)
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


def broken(tmp_path: Path) -> Supervised:
    """A process that ends at every start, with something on its last line."""

    def spawn() -> ChildProcess:
        script = "echo starting; echo no such column; exit 1"
        return ChildProcess("broken", ["sh", "-c", script], tmp_path / "log")

    noticed = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    return Supervised("broken", spawn, spawn(), started=0.0, clock=lambda: noticed)


def test_a_process_that_ends_and_is_started_again_is_in_trouble_and_says_why(tmp_path: Path):
    """`status` said `running` while every worker ended at each start."""
    process, now = broken(tmp_path), 0.0
    assert process.entry().trouble is None
    for ends in (1, 2, 3):
        wait_until(lambda: process.child.exit_code is not None, 10, "its end")
        assert process.check(now)
        assert (process.entry().ends, process.entry().last_line) == (ends, "no such column")
        times = "once" if ends == 1 else f"{ends} times"
        assert process.entry().trouble == (
            f"ended {times} since 2026-01-02T03:04:00Z, will be started again: no such column"
        )
        now = process.due or now
        assert process.check(now)
    process.child.stop()


def test_the_line_that_is_told_says_what_went_wrong():
    validation = [
        "linger_s",
        "  Input should be greater than 0",
        "",
        "  For further information visit https://x",
    ]
    assert telling_line(validation) == "Input should be greater than 0"
    assert telling_line(["  File x", "KeyError: 'bearing'", " "]) == "KeyError: 'bearing'"
    assert telling_line([]) == telling_line([" "]) == ""


def test_trouble_outlives_a_start_and_ends_when_the_process_has_run_for_a_while(tmp_path: Path):
    process = broken(tmp_path)
    wait_until(lambda: process.child.exit_code is not None, 10, "its end")
    process.check(1.0)
    process.spawn = lambda: ChildProcess("mended", ["sleep", "60"], tmp_path / "log")
    process.check(2.0)
    assert "has been started again: no such column" in process.entry().trouble
    assert not process.check(2.0 + QUICK_S - 1)
    assert process.check(2.0 + QUICK_S)
    assert process.entry().trouble is None
    process.ends = 2  # what ended more than once is believed later
    assert process.check(2.0 + QUICK_S)
    assert process.check(2.0 + STEADY_S)
    assert (process.entry().trouble, process.ends) == (None, 0)
    process.child.kill()


def test_a_child_is_killed_when_it_does_not_listen(tmp_path: Path):
    child = ChildProcess(
        "deaf", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], tmp_path / "log"
    )
    wait_until(lambda: child.log_tail() == ["ready"], 10, "its trap")
    assert child.stop(timeout_s=0.3) == -9
