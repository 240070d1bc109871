"""Laws of drift under the profile of traffic: a week's rhythm is none, and a little more demand is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np

from edge_producer.verticals.traffic.intersection_sensors import daily_level
from schemas.profile_file import find_profile
from stream_processors.drift.cohort_judge import CohortJudge
from stream_processors.windowing.moments import Moments
from stream_processors.windowing.partials import TaskShare
from stream_processors.windowing.windows import CohortScope, TumblingWindow

TRAFFIC = find_profile("traffic")
DAY_US = 86_400_000_000
START = datetime(2026, 1, 5, tzinfo=UTC)
DEVICES, DAYS, CHANGED_AT = 10, 56, 42
WINDOWS_AN_HOUR = 1800


def days_of_verdicts(profile, change, seed):
    """Days on which the flow of ten intersections gets a verdict; its demand changes after six weeks."""
    rng = np.random.default_rng(seed)
    usual, state, found = 0.3 * np.exp(rng.normal(0.0, 0.15, DEVICES)), {}, []
    for day in range(DAYS):
        hours = [daily_level(START + timedelta(days=day, hours=h)) for h in range(24)]
        own = usual * np.exp(rng.normal(0.0, 0.06, DEVICES)) * (1 + change * (day >= CHANGED_AT))
        flows = np.outer(own, hours)
        m2 = float(((flows - flows.mean()) ** 2).sum()) * WINDOWS_AN_HOUR
        moments = Moments(flows.size * WINDOWS_AN_HOUR, float(flows.mean()), m2, flows.min(), flows.max())
        judge = CohortJudge(CohortScope("traffic", "traffic/s/g/h"), profile, state)
        start_us = round((START + timedelta(days=day)).timestamp() * 1e6)
        shares = {("m@1", "flow_ns_mean"): TaskShare(moments, DEVICES)}
        found += [day for _ in judge.window(TumblingWindow(start_us, DAY_US), shares)]
        state = json.loads(json.dumps({k: v for k, v in (state | judge.changed).items() if v is not None}))
    return found


def test_weekends_are_no_drift_and_fifteen_percent_more_demand_is_one_within_three_days():
    assert days_of_verdicts(TRAFFIC, 0.0, 1) == []
    found = days_of_verdicts(TRAFFIC, 0.15, 1)
    assert found
    assert CHANGED_AT <= found[0] <= CHANGED_AT + 2
    plain = TRAFFIC.model_copy(update={"drift": TRAFFIC.drift.model_copy(update={"seasonal_s": None})})
    assert days_of_verdicts(plain, 0.15, 1) == []
