"""Headers that a producer repeats are decoded once, and never read otherwise than in full."""

import pytest

from schemas.envelope import read_envelope, signed_by
from schemas.errors import DecodeError
from stream_processors.ingest.known_headers import MOST_REPEATS, KnownHeaders
from tests.simulators.messages import SimDevice, SimLog


def in_full(message):
    try:
        envelope, signature = read_envelope(message.key, message.headers)
    except DecodeError:
        return None
    return envelope, signature, signed_by(message.topic, message.key or b"", message.headers)


def learnt():
    device, log = SimDevice(), SimLog()
    first, second = (log.append(device.rows(i, 1)) for i in range(2))
    known = KnownHeaders()
    known.learn(first, read_envelope(first.key, first.headers)[0])
    return known, second


def test_the_next_message_of_a_lane_is_read_as_in_full():
    known, message = learnt()
    assert known.read(message) == in_full(message)


@pytest.mark.parametrize("place", range(10))
@pytest.mark.parametrize("value", [None, b"", b"7", b"-1", b"1e3", b"0" * 19, b"x" * 40, b"\xff" * 64])
def test_a_header_of_another_value_is_read_as_in_full_or_left_to_that(place, value):
    known, message = learnt()
    headers = list(message.headers)
    headers[place] = (headers[place][0], value)
    changed = message._replace(headers=headers)
    assert known.read(changed) in (None, in_full(changed))


@pytest.mark.parametrize("learnt_from", ["alone", "a tree"])
@pytest.mark.parametrize("path", [b"", b"\0\1\0\2" + bytes(32), b"x" * 400])
def test_a_message_of_a_tree_is_read_as_in_full(learnt_from, path):
    device, log = SimDevice(), SimLog()
    first, second = (log.append(device.rows(i, 1)) for i in range(2))
    if learnt_from == "a tree":
        first = first._replace(headers=[*first.headers, ("path", b"?")])
    known = KnownHeaders()
    known.learn(first, read_envelope(first.key, first.headers)[0])
    of_tree = second._replace(headers=[*second.headers, ("path", path)])
    assert known.read(of_tree) == in_full(of_tree)
    assert known.read(second) == in_full(second)
    assert known.read(second._replace(headers=[*second.headers, ("path", None)])) is None


@pytest.mark.parametrize("change", ["another name", "another order", "one less", "one more", "twice"])
def test_headers_of_another_shape_are_left_to_the_full_reading(change):
    known, message = learnt()
    first, *rest = message.headers
    headers = {
        "another name": [("schemo", first[1]), *rest],
        "another order": [*rest, first],
        "one less": rest,
        "one more": [first, *rest, ("more", b"")],
        "twice": [first, *rest, first],
    }[change]
    assert known.read(message._replace(headers=headers)) is None


def test_a_repeated_part_holds_for_its_own_topic_and_key_only():
    known, message = learnt()
    assert known.read(message._replace(topic="books.v1")) is None
    assert known.read(message._replace(key=b"machine-01")) is None
    assert known.read(message._replace(key=None)) is None


def test_what_is_remembered_is_bounded():
    known, message = learnt()
    envelope = read_envelope(message.key, message.headers)[0]
    for n in range(MOST_REPEATS):
        known.learn(message._replace(key=b"%d" % n), envelope)
    assert known.read(message) is None
    known.learn(message, envelope)
    assert known.read(message) == in_full(message)
