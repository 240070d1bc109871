"""A shipped profile `NAME_demo` is `NAME` in all but its timings."""

from __future__ import annotations

import pytest

from schemas.profile_changes import diff
from schemas.profile_file import find_profile, in_minutes

TIMINGS = {
    "decision.refractory_windows",
    "summaries.period_s",
    "drift.window_s",
    "drift.lateness_s",
    "drift.cooldown_windows",
    "drift.warmup_windows",
    "training.min_effective_rows",
    "training.max_wait_s",
    "training.window_s",
    "training.cooldown_s",
    "training.renewals",
    "rollout.trial_windows",
    "rollout.watch_windows",
    "rollout.soak_s",
    "rollout.longest_soak_s",
    "rollout.no_holdout",
    "rollout.silent_s",
    "rollout.reach_s",
}
HOLDS = {
    "machine": {"inspect", "stop"},
    "robot": {"slow_down"},
    "traffic": {"report_incident"},
    "wearable": set(),
}
"""Rules whose actions are in force for less time."""
RATES = {
    "robot": {
        "sampling.hop_samples",
        "filter.p",
        "filter.p_min",
        "filter.burst_after",
        "filter.pretrigger",
        "decision.rules.slow_down.after_windows",
        "decision.rules.retreat.after_windows",
    },
    "traffic": {
        "sampling.rate_hz",
        "sampling.hop_samples",
        "filter.p",
        "drift.seasonal_s",
        "model.history.hour_s",
    },
}
"""What follows from fewer windows a second, as a fleet shares two cores with its cloud, from samples that are
played faster, or from a demo that has no weeks."""
CONFIG_TIMINGS = {"every_s", "window_s", "valid_after_s", "lead_s"}


@pytest.mark.parametrize("name", HOLDS)
def test_only_timings_differ(name):
    own, demo = find_profile(name), find_profile(in_minutes(name))
    held = {f"decision.rules.{rule}.hold_s" for rule in HOLDS[name]}
    found = {change.path for change in diff(own, demo)} - {"name", "description"}
    assert found - {"configs"} == TIMINGS | held | RATES.get(name, set())


@pytest.mark.parametrize("name", HOLDS)
def test_of_configurations_only_family_and_timings_differ(name):
    own, demo = find_profile(name), find_profile(in_minutes(name))
    for given, short in zip(own.configs, demo.configs, strict=True):
        one, other = given.model_dump(), short.model_dump()
        assert {key for key in one if one[key] != other[key]} == CONFIG_TIMINGS | {"family"}


@pytest.mark.parametrize("name", HOLDS)
def test_the_one_is_for_production_and_the_other_for_a_demo_of_minutes(name):
    own, demo = find_profile(name), find_profile(f"{name}-demo")
    assert own.rollout.soak_s >= 86400
    assert own.drift.window_s >= 3600
    assert demo.rollout.soak_s + demo.drift.window_s < 60
    assert (own.rollout.lengthens, demo.rollout.lengthens) == (True, False)
