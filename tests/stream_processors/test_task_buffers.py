"""What waits for a commit: in order, once, bounded, shared evenly, and nothing from before the checkpoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import OperatorError
from stream_processors.engine.task_buffers import TaskBuffer, TaskBuffers, held_bytes
from stream_processors.job import RawMessage

TOPIC = "telemetry.v1"


def message(offset, topic=TOPIC, value=b"v" * 10, key=b"k", headers=()):
    return RawMessage(topic, 0, offset, 0, key, list(headers), value)


SIZE = held_bytes(message(0))


def offsets(messages):
    return [m.offset for m in messages]


def filled(*counts, max_bytes=10**9):
    """Buffers of tasks 0, 1, …, each with so many messages."""
    of_task = {}
    for task, count in enumerate(counts):
        of_task[task] = TaskBuffer({TOPIC: 0})
        of_task[task].extend([message(o) for o in range(count)])
    return TaskBuffers(max_bytes, of_task)


@given(fetches=st.lists(st.lists(st.integers(0, 20), unique=True), max_size=8))
def test_no_offset_is_buffered_twice_and_order_holds(fetches):
    buffer, new = TaskBuffer({TOPIC: 0}), 0
    for offset_list in fetches:
        new += buffer.extend([message(o) for o in sorted(offset_list)])
    held = offsets(buffer.messages)
    assert held == sorted(set(held))
    assert (len(held), buffer.n_bytes) == (new, sum(map(held_bytes, buffer.messages)))
    assert buffer.next_offsets[TOPIC] == max((o + 1 for f in fetches for o in f), default=0)


def test_keys_and_headers_count_as_much_as_values():
    big = b"x" * 100_000
    assert held_bytes(message(0, value=big)) > 100_000
    assert held_bytes(message(0, key=big)) > 100_000
    assert held_bytes(message(0, headers=[("h", big)])) > 100_000
    assert held_bytes(message(0, headers=[("h", None)] * 1_000)) > 100_000


def test_a_reopened_task_keeps_what_lies_at_or_behind_its_checkpoint():
    buffer = TaskBuffer({TOPIC: 3})
    in_flight = [message(3), message(4)]
    buffer.next_offsets[TOPIC] = 5
    buffer.extend([message(5)])
    again = buffer.reopened(0, in_flight, {TOPIC: 4})
    assert (offsets(again.messages), again.next_offsets) == ([4, 5], {TOPIC: 6})


def test_a_reopened_task_keeps_messages_around_a_hole_of_the_log():
    buffer = TaskBuffer({TOPIC: 3})
    buffer.extend([message(o) for o in (3, 6, 7)])
    again = buffer.reopened(0, [], {TOPIC: 3})
    assert (offsets(again.messages), again.next_offsets) == ([3, 6, 7], {TOPIC: 8})


def test_a_checkpoint_that_went_back_is_an_operators_matter():
    buffer = TaskBuffer({TOPIC: 5})
    with pytest.raises(OperatorError, match="went back"):
        buffer.reopened(0, [message(4)], {TOPIC: 2})


@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=8), room=st.integers(1, 60))
def test_a_batch_is_divided_evenly_and_what_one_task_leaves_others_get(counts, room):
    buffers = filled(*counts)
    taken = buffers.take(room * SIZE)
    waiting = [c for c in counts if c]
    assert set(taken) == {t for t, c in enumerate(counts) if c}
    assert sum(map(len, taken.values())) <= max(room, len(waiting))
    least = min((len(m) for t, m in taken.items() if len(m) < counts[t]), default=None)
    if least is not None:  # no task gets more than one that was cut, but for the rest of a division
        assert all(len(m) <= least + 1 for m in taken.values())
    for task, messages in taken.items():
        assert offsets([*messages, *buffers.of_task[task].messages]) == list(range(counts[task]))


def test_what_was_taken_counts_until_it_is_done():
    buffers = filled(10, max_bytes=10 * SIZE)
    assert buffers.full
    buffers.take(6 * SIZE)
    assert (buffers.in_flight_bytes, buffers.full) == (6 * SIZE, True)
    buffers.done()
    assert not buffers.full


def test_a_task_that_floods_is_paused_and_the_others_still_receive():
    buffers = filled(1000, 3, 0, max_bytes=500 * SIZE)
    assert [buffers.has_room(task) for task in (0, 1, 2, 99)] == [False, True, True, True]
    assert all(filled(100, 3, max_bytes=500 * SIZE).has_room(task) for task in (0, 1))


@given(fetches=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), max_size=60))
def test_all_tasks_together_hold_at_most_half_as_much_again_and_one_fetch_each(fetches):
    buffers = filled(0, 0, 0, 0, max_bytes=100 * SIZE)
    for task, count in fetches:
        if buffers.has_room(task):
            start = buffers.of_task[task].next_offsets[TOPIC]
            buffers.of_task[task].extend([message(start + i) for i in range(count)])
    assert buffers.n_bytes <= (150 + 4 * 20) * SIZE
