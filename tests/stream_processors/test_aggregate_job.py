"""Aggregate: windows close once, late data is one more partial, and nothing is lost."""

from collections import defaultdict
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Aggregate, parse_event
from schemas.tables import AGGREGATES
from stream_processors.aggregate.aggregate_job import AggregateWindows
from stream_processors.job import Output
from stream_processors.windowing.moments import Moments, merge
from tests.stream_processors.cohorts import COHORT, T0, Context, JobRunner, Period, summaries

FOREVER_S = 100_000.0


def aggregator() -> JobRunner:
    return JobRunner(AggregateWindows(Context()))


def feed(runner: JobRunner, now_s: float, *periods: Period):
    return runner.run(now_s, {"summaries": summaries(periods)} if periods else {})


def merged(runner: JobRunner):
    """All partials of each window together."""
    parts = defaultdict(list)
    for r in runner.rows("aggregates"):
        key = r["window_start"], r["cohort"], r["model_version"], r["feature"]
        parts[key].append(Moments(r["n"], r["mean"], r["m2"], r["min"], r["max"]))
    return {key: merge(p) for key, p in parts.items()}


def open_count(runner: JobRunner) -> int:
    windows = [v for k, v in runner.state.items() if k.startswith("open")]
    return sum(m[0] for w in windows for content in w.values() for m in content["moments"])


PERIODS = st.lists(
    st.builds(
        Period,
        device=st.sampled_from(["d1", "d2", "d3", "d4@machine/other/a/arm"]),
        at=st.integers(-30, 30),
        values=st.lists(st.floats(-100, 100), max_size=4),
        feature=st.sampled_from(["temperature_mean", "score"]),
        model=st.sampled_from(["m@1", "m@2"]),
        known_s=st.floats(0, 200).map(lambda s: round(s, 3)),
    ),
    min_size=1,
    max_size=25,
)


def run_split(periods, cuts) -> JobRunner:
    runner, now_s = aggregator(), 0.0
    edges = sorted({0, *(c % (len(periods) + 1) for c in cuts), len(periods)})
    for start, end in pairwise(edges):
        now_s = max([now_s, *(p.known_s for p in periods[start:end])])
        feed(runner, now_s, *periods[start:end])
    feed(runner, FOREVER_S)
    return runner


@given(periods=PERIODS, cuts=st.lists(st.integers(0, 30), max_size=6))
def test_any_split_into_commits_gives_the_same_windows(periods, cuts):
    whole, split = merged(run_split(periods, [])), merged(run_split(periods, cuts))
    assert whole.keys() == split.keys()
    for key, got in split.items():
        assert got == pytest.approx(tuple(whole[key]), rel=1e-9, abs=1e-6)


@given(periods=PERIODS, step=st.integers(1, 5))
def test_what_comes_in_is_out_or_still_open(periods, step):
    runner, seen = aggregator(), 0
    for i in range(0, len(periods), step):
        some = periods[i : i + step]
        feed(runner, max(p.known_s for p in periods[: i + step]), *some)
        seen += sum(len(p.values) for p in some)
        assert sum(r["n"] for r in runner.rows("aggregates")) + open_count(runner) == seen
    feed(runner, FOREVER_S)
    assert open_count(runner) == 0
    assert sum(r["n"] for r in runner.rows("aggregates")) == seen


@given(periods=PERIODS, step=st.integers(1, 5))
def test_watermark_never_goes_back(periods, step):
    runner, marks = aggregator(), defaultdict(list)
    for i in range(0, len(periods), step):
        feed(runner, max(p.known_s for p in periods[: i + step]), *periods[i : i + step])
    feed(runner, FOREVER_S)
    for r in runner.rows("aggregates"):
        marks[r["cohort"]].append(r["watermark"])
    assert all(m == sorted(m) for m in marks.values())


@given(periods=PERIODS, step=st.integers(1, 8))
def test_a_watermark_covers_only_what_was_sent_before_it(periods, step):
    runner, complete = aggregator(), {}
    for i in range(0, len(periods), step):
        feed(runner, max(p.known_s for p in periods[: i + step]), *periods[i : i + step])
    feed(runner, FOREVER_S)
    for message in [m for o in runner.outputs for m in o.messages]:
        event = parse_event(Aggregate, message.value)
        end = event.window_start + timedelta(seconds=event.window_s)
        if not event.late:
            assert end > complete.get(event.cohort, T0 - timedelta(days=1))
        complete[event.cohort] = event.watermark


def test_a_window_closes_when_every_device_is_past_it():
    runner = aggregator()
    feed(runner, 6, Period("d1", 0, [1.0, 3.0]), Period("d2", 0, [5.0]))
    assert not feed(runner, 11, Period("d1", 1, [2.0])).messages
    [message] = feed(runner, 11.5, Period("d2", 1, [2.0])).messages
    event = parse_event(Aggregate, message.value)
    assert (event.n, event.mean, event.devices, event.part, event.late) == (3, 3.0, 2, 0, False)
    assert (message.topic, message.key) == ("aggregate.v1", COHORT)
    assert event.watermark == T0 + timedelta(seconds=8)  # second period's end less 2 s of lateness


def test_a_late_period_is_one_more_partial():
    runner = aggregator()
    for at in range(3):
        feed(runner, 5 * at + 6, Period("d1", at, [1.0]))
    late = feed(runner, 17, Period("d2", 0, [9.0]))
    event = parse_event(Aggregate, late.messages[0].value)
    assert (event.late, event.n, event.window_start) == (True, 1, T0)
    parts = [r["part"] for r in runner.rows("aggregates") if r["window_start"] == T0]
    assert len(parts) == len(set(parts)) == 2
    assert runner.counters["late_periods"] == 1


def test_a_silent_device_is_not_waited_for():
    runner = aggregator()
    feed(runner, 6, Period("d1", 0, [1.0]), Period("quiet", 0, [1.0]))
    for at in (1, 2, 3):
        feed(runner, 5 * at + 6, Period("d1", at, [1.0]))
    assert [r["window_start"] for r in runner.rows("aggregates")] == [
        T0, T0 + timedelta(seconds=5), T0 + timedelta(seconds=10),
    ]  # fmt: skip


def test_time_closes_windows_when_nothing_comes():
    runner = aggregator()
    feed(runner, 6, Period("d1", 0, [1.0]))
    assert not feed(runner, 17).messages
    assert len(feed(runner, 19).messages) == 1
    assert not [k for k in runner.state if k.startswith(("open", "device"))]


def test_a_tick_without_news_changes_nothing():
    runner = aggregator()
    feed(runner, 6, Period("d1", 0, [1.0]))
    output = feed(runner, 7)
    assert output == Output()


def test_a_clock_in_1970_holds_nobody_back():
    runner = aggregator()
    long_ago = -int(T0.timestamp() // 5)
    for at in range(4):
        feed(
            runner,
            5 * at + 6,
            Period("d1", at, [1.0]),
            Period("old", long_ago + at, [7.0], known_s=5 * at + 6),
        )
    starts = {r["window_start"] for r in runner.rows("aggregates") if not r["late"]}
    assert T0 in starts
    assert sum(r["n"] for r in runner.rows("aggregates")) + open_count(runner) == 8


def test_a_clock_in_the_future_closes_nothing_early():
    runner = aggregator()
    feed(runner, 6, Period("ahead", 1_000_000, [7.0], known_s=6.0), Period("d1", 0, [1.0]))
    feed(runner, 7, Period("d2", 0, [2.0]))
    [row] = runner.rows("aggregates")
    assert (row["late"], row["n"], row["mean"]) == (True, 1, 7.0)
    assert runner.counters["ahead_periods"] == 1
    assert "late_periods" not in runner.counters


def test_a_recording_of_years_ago_closes_its_windows():
    runner = aggregator()
    years_ago = -20_000_000
    for at in range(4):
        feed(runner, 1 + 0.1 * at, Period("nab", years_ago + at, [1.0], known_s=1 + 0.1 * at))
    assert len(runner.rows("aggregates")) == 3
    feed(runner, 60)
    assert [r["late"] for r in runner.rows("aggregates")] == [False] * 4


def test_a_worker_that_catches_up_takes_nobody_for_silent():
    runner = aggregator()
    feed(runner, 3600, Period("d1", 0, [1.0], known_s=6.0), Period("d2", 0, [1.0], known_s=6.1))
    feed(runner, 3601, Period("d1", 1, [1.0], known_s=11.0))
    assert not runner.rows("aggregates")  # d2's next period is unread, not missing


def test_cohorts_do_not_wait_for_each_other():
    runner = aggregator()
    feed(runner, 6, Period("d1", 0, [1.0]), Period("d2@machine/other/a/arm", 0, [2.0]))
    feed(runner, 11, Period("d1", 1, [1.0]))
    assert [r["cohort"] for r in runner.rows("aggregates")] == [COHORT]


def test_model_versions_are_kept_apart():
    runner = aggregator()
    feed(runner, 6, Period("d1", 0, [1.0]), Period("d2", 0, [3.0], model="m@2"))
    feed(runner, 30)
    assert [(r["model_version"], r["mean"]) for r in runner.rows("aggregates")] == [
        ("m@1", 1.0),
        ("m@2", 3.0),
    ]


def test_devices_count_those_with_a_value():
    runner = aggregator()
    feed(runner, 6, Period("d1", 0, [1.0]), Period("d1", 0, [2.0]), Period("d2", 0, []))
    feed(runner, 6.5, Period("d1", 0, [3.0], "score"), Period("d3", 0, [1.0], "score"))
    feed(runner, 30)
    assert {r["feature"]: r["devices"] for r in runner.rows("aggregates")} == {
        "score": 2,
        "temperature_mean": 1,
    }


@pytest.mark.parametrize(
    "broken",
    [
        {"mean": 1e300},
        {"m2": float("inf")},
        {"m2": -1.0},
        {"min": None},
        {"n": -1},
        {"period_s": 0.0},
        {"period_s": 1e12},
        {"period_start": T0.replace(year=9000)},
        {"period_start": T0.replace(year=1)},
    ],
)
def test_rows_that_cannot_be_computed_with_are_counted_and_stop_nobody(broken):
    runner = aggregator()
    runner.run(6, {"summaries": summaries([Period("bad", 0, [1.0])], **broken)})
    feed(runner, 7, Period("d1", 0, [1.0]))
    feed(runner, 60)
    assert [r["n"] for r in runner.rows("aggregates")] == [1]
    assert runner.counters["unusable_periods"] == 1


def test_rows_and_messages_say_the_same_under_one_id():
    runner = aggregator()
    feed(runner, 6, Period("d1", 0, [1.0]), Period("d1", 0, [0.5], "score"))
    output = feed(runner, 30)
    events = [parse_event(Aggregate, m.value).model_dump() for m in output.messages]
    rows = output.rows["aggregates"].to_pylist()
    assert [e["event_id"] for e in events] == ["task-03/1/0", "task-03/1/1"]
    assert events == [{k: r[k] for k in events[0]} for r in rows]
    assert [(r["_partition"], r["_offset"], r["_row"]) for r in rows] == [(3, 1, 0), (3, 1, 1)]
    assert output.rows["aggregates"].schema.equals(AGGREGATES.schema)
