"""Partials: which messages can be one, and that merging does not depend on how tasks interleave."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DecodeError
from schemas.events import Aggregate
from stream_processors.windowing.moments import LARGEST_COUNT, LARGEST_VALUE, Moments
from stream_processors.windowing.partials import (
    CohortProgress,
    MessagePosition,
    Partial,
    PendingWindow,
    TaskShare,
    read_partial,
)
from stream_processors.windowing.watermark import SourceProgress
from stream_processors.windowing.windows import CohortScope, TumblingWindow

T0 = datetime(2026, 7, 1, tzinfo=UTC)
LONGEST_S = 366 * 86400


def message(**changes) -> bytes:
    fields = {
        "event_id": "task-03/17/4", "cohort": "c", "profile": "machine", "model_version": "m@1",
        "feature": "x",
        "window_start": T0, "window_s": 5.0, "part": 0, "n": 50, "mean": 1.0, "m2": 49.0, "min": -2.0,
        "max": 4.0,
        "devices": 10, "watermark": T0 + timedelta(seconds=5), "late": False,
    }  # fmt: skip
    return Aggregate(**fields | changes).model_dump_json().encode()


def is_partial(value: bytes) -> bool:
    try:
        read_partial(value)
    except DecodeError:
        return False
    return True


def test_a_partial_says_what_its_message_says():
    start_us = int(T0.timestamp()) * 1_000_000
    assert read_partial(message()) == Partial(
        "task-03",
        MessagePosition(17, 4),
        CohortScope("machine", "c"),
        TumblingWindow(start_us, 5_000_000),
        "m@1",
        "x",
        TaskShare(Moments(50, 1.0, 49.0, -2.0, 4.0), 10),
        start_us + 5_000_000,
        late=False,
    )


@pytest.mark.parametrize(
    "at_the_bound",
    [
        {"n": 1, "devices": 1, "m2": 0.0},
        {"n": 10, "devices": 10},
        {"n": LARGEST_COUNT},
        {"m2": LARGEST_VALUE**2},
        {"min": -LARGEST_VALUE, "mean": -LARGEST_VALUE},
        {"max": LARGEST_VALUE, "mean": LARGEST_VALUE},
        {"min": 4.0},
        {"window_s": 1e-6},
        {"window_s": LONGEST_S},
    ],
)
def test_what_lies_at_a_bound_is_a_partial(at_the_bound):
    assert is_partial(message(**at_the_bound))


@pytest.mark.parametrize(
    "impossible",
    [
        {"n": 0, "devices": 0},
        {"devices": 0},
        {"n": 9},
        {"n": LARGEST_COUNT + 1},
        {"m2": -1e-9},
        {"m2": LARGEST_VALUE**2 * 1.01},
        {"min": 4.1},
        {"min": -LARGEST_VALUE * 1.01},
        {"max": LARGEST_VALUE * 1.01},
        {"mean": LARGEST_VALUE * 1.01},
        {"mean": -LARGEST_VALUE * 1.01},
        {"window_s": 9e-7},
        {"window_s": LONGEST_S + 1.0},
    ],
)
def test_what_lies_beyond_a_bound_is_none(impossible):
    assert not is_partial(message(**impossible))


@pytest.mark.parametrize(
    "event_id",
    ["task-03/17", "task-03/17/4/1", "task-03//4", "task-03/17/-4", "task-03/1e3/4", "task-03/²/4",
     "task-99/17/4", "other/17/4", "/17/4", "task-03/17/" + "1" * 16],
)  # fmt: skip
def test_an_id_that_names_no_commit_of_a_task_is_refused(event_id):
    assert not is_partial(message(event_id=event_id))


def test_an_id_may_have_fifteen_digits():
    assert read_partial(message(event_id=f"task-00/{'9' * 15}/0")).position == MessagePosition(10**15 - 1, 0)


@pytest.mark.parametrize(("late", "watermark_s", "ahead"), [
    (True, 4, True), (True, 5, False), (True, 6, False), (False, 4, False),
])  # fmt: skip
def test_a_late_window_beyond_its_own_watermark_is_ahead(late, watermark_s, ahead):
    assert read_partial(message(late=late, watermark=T0 + timedelta(seconds=watermark_s))).ahead is ahead


SHARE = st.tuples(
    st.sampled_from(["task-00", "task-01"]), st.sampled_from("xy"), st.integers(-9, 9), st.integers(1, 5)
)


def pending(shares) -> PendingWindow:
    window = PendingWindow()
    for task, feature, mean, devices in shares:
        part = read_partial(
            message(n=devices, devices=devices, mean=mean, min=mean, max=mean, m2=0.0, feature=feature)
        )
        window.add(part._replace(task=task))
    return window


@given(st.lists(SHARE, max_size=12))
def test_merging_takes_each_share_once_however_tasks_interleave(shares):
    merged = pending(shares).merged()
    by_task = sorted(shares, key=lambda s: s[0])  # stable: each task's own order stays
    assert pending(by_task).merged() == merged
    assert {feature for _, feature in merged} == {s[1] for s in shares}
    for (_model, feature), whole in merged.items():
        own = [s for s in shares if s[1] == feature]
        assert whole.devices == sum(s[3] for s in own)
        assert whole.moments.n == sum(s[3] for s in own)
        assert (whole.moments.min, whole.moments.max) == (min(s[2] for s in own), max(s[2] for s in own))


@given(st.lists(SHARE, max_size=12))
def test_a_pending_window_survives_as_json(shares):
    window = pending(shares)
    assert PendingWindow.from_state(json.loads(json.dumps(window.to_state()))) == window


@pytest.mark.parametrize("judged_us", [None, 0, 5])
def test_progress_survives_as_json(judged_us):
    progress = CohortProgress(3, judged_us, {"task-00": SourceProgress(1, 2)})
    assert CohortProgress.from_state(json.loads(json.dumps(progress.to_state()))) == progress
