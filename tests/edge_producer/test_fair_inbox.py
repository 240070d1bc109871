"""Laws of the inbox that senders share: bounded, in each sender's order, and nobody is starved."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.sources.fair_inbox import FairInbox


class Letter(NamedTuple):
    sender: str
    number: int
    payload: bytes


def letters(sender: str, count: int, size: int = 1) -> list[Letter]:
    return [Letter(sender, n, b"x" * size) for n in range(count)]


def emptied(inbox: FairInbox[Letter]) -> list[Letter]:
    return [inbox.get() for _ in range(len(inbox))]


def test_one_that_floods_drops_its_own_oldest_and_takes_turns():
    inbox: FairInbox[Letter] = FairInbox(most=10, most_bytes=1000)
    dropped = sum(inbox.put(x.sender, x) for x in [*letters("quiet", 2), *letters("flood", 50)])
    assert dropped == 42
    found = emptied(inbox)
    assert [x.sender for x in found[:4]] == ["quiet", "flood", "quiet", "flood"]
    assert [x.number for x in found if x.sender == "flood"] == list(range(42, 50))


def test_large_messages_are_bounded_by_their_bytes():
    inbox: FairInbox[Letter] = FairInbox(most=100, most_bytes=100)
    for x in [*letters("quiet", 5), *letters("flood", 9, size=40)]:
        inbox.put(x.sender, x)
    found = emptied(inbox)
    assert sum(len(x.payload) for x in found) <= 100
    assert [x.number for x in found if x.sender == "quiet"] == [0, 1, 2, 3, 4]


def test_an_empty_inbox_has_nothing_to_give():
    with pytest.raises(IndexError):
        FairInbox(1, 1).get()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.booleans()), max_size=60))
def test_what_comes_out_was_put_in_once_in_each_senders_order_and_the_rest_is_counted(events):
    inbox: FairInbox[Letter] = FairInbox(most=7, most_bytes=60)
    found, dropped = [], 0
    for number, (sender, size, take) in enumerate(events):
        dropped += inbox.put(sender, Letter(sender, number, b"x" * size))
        assert len(inbox) <= 7
        if take and len(inbox):
            found.append(inbox.get())
    found += emptied(inbox)
    assert len(found) + dropped == len(events)
    for sender in "abc":
        numbers = [x.number for x in found if x.sender == sender]
        assert numbers == sorted(numbers)
