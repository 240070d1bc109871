"""Rows of many messages decoded together are those that each message has alone; so is each refusal."""

import struct
import tracemalloc
from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.envelope import decode_rows, encode_rows
from schemas.errors import DecodeError
from schemas.lz4_block import pack, unpack
from schemas.row_schemas import BOOKS_ROWS, SUMMARY_ROWS
from stream_processors.ingest.sealed_rows import RowReader, RowSpan, SealedValue
from tests.simulators.messages import telemetry_batch

SEED_WITH_NULLS = 3
TELEMETRY = telemetry_batch("machine-00", 0, 1).schema


def rows_of(schema: pa.Schema, n: int, seed: int) -> pa.RecordBatch:
    """n rows of any of our schemas; nulls in every nullable column, texts and lists of several lengths."""
    rng = np.random.default_rng(seed)
    made = []
    for field in schema:
        kind = field.type
        if pa.types.is_string(kind):
            values = [str(rng.choice(["", "none", "größer", "machine-00"])) for _ in range(n)]
        elif pa.types.is_binary(kind):
            values = [rng.bytes(int(rng.integers(4))) for _ in range(n)]
        elif pa.types.is_list(kind):
            values = [rng.integers(9, size=rng.integers(3)).tolist() for _ in range(n)]
        elif pa.types.is_boolean(kind):
            values = (rng.random(n) < 0.5).tolist()
        else:
            values = rng.integers(0, 100, n).tolist()
        if field.nullable and rng.random() < 0.7:
            values = [None if rng.random() < 0.3 else v for v in values]
        made.append(pa.array(values, kind))
    return pa.record_batch(made, schema=schema)


@cache
def sealed(kind: int, n: int, seed: int) -> SealedValue:
    schema = (TELEMETRY, SUMMARY_ROWS, BOOKS_ROWS)[kind]
    return SealedValue(*encode_rows(rows_of(schema, n, seed)))


def shown(rows: pa.Table) -> str:
    """The rows as text; instants as numbers, for a damaged one is in no calendar."""
    return str([(c.cast("int64") if pa.types.is_timestamp(c.type) else c).to_pylist() for c in rows.columns])


def alone(message: SealedValue, schema: pa.Schema) -> str:
    try:
        return shown(pa.Table.from_batches([decode_rows(message.value, message.raw_bytes, schema)]))
    except DecodeError:
        return "refused"


def verdict(span: RowSpan | DecodeError) -> str:
    return "refused" if isinstance(span, DecodeError) else shown(span.rows())


def without_marker(message: SealedValue, rows: int) -> SealedValue:
    """The message as Arrow framed it before 0.15, its metadata stating this number of rows instead of two."""
    raw = unpack(message.value, message.raw_bytes)
    end = 8 + int.from_bytes(raw[4:8], "little")
    metadata = (raw[8:end] + bytes(4)).replace(struct.pack("<q", 2), struct.pack("<q", rows))
    framed = struct.pack("<i", len(metadata)) + metadata + raw[end:]
    return SealedValue(pack(framed), len(framed))


def damaged(message: SealedValue, at: int, bit: int) -> SealedValue:
    raw = bytearray(unpack(message.value, message.raw_bytes))
    raw[at] ^= 1 << bit
    return SealedValue(pack(bytes(raw)), len(raw))


@settings(max_examples=30)
@given(
    kind=st.integers(0, 2),
    shapes=st.lists(st.tuples(st.sampled_from([1, 1, 2, 9]), st.integers(0, 5)), min_size=4, max_size=24),
)
def test_each_message_has_the_rows_that_it_has_alone(kind, shapes):
    schema = (TELEMETRY, SUMMARY_ROWS, BOOKS_ROWS)[kind]
    reader, messages = RowReader(schema), [sealed(kind, n, seed) for n, seed in shapes]
    for _ in range(3):  # layouts are learnt meanwhile
        assert [verdict(s) for s in reader.read(messages)] == [alone(m, schema) for m in messages]


@pytest.mark.parametrize("bit", [0, 6])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_damaged_message_has_the_verdict_that_it_has_alone_and_changes_no_other(kind, bit):
    schema = (TELEMETRY, SUMMARY_ROWS, BOOKS_ROWS)[kind]
    reader, sound = RowReader(schema), sealed(kind, 2, SEED_WITH_NULLS)
    reader.read([sound] * 4)
    messages = [m for at in range(sound.raw_bytes) for m in (damaged(sound, at, bit), sound)]
    assert [verdict(s) for s in reader.read(messages)] == [alone(m, schema) for m in messages]


def test_messages_alike_share_one_table_without_being_decoded_one_by_one():
    batches = [telemetry_batch(f"machine-{i:02d}", i, 1) for i in range(40)]
    reader, messages = RowReader(TELEMETRY), [SealedValue(*encode_rows(b)) for b in batches]
    reader.read(messages)
    spans = [s for s in reader.read(messages) if isinstance(s, RowSpan)]
    assert len({id(s.table) for s in spans}) == 1
    assert [s.start for s in spans] == list(range(40))


def test_a_message_that_lies_about_its_length_or_holds_no_rows_is_read_alone():
    none, some = sealed(0, 0, 1), sealed(0, 1, 1)
    longer = SealedValue(pack(unpack(some.value, some.raw_bytes) + b"x" * 8), some.raw_bytes + 8)
    garbage = SealedValue(b"\x00garbage", 300)
    reader, messages = RowReader(TELEMETRY), [none, some, longer, garbage, some] * 4
    for _ in range(3):
        assert [verdict(s) for s in reader.read(messages)] == [alone(m, TELEMETRY) for m in messages]


def test_a_message_in_an_older_framing_has_the_rows_that_it_has_alone():
    sound = SealedValue(*encode_rows(telemetry_batch("machine-00", 0, 2)))
    two, one = without_marker(sound, 2), without_marker(sound, 1)
    assert alone(two, TELEMETRY) != alone(one, TELEMETRY) != "refused"
    reader, messages = RowReader(TELEMETRY), [two, two, two, two, one, two]
    for _ in range(3):
        assert [verdict(s) for s in reader.read(messages)] == [alone(m, TELEMETRY) for m in messages]


def test_a_message_shorter_than_it_states_is_refused_among_others_like_it():
    sound = SealedValue(*encode_rows(telemetry_batch("machine-00", 0, 2)))
    short = SealedValue(pack(unpack(sound.value, sound.raw_bytes)[:-24]), sound.raw_bytes)
    reader = RowReader(TELEMETRY)
    for _ in range(3):
        found = reader.read([sound, sound, short, sound, sound, sound])
        assert [verdict(s) for s in found] == [verdict(found[0])] * 2 + ["refused"] + [verdict(found[0])] * 3


def test_nothing_of_a_refused_message_stays_in_memory():
    size, reader = 1 << 20, RowReader(TELEMETRY)
    messages = [
        SealedValue(pack(struct.pack("<IiQ", 0xFFFFFFFF, size - 8, n) + bytes(size - 16)), size)
        for n in range(16)
    ]
    reader.read(messages[:1])
    tracemalloc.start()
    try:
        assert {verdict(s) for s in reader.read(messages)} == {"refused"}
        assert tracemalloc.get_traced_memory()[0] < size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rows", [2, 5])
def test_a_message_of_one_text_is_damaged_wherever_it_is_without_changing_another(rows):
    sound = SealedValue(*encode_rows(telemetry_batch("machine-00", 0, rows)))
    reader = RowReader(TELEMETRY)
    reader.read([sound] * 4)
    messages = [m for at in range(sound.raw_bytes) for m in (damaged(sound, at, at % 8), sound)]
    assert [verdict(s) for s in reader.read(messages)] == [alone(m, TELEMETRY) for m in messages]


def test_texts_of_many_messages_are_dictionaries_with_each_text_once_whether_rows_share_them_or_not():
    mixed = rows_of(TELEMETRY, 9, 1)
    batches = [telemetry_batch("machine-00", 0, 9), mixed, telemetry_batch("machine-01", 9, 9), mixed] * 4
    spans = RowReader(TELEMETRY).read([SealedValue(*encode_rows(b)) for b in batches])
    assert len({id(span.table) for span in spans}) < len(spans)
    for span, batch in zip(spans, batches, strict=True):
        column = span["device_id"].combine_chunks()
        assert column.to_pylist() == batch.column("device_id").to_pylist()
        if pa.types.is_dictionary(column.type):
            assert len(column.dictionary) == len(set(column.dictionary.to_pylist()))
