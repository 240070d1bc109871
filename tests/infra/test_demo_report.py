"""What the demo's report says where something is not as it should be."""

from infra.demo.loop_report import LoopReport
from infra.demo.loop_view import DemoFleet
from infra.demo.screen import beside


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
