"""What one call of a user's job gets: whole commits within bounds, and streams of a table in step."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.commit_feed import FeedEntry
from feature_store.lake import StagedFile
from stream_processors.user_jobs.job_input import (
    InputLimits,
    OffsetRows,
    StreamRows,
    advance,
    group,
    reached_after,
)
from tests.simulators.messages import T0

NOTHING = {}.get
"""Reads no table."""


def entry(n, rows=1, size=10, offsets=None, table="telemetry_machine"):
    file = StagedFile(f"day=2026-01-01/{n}", size, rows, "2026-01-01", "")
    return FeedEntry(n, T0.isoformat(), offsets or {"telemetry.v1": (n, n + 1)}, {table: (file,)})


@pytest.mark.parametrize(
    ("limits", "taken"),
    [
        (InputLimits(rows=30, n_bytes=1000), 3),
        (InputLimits(rows=29, n_bytes=1000), 2),
        (InputLimits(rows=1, n_bytes=1000), 1),
        (InputLimits(rows=1000, n_bytes=400), 4),
        (InputLimits(rows=1000, n_bytes=399), 3),
        (InputLimits(rows=1000, n_bytes=1), 1),
    ],
)
def test_commits_are_taken_while_they_fit_and_at_least_one_is(limits, taken):
    entries = [entry(n, rows=10, size=100) for n in range(6)]
    assert len(group(entries, (), bool, limits)) == taken


def test_only_what_the_job_reads_counts():
    entries = [
        entry(n, rows=1000, size=1000, offsets={"telemetry.v1": (10 * n, 10 * n + 10)}) for n in range(4)
    ]
    assert len(group(entries, (), NOTHING, InputLimits(5, 5))) == 4
    assert len(group(entries, ("telemetry.v1",), NOTHING, InputLimits(20, 5))) == 2


def test_after_commits_each_stream_stands_at_its_newest_end():
    entries = [entry(3, offsets={"a": (0, 2), "b": (0, 1)}), entry(4, offsets={"a": (2, 9)})]
    assert reached_after("task-00", entries) == {"a": 9, "b": 1, "task-00": 5}


def found(*offsets, at=lambda o: o):
    return [OffsetRows(o, 1, T0 + timedelta(seconds=at(o))) for o in offsets]


def test_streams_go_on_in_the_order_in_which_their_rows_became_known():
    streams = {
        "a": StreamRows(10, found(0, 1, 2), complete=True),
        "b": StreamRows(10, found(0, 1, 2, at=lambda o: o + 2.5), complete=True),
    }
    assert advance(streams, 3) == {"a": 3}
    assert advance(streams, 4) == {"a": 3, "b": 1}
    assert advance(streams, 100) == {"a": 10, "b": 10}


def test_no_stream_goes_beyond_what_is_known_of_another():
    streams = {
        "a": StreamRows(99, found(0, 1), complete=False),
        "b": StreamRows(10, found(0, 5), complete=True),
    }
    assert advance(streams, 100) == {"a": 2, "b": 1}


def test_a_clock_that_stepped_back_does_not_turn_the_order_of_offsets():
    stepped = StreamRows(10, found(0, 1, 2, at=lambda o: -o), complete=True)
    assert [advance({"a": stepped}, n).get("a") for n in (1, 2)] == [1, 2]


STREAM = st.builds(
    lambda steps, complete: StreamRows(
        1000,
        [OffsetRows(3 * i, rows, T0 + timedelta(seconds=s)) for i, (rows, s) in enumerate(steps)],
        complete=complete or not steps,
    ),
    st.lists(st.tuples(st.integers(1, 5), st.integers(-20, 20)), max_size=8),
    st.booleans(),
)


@given(st.dictionaries(st.sampled_from("abc"), STREAM, min_size=1), st.integers(1, 40))
def test_every_call_gets_on_and_takes_about_as_many_rows_as_it_may(streams, limit):
    reached = advance(streams, limit)
    taken = [r for name, end in reached.items() for r in streams[name].found if r.offset < end]
    largest = max((r.rows for s in streams.values() for r in s.found), default=0)
    assert reached, "each call gets on"
    assert sum(r.rows for r in taken) < limit + largest or not taken
    assert all(end <= streams[name].end for name, end in reached.items())
