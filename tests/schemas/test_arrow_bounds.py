"""What a sealed message may unpack to is checked before anything is unpacked."""

import io
import resource
import struct

import numpy as np
import pyarrow as pa
import pytest

from schemas.arrow_bounds import MAX_RAW_BYTES, MAX_ROWS
from schemas.envelope import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_KEY_BYTES,
    decode_rows,
    encode_rows,
    read_envelope,
)
from schemas.errors import DecodeError
from schemas.events import MAX_EVENT_BYTES, Alert, parse_event
from schemas.lz4_block import pack
from tests.simulators.messages import SimDevice

SCHEMA = pa.schema([pa.field("a", pa.float64(), False), pa.field("b", pa.float64(), False)])


def batch(n):
    return pa.record_batch([pa.array(np.zeros(n))] * 2, schema=SCHEMA)


def packed(raw):
    return pack(raw)


def compressed_by_arrow(rows, codec):
    """The record batch message of an IPC stream whose buffers are compressed, without its schema message."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(rows)
    source = pa.BufferReader(sink.getvalue())
    pa.ipc.read_message(source)
    start = source.tell()
    pa.ipc.read_message(source)
    return sink.getvalue()[start : source.tell()]


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_few_hundred_bytes_that_arrow_would_unpack_to_gigabytes_are_refused_unread(codec):
    raw = compressed_by_arrow(batch(4_000_000), codec)
    value = packed(raw)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DecodeError, match="compressed by themselves"):
        decode_rows(value, len(raw), SCHEMA)
    assert len(value) < 4_000_000 * 16 // 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


def test_buffers_that_share_bytes_are_refused():
    """Sixty columns that are all the same sixteen megabytes are a gigabyte once they are copied."""
    rows = batch(500)
    raw = rows.serialize().to_pybytes()
    longer = raw.replace(struct.pack("<q", 4000), struct.pack("<q", 8000))
    assert longer != raw
    with pytest.raises(DecodeError, match="exceed its body"):
        decode_rows(packed(longer), len(longer), SCHEMA)


@pytest.mark.parametrize("length", [-1, 2**62])
def test_a_buffer_that_reaches_beyond_the_body_is_refused(length):
    raw = batch(500).serialize().to_pybytes()
    beyond = raw.replace(struct.pack("<q", 4000), struct.pack("<q", length), 1)
    with pytest.raises(DecodeError):
        decode_rows(packed(beyond), len(beyond), SCHEMA)


def test_a_value_that_unpacks_to_less_than_stated_is_refused_whatever_the_memory_held_before():
    raw = batch(500).serialize().to_pybytes()
    for before in (b"\x00", b"\x40"):
        list(map(pack, [before * len(raw)] * 9))
        with pytest.raises(DecodeError, match="unpacks to"):
            decode_rows(packed(raw[:-2000]), len(raw), SCHEMA)


def test_a_message_of_another_kind_is_refused():
    raw = SCHEMA.serialize().to_pybytes()
    with pytest.raises(DecodeError, match="kind 'schema'"):
        decode_rows(packed(raw), len(raw), SCHEMA)


def test_a_dictionary_is_refused():
    rows = pa.record_batch([pa.array(["x", "y"]).dictionary_encode()], names=["a"])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    source = pa.BufferReader(sink.getvalue())
    pa.ipc.read_message(source)
    start = source.tell()
    assert pa.ipc.read_message(source).type == "dictionary"
    raw = sink.getvalue()[start : source.tell()]
    with pytest.raises(DecodeError, match="dictionary"):
        decode_rows(packed(raw), len(raw), rows.schema)


def test_a_message_holds_so_many_rows_and_no_more():
    most, raw = encode_rows(batch(MAX_ROWS))
    assert decode_rows(most, raw, SCHEMA).num_rows == MAX_ROWS
    more, raw = encode_rows(batch(MAX_ROWS + 1))
    with pytest.raises(DecodeError, match="rows; at most"):
        decode_rows(more, raw, SCHEMA)


@pytest.mark.parametrize("raw_bytes", [0, MAX_RAW_BYTES + 1, 255 * 3 + 1])
def test_a_length_that_the_value_cannot_have_is_refused_before_memory_is_taken(raw_bytes):
    with pytest.raises(DecodeError):
        decode_rows(b"xyz", raw_bytes, SCHEMA)


@pytest.mark.parametrize("cut", [1, 8, 40, 100, 200])
def test_a_cut_message_is_refused(cut):
    raw = batch(5).serialize().to_pybytes()[:-cut]
    with pytest.raises(DecodeError):
        decode_rows(packed(raw), len(raw), SCHEMA)


def with_header(name, value):
    sealed = SimDevice().rows(0, 1)
    return sealed.key, [*sealed.headers, (name, value)]


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (b"k" * (MAX_KEY_BYTES + 1), []),
        (b"k", [("h", b"")] * (MAX_HEADERS + 1)),
        with_header("h", b"x" * MAX_HEADER_BYTES),
        with_header("h" * MAX_HEADER_BYTES, b""),
    ],
)
def test_key_and_headers_are_bounded_before_they_are_read(key, headers):
    with pytest.raises(DecodeError, match="at most"):
        read_envelope(key, headers)


def test_a_long_event_is_refused_unread_and_its_error_stays_short():
    with pytest.raises(DecodeError, match="at most"):
        parse_event(Alert, b"[" * (MAX_EVENT_BYTES + 1))
    many = b'{"device_id":"m",' + b",".join(b'"k%d":1' % i for i in range(5000)) + b"}"
    with pytest.raises(DecodeError) as error:
        parse_event(Alert, many)
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize("offset", [-8, -4096, 8 * 4000, 2**62, -(2**63)])
def test_a_buffer_that_begins_outside_the_body_is_refused(offset):
    raw = batch(500).serialize().to_pybytes()
    second = raw.find(struct.pack("<qq", 4000, 4000))  # where the second column's values begin
    assert second > 0
    moved = raw[:second] + struct.pack("<q", offset) + raw[second + 8 :]
    with pytest.raises(DecodeError):
        decode_rows(packed(moved), len(moved), SCHEMA)
