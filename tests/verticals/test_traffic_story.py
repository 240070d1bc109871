"""Laws of the demo of intersections: what it injects is known, and what holds from the start is no change."""

from __future__ import annotations

from datetime import UTC, datetime

from edge_producer.sources.sensor_generator import load_generator, require_known
from infra.demo.plan import make_plan
from infra.demo.story import DemoSize, usual_size
from schemas.profile_file import find_profile

PROFILE = find_profile("traffic_demo")
T0 = datetime(2026, 1, 1, 3, tzinfo=UTC)
PLAN = make_plan(PROFILE, 20, 240.0, 7, T0)


def test_the_generator_knows_what_is_injected_and_during_which_of_it_an_alarm_is_right():
    generator, story = load_generator("intersection"), PLAN.story
    require_known("intersection", generator, PROFILE.channel_names, PLAN.scenario.injections)
    assert story.wear is not None
    assert generator.kinds[story.fault.kind]
    assert generator.kinds[story.wear.kind]
    assert not any(generator.kinds[item.kind] for item in (story.drift, *story.setting))
    assert f"{story.drift_channel}_mean" in PROFILE.feature_names


def test_what_holds_from_the_start_is_no_change_and_hits_every_intersection():
    story = PLAN.story
    assert min(item.start_s for item in story.changes) == story.fault.start_s > 0
    assert all(set(story.setting) <= set(PLAN.scenario.of(device)) for device in PLAN.devices)
    assert set(story.fault.devices).isdisjoint(PLAN.worn)


def test_a_story_says_how_long_its_demo_takes():
    assert usual_size("intersection").seconds > usual_size("rotating_machine").seconds == DemoSize().seconds
