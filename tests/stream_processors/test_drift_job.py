"""Drift job: each partial counts once, windows are judged once, bad messages stop no other."""

import json
import math
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import Aggregate, DriftVerdict, parse_event
from schemas.tables import DRIFT, QUARANTINE
from stream_processors.drift.drift_job import DriftWatch
from stream_processors.job import Output
from stream_processors.windowing.partials import PendingWindow, read_partial
from tests.stream_processors.cohorts import COHORT, T0, Context, JobRunner, logged

FOREVER_S = 100_000.0
TASKS = ("task-00", "task-05")


def watcher() -> JobRunner:
    return JobRunner(DriftWatch(Context()))


def partial(task: str, window: int, mean: float, **changes) -> bytes:
    """One task's partial of a window: ten devices around a mean."""
    fields = {
        "event_id": f"{task}/{window}/0",
        "cohort": COHORT,
        "profile": "machine",
        "model_version": "m@1",
        "feature": "temperature_mean",
        "window_start": T0 + timedelta(seconds=5 * window),
        "window_s": 5.0,
        "part": 0,
        "n": 50,
        "mean": mean,
        "m2": 49.0,
        "min": mean - 3,
        "max": mean + 3,
        "devices": 10,
        "watermark": T0 + timedelta(seconds=5 * window + 8),
    }
    return Aggregate(**fields | changes).model_dump_json().encode()


def wobble(window: int) -> float:
    return 0.1 * ((window * 7) % 5 - 2)


def story(windows: int = 16, step_at: int = 10, size: float = 8.0, task: str = TASKS[0]) -> list[bytes]:
    """One task's partials: a step of the mean by ``size``."""
    return [partial(task, w, 40 + wobble(w) + (size if w >= step_at else 0)) for w in range(windows)]


def play(batches: list[list[bytes]], every_s: float = 5.0) -> JobRunner:
    """Feed batches of messages in turn, then let time pass."""
    runner, offset = watcher(), 0
    for i, values in enumerate(batches):
        at_s = 10 + i * every_s
        runner.run(at_s, messages=logged(values, at_s, offset))
        offset += len(values)
    runner.run(FOREVER_S)
    return runner


def verdicts(runner: JobRunner) -> list[dict]:
    """The verdicts without their ids, which depend on the commits."""
    found = [
        parse_event(DriftVerdict, m.value)
        for o in runner.outputs
        for m in o.messages
        if m.topic == "drift.v1"
    ]
    return [v.model_dump(exclude={"event_id"}) for v in found]


def test_a_step_gives_one_verdict_with_its_onset():
    runner = play([[value] for value in story()])
    [verdict] = verdicts(runner)
    assert verdict["onset"] == T0 + timedelta(seconds=50)
    assert verdict["detected"] <= T0 + timedelta(seconds=65)
    assert (verdict["feature"], verdict["statistic"]) == ("temperature_mean", "level")
    assert verdict["size"] > 3
    assert (verdict["devices"], verdict["kind"]) == (10, "sensor_recalibration")
    assert {"baseline_level", "baseline_unit", "abruptness", "windows_since_onset"} <= verdict[
        "evidence"
    ].keys()


def test_rows_and_messages_say_the_same_under_one_id():
    runner = play([[value] for value in story()])
    [output] = [o for o in runner.outputs if "drift" in o.rows]
    [row] = output.rows["drift"].to_pylist()
    [message] = output.messages
    event = parse_event(DriftVerdict, message.value).model_dump()
    assert output.rows["drift"].schema.equals(DRIFT.schema)
    assert (message.topic, message.key) == ("drift.v1", COHORT)
    assert event | {"evidence": json.dumps(event["evidence"])} == {k: row[k] for k in event}
    assert event["event_id"] == f"task-03/{row['_offset']}/0"


def needed(runner: JobRunner) -> list[float]:
    """Of each verdict, the evidence that it needed: logarithm of the e-value to base 10."""
    return [v["evidence"]["log10_e_needed"] for v in verdicts(runner)]


def test_verdicts_of_one_cohort_pay_for_those_of_another_and_more_series_cost_each():
    def of(step_at):
        """Partials of a window in one batch, of a cohort for each step."""
        return [
            [
                partial(
                    TASKS[0],
                    w,
                    40 + wobble(w) + 8 * (w >= at),
                    cohort=f"machine/{n}",
                    event_id=f"task-00/{w}/{n}",
                )
                for n, at in enumerate(step_at)
            ]
            for w in range(18)
        ]

    alone = needed(play(of([10])))
    early, late = needed(play(of([8, 12])))
    assert early == pytest.approx(alone[0] + math.log10(2))
    assert late == pytest.approx(early - math.log10(2))


def test_a_state_from_before_verdicts_were_counted_goes_on():
    runner = play([[value] for value in story()])
    assert list(runner.state["verdicts"].values()) == [1]
    del runner.state["verdicts"]
    again = [partial(TASKS[0], w, 48 + wobble(w) + (9 if w >= 40 else 0)) for w in range(16, 46)]
    runner.run(FOREVER_S + 1, messages=logged(again, FOREVER_S + 1, 16))
    runner.run(2 * FOREVER_S)
    assert len(verdicts(runner)) == 2
    assert list(runner.state["verdicts"].values()) == [1]


@settings(max_examples=40)
@given(cuts=st.sets(st.integers(1, 15)), data=st.data())
def test_repeats_after_a_crash_change_nothing(cuts, data):
    messages, batches, start = story(), [], 0
    for end in [*sorted(cuts), len(messages)]:
        again = data.draw(st.integers(0, start))
        batches.append(messages[again:end])  # a stretch that was published already comes again
        start = end
    runner = play(batches)
    assert verdicts(runner) == verdicts(play([messages]))
    assert runner.counters.get("repeated_partials", 0) == sum(map(len, batches)) - len(messages)


@settings(max_examples=40)
@given(data=st.data())
def test_how_tasks_interleave_changes_no_verdict(data):
    one = story(task=TASKS[0])
    two = [partial(TASKS[1], w, 41 + wobble(w + 3) + (8 if w >= 10 else 0)) for w in range(16)]
    mixed, rest = [], [list(one), list(two)]
    while rest[0] or rest[1]:
        side = data.draw(st.sampled_from([s for s in rest if s]))
        mixed.append(side.pop(0))
    assert verdicts(play([mixed])) == verdicts(play([one + two]))


def test_a_window_is_the_same_to_the_last_bit_in_any_order_of_tasks():
    values = [partial(f"task-{t:02d}", 0, 0.1 + t / 3, min=-9, max=9) for t in range(8)]
    forth, back = PendingWindow(), PendingWindow()
    for value in values:
        forth.add(read_partial(value))
    for value in reversed(values):
        back.add(read_partial(value))
    assert forth.merged() == back.merged()


@settings(max_examples=25)
@given(cuts=st.sets(st.integers(1, 15)))
def test_how_messages_fall_into_commits_changes_no_verdict(cuts):
    messages = story()
    edges = [0, *sorted(cuts), len(messages)]
    batches = [messages[a:b] for a, b in pairwise(edges)]
    assert verdicts(play(batches, every_s=1.0)) == verdicts(play([messages]))


def test_a_window_waits_for_every_task_that_spoke():
    runner = watcher()
    runner.run(10, messages=logged([partial(t, 0, 40.0) for t in TASKS], 10))
    runner.run(15, messages=logged([partial(TASKS[0], 1, 40.0)], 15))
    runner.run(22, messages=logged([partial(TASKS[0], 2, 40.0)], 22))
    assert runner.counters["windows"] == 1  # the second is not whole without the other task
    runner.run(22.5, messages=logged([partial(TASKS[1], w, 40.0) for w in (1, 2)], 22.5))
    assert runner.counters["windows"] == 3


def test_a_task_whose_devices_all_left_is_not_waited_for():
    runner = watcher()
    runner.run(10, messages=logged([partial(t, 0, 40.0) for t in TASKS], 10))
    for window in range(1, 6):
        runner.run(10 + 5 * window, messages=logged([partial(TASKS[0], window, 40.0)], 10 + 5 * window))
    assert runner.counters["windows"] == 6


def test_tasks_have_time_to_send_before_the_first_window_is_judged():
    runner = watcher()
    runner.run(10, messages=logged([partial(TASKS[0], 0, 40.0)], 10))
    runner.run(15, messages=logged([partial(TASKS[0], 1, 40.0)], 15))
    assert "windows" not in runner.counters
    runner.run(16, messages=logged([partial(TASKS[1], w, 40.0) for w in (0, 1)], 16))
    runner.run(23)
    assert runner.counters["windows"] == 2
    assert "late_partials" not in runner.counters


def test_a_late_partial_of_a_judged_window_is_counted_and_changes_no_verdict():
    runner = watcher()
    runner.run(10, messages=logged(story(windows=9), 10))
    runner.run(40)
    before = json.dumps(runner.state["watch\x1fmachine\x1f" + COHORT + "\x1f*\x1ftemperature_mean"])
    late = partial(TASKS[0], 2, 99.0, event_id=f"{TASKS[0]}/50/0", part=51, late=True)
    runner.run(41, messages=logged([late], 41))
    runner.run(FOREVER_S)
    assert runner.counters["late_partials"] == 1
    assert json.dumps(runner.state["watch\x1fmachine\x1f" + COHORT + "\x1f*\x1ftemperature_mean"]) == before


def test_a_late_partial_of_an_open_window_counts_in():
    runner = watcher()
    late = partial(
        TASKS[0], 0, 60.0, event_id=f"{TASKS[0]}/1/0", late=True, watermark=T0 + timedelta(seconds=8)
    )
    runner.run(10, messages=logged([partial(TASKS[0], 0, 40.0), late], 10))
    runner.run(FOREVER_S)
    [watch] = [v for k, v in runner.state.items() if k.startswith("watch")]
    assert watch["series"]["level"]["warm"][0][0] == pytest.approx(50.0)


def test_a_window_from_a_clock_that_is_ahead_is_never_judged():
    runner = watcher()
    ahead = partial(TASKS[0], 10**6, 40.0, late=True, watermark=T0)
    runner.run(10, messages=logged([ahead], 10))
    runner.run(FOREVER_S)
    assert runner.counters["suspect_partials"] == 1
    assert "windows" not in runner.counters


BROKEN = {
    "no json": b"{",
    "empty": b"",
    "another event": b'{"hello": 1}',
    "not a number": partial(TASKS[0], 0, 40.0).replace(b'"mean":40.0', b'"mean":NaN'),
    "no devices": partial(TASKS[0], 0, 40.0, devices=0),
    "negative spread": partial(TASKS[0], 0, 40.0, m2=-1.0),
    "beyond floats": partial(TASKS[0], 0, 40.0, m2=1e300),
    "no window": partial(TASKS[0], 0, 40.0, window_s=0.0),
    "id of nothing": partial(TASKS[0], 0, 40.0, event_id="no-id"),
    "unknown profile": partial(TASKS[0], 0, 40.0, profile="nobody"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_message_is_dead_lettered_and_costs_no_other(broken):
    messages = story()
    whole = play([messages])
    runner = play([[*messages[:12], broken, *messages[12:]]])
    assert verdicts(runner) == verdicts(whole)
    [letter] = [m for o in runner.outputs for m in o.messages if m.topic == "dead-letter.v1"]
    assert letter.copy_of == ("aggregate.v1", 3, 12)
    [row] = runner.rows("quarantine")
    assert (row["topic"], row["producer"], row["_offset"]) == ("aggregate.v1", COHORT, 12)
    assert dict(letter.headers)["error"].decode() == row["error"]
    assert runner.outputs[0].rows["quarantine"].schema.equals(QUARANTINE.schema)


def test_a_tick_without_news_changes_nothing():
    runner = watcher()
    runner.run(10, messages=logged(story(windows=4), 10))
    output = runner.run(11)
    assert output == Output()


def test_judged_windows_leave_no_state_behind():
    runner = play([story()])
    assert not [k for k in runner.state if k.startswith("window")]
    assert len(json.dumps(runner.state)) < 4000


def test_what_is_kept_of_a_feature_is_bounded():
    runner = play([story(windows=2000, step_at=10**6)])
    assert runner.counters["windows"] == 2000
    assert len(json.dumps(runner.state)) < 12_000


def test_a_model_version_that_is_gone_is_forgotten():
    runner = watcher()
    first = [partial(TASKS[0], w, 0.1, feature="score") for w in range(5)]
    runner.run(10, messages=logged(first, 10))
    runner.run(100)
    at = f"{TASKS[0]}/5000/0"
    newer = partial(TASKS[0], 5000, 0.1, feature="score", model_version="m@2", event_id=at)
    runner.run(110, messages=logged([newer], 110))
    runner.run(FOREVER_S)
    assert [k.split("\x1f")[3] for k in runner.state if k.startswith("watch")] == ["m@2"]


def test_a_feature_is_watched_across_a_change_of_model():
    runner = watcher()
    versions = ["m@1"] * 7 + ["m@2"] * 9
    steps = [40 + wobble(w) + (8.0 if w >= 10 else 0) for w in range(16)]
    values = [
        partial(TASKS[0], w, mean, model_version=version)
        for w, (mean, version) in enumerate(zip(steps, versions, strict=True))
    ]
    runner.run(10, messages=logged(values, 10))
    runner.run(FOREVER_S)
    [verdict] = verdicts(runner)
    assert verdict["model_version"] == "m@2"
    assert verdict["onset"] == T0 + timedelta(seconds=10 * 5)


def half_reached(windows, stalled, values=(40.0, 46.0)):
    """Two tasks of ten machines each, at other levels; the second sends nothing of the stalled windows."""
    for window in range(windows):
        yield (
            window,
            [
                partial(task, window, level + wobble(window))
                for task, level in zip(TASKS, values, strict=True)
                if task == TASKS[0] or window not in stalled
            ],
        )


def stalled(windows, missing):
    runner, offset = watcher(), 0
    for window, values in half_reached(windows, missing):
        at_s = 10 + 5 * window
        runner.run(at_s, messages=logged(values, at_s, offset))
        offset += len(values)
    runner.run(FOREVER_S)
    return runner


@pytest.mark.parametrize("missing", [range(12, 15), range(12, 40), range(12), range(12, 15, 2)])
def test_a_worker_that_stalls_makes_no_verdict_over_healthy_machines(missing):
    runner = stalled(60, missing)
    assert verdicts(runner) == []
    assert runner.counters["windows"] == 60
    assert runner.counters["partial_windows"] >= min(len(missing), 10)


def test_a_whole_cohort_is_compared_in_every_window():
    assert "partial_windows" not in stalled(40, ()).counters


def test_a_drift_of_the_machines_that_are_left_is_found_once_they_are_the_cohort():
    missing = range(12, 60)
    runner, offset = watcher(), 0
    for window, values in half_reached(60, missing):
        step = [partial(TASKS[0], window, 48.0 + wobble(window))] if window >= 40 else values
        at_s = 10 + 5 * window
        runner.run(at_s, messages=logged(step, at_s, offset))
        offset += len(step)
    runner.run(FOREVER_S)
    [verdict] = verdicts(runner)
    assert (verdict["onset"], verdict["devices"]) == (T0 + timedelta(seconds=200), 10)
    assert (verdict["evidence"]["baseline_devices"], verdict["evidence"]["missing_tasks"]) == (10, 1)
