"""`machine_demo` is `machine` in all but its timings."""

from __future__ import annotations

from schemas.profile_changes import diff
from schemas.profile_file import find_profile, in_minutes

TIMINGS = {
    "decision.refractory_windows",
    "decision.rules.inspect.hold_s",
    "decision.rules.stop.hold_s",
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


def test_only_timings_differ():
    machine, demo = find_profile("machine"), find_profile(in_minutes("machine"))
    assert {change.path for change in diff(machine, demo)} - {"name", "description"} == TIMINGS


def test_the_one_is_for_production_and_the_other_for_a_demo_of_minutes():
    machine, demo = find_profile("machine"), find_profile("machine-demo")
    assert machine.rollout.soak_s >= 86400
    assert machine.drift.window_s >= 3600
    assert demo.rollout.soak_s + demo.drift.window_s < 60
    assert (machine.rollout.lengthens, demo.rollout.lengthens) == (True, False)
