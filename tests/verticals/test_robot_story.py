"""Laws of the robots' demo as it is planned: its size, and what counts as a fault in it."""

from __future__ import annotations

from datetime import UTC, datetime

from infra.demo.conclude import fault_spans, judged_outputs
from infra.demo.plan import make_plan, on_window
from infra.demo.stage import DemoRequest
from infra.verticals.robot.robot_story import STORY, STRIKES, TOOL_SHARE
from schemas.profile_file import find_profile

START = datetime(2026, 1, 5, tzinfo=UTC)


def test_a_demo_is_as_large_as_its_story_says_unless_a_person_does():
    usual = DemoRequest.of("robot_demo", None, None, 7, loop=True)
    assert (usual.devices, usual.seconds) == (STORY.size.devices, STORY.size.seconds)
    given = DemoRequest.of("robot_demo", 5, 90.0, 7, loop=True)
    assert (given.devices, given.seconds) == (5, 90.0)
    machine = DemoRequest.of("machine_demo", None, None, 7, loop=True)
    assert (machine.devices, machine.seconds) == (20, 180.0)


def test_a_strike_and_worn_gears_are_faults_and_another_tool_is_none():
    plan = make_plan(find_profile("robot_demo"), 10, 200.0, 7, START)
    kinds = {span.kind: span.is_fault for span in plan.spans}
    assert kinds == {"collision": True, "joint_wear": True, "payload": False}
    struck = [span.device_id for span in plan.spans if span.kind == "collision"]
    assert len(struck) == 1
    assert not set(struck) & set(plan.worn)
    assert 2 <= len(plan.worn) < len(plan.sites["north"])
    assert f"{STRIKES} times" in plan.told()
    tools = sum(span.kind == "payload" for span in plan.spans)
    assert tools >= TOOL_SHARE * 10 - 3


def test_without_the_loop_nothing_wears():
    plan = make_plan(find_profile("robot_demo"), 4, 90.0, 7, START, loop=False)
    assert plan.worn == ()


def test_quality_is_measured_on_what_rules_read_each_output_against_its_own_fault():
    """A score that is high with every new tool finds no fault, and one of the arm's gears is no collision."""
    profile = find_profile("robot_demo")
    assert judged_outputs(profile) == ("score_degradation", "score_slip", "score_collision")
    assert judged_outputs(find_profile("machine_demo")) == ("score",)
    assert judged_outputs(find_profile("wearable_demo")) == ("score",)
    plan = make_plan(profile, 10, 200.0, 7, START)
    spans = {(s.device_id, s.output) for s in fault_spans(plan)}
    assert {output for _, output in spans} == {"score_collision", "score_degradation"}
    assert {device for device, output in spans if output == "score_degradation"} == set(plan.worn)


def test_a_demo_begins_with_a_whole_drift_window_where_windows_are_short():
    at = START.replace(second=33, microsecond=177_420)
    assert on_window(at, 5.0) == START.replace(second=35)
    assert on_window(START, 5.0) == START
    assert on_window(at, 3600.0) == at
