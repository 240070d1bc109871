"""Through a real broker: the lake holds each row's calendar, and a column for each further output."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tests.infra.cli import Edgeloop

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

PROFILE = """
name = "lane"
[sampling]
rate_hz = 0.01666666667
window_samples = 10
hop_samples = 10
[[channels]]
name = "flow"
unit = "1/min"
min = 0.0
max = 200.0
[features]
set = "lane"
calendar = ["hour", "weekday", "weekend"]
time_zone = "America/Chicago"
[[features.compute]]
channel = "flow"
kinds = ["mean", "std"]
[model]
name = "lane"
outputs = ["queue"]
[[decision.rules]]
action = "inspect"
enter = 0.6
leave = 0.4
[[decision.rules]]
action = "release"
enter = 0.7
leave = 0.5
output = "queue"
[filter]
p = 1.0
[summaries]
period_s = 3600.0
[drift]
window_s = 7200.0
[clock]
max_age_s = 1e9
[replay]
time_column = "time"
"""


def test_a_replay_lands_the_calendar_of_the_event_times_in_the_profiles_zone(tmp_path):
    """From Friday evening to Sunday, over the change to daylight saving time in Chicago."""
    start, rng = datetime(2024, 3, 9, 2, tzinfo=UTC), np.random.default_rng(0)
    lines = [
        f"{start + timedelta(minutes=i):%Y-%m-%dT%H:%M:%SZ},{40 + 5 * rng.normal():.2f}" for i in range(3000)
    ]
    (tmp_path / "lane.csv").write_text("time,flow\n" + "\n".join(lines) + "\n")
    (tmp_path / "lane.toml").write_text(PROFILE)
    edgeloop = Edgeloop(tmp_path / "state")
    edgeloop.json("replay", str(tmp_path / "lane.csv"), "--profile", str(tmp_path / "lane.toml"))
    [found] = edgeloop.json(
        "sql",
        """SELECT count(*) AS n, count(score_queue) AS outputs, count(score) > 0 AS scored,
            count(DISTINCT calendar_weekend) AS kinds,
            max(abs(calendar_hour - hour(local) - minute(local) / 60 - second(local) / 3600)) AS off,
            max(abs(calendar_weekday - (isodow(local) - 1))) AS days_off
        FROM (SELECT *, event_time AT TIME ZONE 'America/Chicago' AS local FROM telemetry_lane)""",
    )
    assert (found["n"], found["outputs"], found["scored"], found["kinds"]) == (300, 0, True, 2)
    assert found["off"] < 1e-5
    assert found["days_off"] == 0
    [summed] = edgeloop.json(
        "sql", "SELECT sum(n) AS n, sum(n_missing) AS missing FROM summaries WHERE feature = 'score_queue'"
    )
    assert (summed["n"], summed["missing"]) == (0, 300)
