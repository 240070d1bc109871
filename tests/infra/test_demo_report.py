"""What the demo's report says where something is not as it should be, and that its lines keep their order."""

import io

from rich.console import Console

from infra.audit import SpoolCount
from infra.demo.loop_report import LoopReport
from infra.demo.loop_view import DemoFleet
from infra.demo.screen import DemoScreen, beside
from infra.line_watch import LineView


def test_lines_of_the_demo_never_go_back_in_time_whatever_is_heard_of_late():
    out = io.StringIO()
    screen = DemoScreen(Console(file=out, width=200), 180)
    view = LineView({"north": SpoolCount(9, 8, 0, 0, 0, 1)}, {}, 0, 0, 0)
    screen.add_step(-2.4, "20 devices  joined")
    screen.show(31.2, view, None)
    screen.add_step(28.7, "run-1  [collecting]")
    screen.add_step(32.9, "run-1  trained")
    screen.add_step(30.0, "late")
    screen.show(37.0, view, None)
    lines = out.getvalue().splitlines()
    times = [int(line.split()[0]) for line in lines]
    assert times == sorted(times) == [-2, 31, 31, 33, 33, 37]
    assert lines[2].endswith("run-1  [collecting]  (at 29 s)")
    assert lines[3].endswith("trained")
    assert lines[4].endswith("(at 30 s)")


def test_more_bytes_are_called_more_and_fewer_less():
    assert beside(90, 100).endswith("% less")
    assert beside(140, 100).endswith("% more")


def test_a_rollout_that_waits_for_a_person_is_named_with_its_reason():
    fleet = DemoFleet(total=20, on_latest=4, restored=0, refused_updates=0)
    waits = ("rollout default-1 is paused: 1 of 4 devices failed",)
    report = LoopReport("m-0", "m-1", "m-1", (), fleet, None, None, None, None, None, (), waits)
    assert (
        "rollout default-1 is paused: 1 of 4 devices failed (`edgeloop rollout status`)" in report.failures()
    )
