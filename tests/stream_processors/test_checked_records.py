"""Fetched batches: unpacked within a bound, and whatever a stranger's hold, every offset is accounted for."""

import random

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_processors.engine.checked_records import (
    LARGEST_RATIO,
    MAX_UNPACKED_BYTES,
    SMALL_BYTES,
    CheckedRecords,
    Unread,
)
from tests.simulators.hostile_batches import GZIP, LZ4, NONE, SNAPPY, ZSTD, RawName, batch, with_offsets

CODECS = [NONE, GZIP, SNAPPY, LZ4, ZSTD]


def records(*batches):
    """All records that the batches give, as aiokafka asks for them."""
    checked, found, next_offset = CheckedRecords(b"".join(batches)), [], 0
    while checked.has_next():
        one = checked.next_batch()
        assert one.validate_crc()
        assert not one.is_control_batch
        found += list(one)
        next_offset = one.next_offset
    return found, next_offset


def noise(n, seed=1):
    return random.Random(seed).randbytes(n)


@pytest.mark.parametrize("codec", CODECS)
def test_what_an_honest_client_sends_is_read_as_it_is(codec):
    sent = [noise(500, n) + b"a" * 500 for n in range(900)]  # near a megabyte, half of it compressible
    found, end = records(batch(*sent, codec=codec, headers=[("h", b"v"), ("none", None)]))
    assert [(r.offset, r.value) for r in found] == list(enumerate(sent))
    assert {tuple(r.headers) for r in found} == {(("h", b"v"), ("none", None))}
    assert (end, {r.checksum for r in found}) == (900, {None})


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
@pytest.mark.parametrize("size", [SMALL_BYTES * 40, MAX_UNPACKED_BYTES + 1, 60_000_000])
def test_a_batch_that_unpacks_to_too_much_is_not_unpacked(codec, size):
    packed = batch(bytes(size), b"after", codec=codec)
    assert size > LARGEST_RATIO * len(packed) or size > MAX_UNPACKED_BYTES or codec == LZ4
    found, end = records(packed)
    if codec == LZ4 and size <= MAX_UNPACKED_BYTES:
        assert [len(r.value) for r in found] == [size, 5]  # no more than lz4 can do, and within the bound
        return
    [stand_in] = found
    assert (stand_in.offset, stand_in.checksum.first_offset, end) == (1, 0, 2)
    assert (stand_in.key, stand_in.value, stand_in.headers) == (None, b"", ())


def test_what_follows_an_unreadable_record_is_one_range_and_what_precedes_it_is_read():
    good, bad = batch(b"a", b"b"), batch(b"c", headers=[(RawName(), b"")])
    found, _ = records(good)
    assert [r.value for r in found] == [b"a", b"b"]
    [stand_in], _ = records(bad)
    assert stand_in.checksum == Unread(0, stand_in.checksum.reason)
    assert "utf-8" in stand_in.checksum.reason


@settings(max_examples=200)
@given(
    codec=st.sampled_from(CODECS), seed=st.integers(0, 2**32), flips=st.integers(1, 6), n=st.integers(1, 40)
)
def test_whatever_the_bytes_every_offset_is_read_or_in_one_range(codec, seed, flips, n):
    rng = random.Random(seed)
    content = bytearray(batch(*(noise(rng.randrange(60), i) for i in range(n)), codec=codec))
    for _ in range(flips):
        content[rng.randrange(61, len(content))] ^= 1 << rng.randrange(8)  # behind the batch's head
    checked = CheckedRecords(bytes(content)).next_batch()
    expected = 0
    for record in checked:
        first = record.checksum.first_offset if record.checksum else record.offset
        assert first == expected
        expected = record.offset + 1
    assert expected == checked.next_offset == n


@pytest.mark.parametrize(
    ("offsets", "read", "first_unread"),
    [
        ([0, 1_000_000], [0], 1),
        ([5, 3], [], 0),
        ([0, 0, 0], [0], 1),
        ([1, 0], [], 0),
        ([0, 2, 1], [0], 1),
        ([0, 1, 2], [0, 1, 2], None),
    ],
)
def test_a_record_cannot_say_that_it_lies_elsewhere(offsets, read, first_unread):
    found, end = records(with_offsets(*offsets))
    assert [r.offset for r in found if r.checksum is None] == read
    assert end == len(offsets)
    unread = [(r.checksum.first_offset, r.offset) for r in found if r.checksum]
    assert unread == ([] if first_unread is None else [(first_unread, len(offsets) - 1)])


@pytest.mark.parametrize("tail", [b"\x00" * 40, bytes(cramjam.lz4.compress(b"x" * 1000))])
def test_nothing_may_follow_an_lz4_frame(tail):
    content = batch(b"x" * 50, codec=LZ4)
    longer = content[:8] + (len(content) - 12 + len(tail)).to_bytes(4, "big") + content[12:] + tail
    [stand_in] = list(CheckedRecords(longer).next_batch())
    assert "LZ4 frame" in stand_in.checksum.reason
