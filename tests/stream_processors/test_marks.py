"""Which message numbers are known: nothing is forgotten, nothing is invented."""

import json

from hypothesis import given
from hypothesis import strategies as st

from stream_processors.ingest.marks import (
    LARGEST_JUMP,
    MOST_CLOSED,
    MOST_RANGES,
    REMEMBERED_DIGESTS,
    LaneMarks,
    NumberStatus,
)


@given(order=st.lists(st.integers(0, 60), unique=True))
def test_exactly_the_added_numbers_are_known(order):
    marks = LaneMarks()
    for number in order:
        assert number not in marks
        marks.add(number, bytes(32))
        marks = LaneMarks.from_state(marks.to_state())
    assert [n for n in range(62) if n in marks] == sorted(order)


@given(order=st.lists(st.integers(0, 60), unique=True))
def test_the_gap_is_what_is_missing_below_the_highest(order):
    marks = LaneMarks()
    for number in order:
        marks.add(number, bytes(32))
    assert marks.gap == (max(order) + 1 - len(order) if order else 0)


@given(order=st.permutations(range(40)))
def test_a_complete_lane_is_one_mark(order):
    marks = LaneMarks()
    for number in order:
        marks.add(number, bytes(32))
    assert (marks.mark, marks.above) == (40, [])


def test_a_known_number_with_other_bytes_is_noticed():
    marks = LaneMarks()
    marks.add(0, b"\x01" * 32)
    assert marks.same_bytes(0, b"\x01" * 32)
    assert not marks.same_bytes(0, b"\x02" * 32)


@given(order=st.lists(st.integers(0, 3_000), unique=True, max_size=400))
def test_however_many_gaps_a_number_is_never_new_twice(order):
    marks, added = LaneMarks(), set()
    for number in order:
        if marks.status(number) is NumberStatus.NEW:
            marks.add(number, bytes(32))
            added.add(number)
        marks = LaneMarks.from_state(marks.to_state())
    assert all(marks.status(n) is not NumberStatus.NEW for n in added)
    assert len(marks.above) <= MOST_RANGES
    assert len(marks.closed) <= MOST_CLOSED
    assert marks.gap == (max(added) + 1 - len(added) if added else 0)


def test_a_number_that_was_given_up_is_closed_and_others_stay_known():
    marks = LaneMarks()
    for number in range(2 * (MOST_RANGES + 2)):
        if number % 2:
            marks.add(number, bytes(32))
    assert [marks.status(n) for n in (0, 1, 2, 3, 4)] == [
        NumberStatus.CLOSED, NumberStatus.KNOWN, NumberStatus.CLOSED, NumberStatus.KNOWN, NumberStatus.NEW,
    ]  # fmt: skip


def test_what_is_missing_is_counted_however_many_holes_were_closed():
    for holes in (MOST_RANGES, MOST_RANGES + 1, MOST_RANGES + 5):
        marks = LaneMarks()
        for number in range(1, 2 * holes, 2):
            marks.add(number, bytes(32))
        assert (marks.gap, marks.given_up) == (holes, max(0, holes - MOST_RANGES))


def test_as_many_closed_holes_as_may_be_are_kept_apart_and_beyond_that_the_oldest_are_joined():
    def known(closed):
        marks = LaneMarks()
        for number in range(1, 2 * (MOST_RANGES + closed), 2):
            marks.add(number, bytes(32))
        return [marks.status(n) for n in range(1, 2 * closed - 1, 2)]  # each lies between two closed holes

    assert set(known(MOST_CLOSED)) == {NumberStatus.KNOWN}
    assert known(MOST_CLOSED + 1) == [NumberStatus.CLOSED, *[NumberStatus.KNOWN] * (MOST_CLOSED - 1)]


def test_what_was_given_up_outlives_a_restart():
    marks = LaneMarks()
    for number in range(1, 2 * (MOST_RANGES + 2), 2):
        marks.add(number, bytes(32))
    assert marks.given_up > 0
    assert LaneMarks.from_state(marks.to_state()) == marks


def test_a_number_may_lie_far_above_but_not_absurdly_far():
    marks = LaneMarks(mark=7)
    assert marks.status(7 + LARGEST_JUMP - 1) is NumberStatus.NEW
    assert marks.status(7 + LARGEST_JUMP) is NumberStatus.BEYOND


def test_the_bytes_of_the_newest_numbers_are_remembered_and_no_others():
    marks = LaneMarks()
    for number in range(REMEMBERED_DIGESTS + 1):
        marks.add(number, b"\x01" * 32)
    assert marks.same_bytes(0, b"\x02" * 32), "too old to tell"
    assert not any(marks.same_bytes(n, b"\x02" * 32) for n in range(1, REMEMBERED_DIGESTS + 1))


@given(st.permutations(range(REMEMBERED_DIGESTS + 30)), st.integers(0, REMEMBERED_DIGESTS + 29))
def test_the_remembered_ones_are_the_largest_whatever_the_order_and_over_a_restart(order, restart_at):
    marks = LaneMarks()
    for i, n in enumerate(order):
        if i == restart_at:
            marks = LaneMarks.from_state(json.loads(json.dumps(marks.to_state())))
        marks.add(n, bytes([n]) * 32)
    assert sorted(marks.digests) == list(range(30, REMEMBERED_DIGESTS + 30))
