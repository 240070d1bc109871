"""What waits for a commit: in order, once, and nothing from before the checkpoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import OperatorError
from stream_processors.engine.task_buffers import TaskBuffer, take_longest_waiting
from stream_processors.job import RawMessage


def message(offset, topic="telemetry.v1"):
    return RawMessage(topic, 0, offset, 0, b"k", [], b"v" * 10)


def offsets(messages):
    return [m.offset for m in messages]


@given(arrivals=st.lists(st.integers(0, 20)))
def test_no_offset_is_buffered_twice_and_order_holds(arrivals):
    buffer = TaskBuffer({"telemetry.v1": 0})
    for offset in arrivals:
        buffer.add(message(offset), now=0.0)
    held = offsets(buffer.messages)
    assert held == sorted(set(held))


def test_a_reopened_task_keeps_what_lies_at_or_behind_its_checkpoint():
    buffer = TaskBuffer({"telemetry.v1": 3})
    in_flight = [message(3), message(4)]
    buffer.next_offsets["telemetry.v1"] = 5
    buffer.add(message(5), now=0.0)
    again = buffer.reopened(0, in_flight, {"telemetry.v1": 4}, now=1.0)
    assert (offsets(again.messages), again.next_offsets) == ([4, 5], {"telemetry.v1": 6})


def test_a_checkpoint_that_went_back_is_an_operators_matter():
    buffer = TaskBuffer({"telemetry.v1": 5})
    with pytest.raises(OperatorError, match="went back"):
        buffer.reopened(0, [message(4)], {"telemetry.v1": 2}, now=0.0)


def test_whole_buffers_are_taken_longest_waiting_first_up_to_the_bound():
    buffers = {t: TaskBuffer({"telemetry.v1": 0}) for t in range(3)}
    for task, now in ((0, 3.0), (1, 1.0), (2, 2.0)):
        buffers[task].add(message(0), now)
    taken = take_longest_waiting(buffers, range(3), max_bytes=buffers[0].n_bytes * 2)
    assert list(taken) == [1, 2]
    assert buffers[0].messages
    assert not buffers[1].messages
