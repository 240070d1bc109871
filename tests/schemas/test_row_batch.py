"""Laws of rows without pyarrow: every byte is what pyarrow writes, and pyarrow reads what they say."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.arrow_schemas import arrow_schema
from schemas.columns import Column, Kind, RowLayout
from schemas.envelope import decode_rows, encode_rows
from schemas.errors import DecodeError
from schemas.lz4_block import pack, unpack
from schemas.row_batch import RowBatch, binaries, fixed, lists, texts

VALUES = {
    Kind.TEXT: st.text(max_size=12),
    Kind.BINARY: st.binary(max_size=12),
    Kind.BOOL: st.booleans(),
    Kind.INT8: st.integers(-128, 127),
    Kind.INT32: st.integers(-(2**31), 2**31 - 1),
    Kind.INT64: st.integers(-(2**63), 2**63 - 1),
    Kind.FLOAT32: st.floats(width=32),
    Kind.FLOAT64: st.floats(),
    Kind.TIME: st.integers(0, 2**52),
    Kind.INT64_LIST: st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    Kind.FLOAT64_LIST: st.lists(st.floats(), max_size=5),
}
NEVER_MISSING = {Kind.TEXT, Kind.BOOL}


@st.composite
def rows(draw):
    """A layout of some columns, and values for each."""
    kinds = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6))
    count = draw(st.integers(1, 20))
    missing = draw(st.booleans())
    columns, values = [], []
    for number, kind in enumerate(kinds):
        nullable = missing and kind not in NEVER_MISSING
        columns.append(Column(f"c{number}", kind, "A column.", nullable=nullable))
        value = st.none() | VALUES[kind] if nullable else VALUES[kind]
        values.append(draw(st.lists(value, min_size=count, max_size=count)))
    return RowLayout(tuple(columns), {"kind": "test"}), values


def ours(layout, values):
    names = [column.name for column in layout.columns]
    return RowBatch.from_pylist(
        [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)], layout
    )


def theirs(layout, values):
    schema = arrow_schema(layout)
    arrays = [pa.array(v, field.type) for v, field in zip(values, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


def bytes_of(batch):
    return batch.serialize().to_pybytes()


@given(given_rows=rows())
def test_a_batch_is_byte_for_byte_what_pyarrow_writes(given_rows):
    assert ours(*given_rows).serialize() == bytes_of(theirs(*given_rows))


@given(given_rows=rows(), data=st.data())
def test_some_of_the_rows_are_byte_for_byte_what_pyarrow_writes_of_them_alone(given_rows, data):
    layout, values = given_rows
    batch = ours(layout, values)
    start = data.draw(st.integers(0, batch.num_rows - 1))
    count = data.draw(st.integers(1, batch.num_rows))
    alone = theirs(layout, [column[start : start + count] for column in values])
    assert batch.slice(start, count).serialize() == bytes_of(alone)


@given(given_rows=rows(), data=st.data())
def test_batches_together_are_byte_for_byte_what_pyarrow_writes(given_rows, data):
    layout, values = given_rows
    batch, same = ours(layout, values), theirs(layout, values)
    cut = data.draw(st.integers(1, batch.num_rows))
    parts = [batch.slice(0, cut), batch.slice(cut, batch.num_rows), batch]
    parts = [RowBatch.deserialize(part.serialize(), layout) for part in parts if part.num_rows]
    table = pa.Table.from_batches([same.slice(0, cut), same.slice(cut), same])
    [joined] = table.combine_chunks().to_batches()
    assert RowBatch.concat(parts).serialize() == bytes_of(joined)


@given(given_rows=rows())
def test_what_is_read_again_is_what_was_written(given_rows):
    layout, values = given_rows
    written = ours(layout, values)
    read = RowBatch.deserialize(bytes_of(theirs(layout, values)), layout)
    assert read.serialize() == written.serialize()
    assert repr(read.to_pylist()) == repr(written.to_pylist())


def test_values_at_missing_places_of_an_array_stay_as_they_are():
    values, there = np.array([1.5, np.nan, np.inf, 2.5]), np.array([True, False, False, True])
    layout = RowLayout((Column("x", Kind.FLOAT64, "A number.", nullable=True),), {})
    batch = RowBatch(layout, [fixed(Kind.FLOAT64, values, there)], 4)
    same = pa.record_batch([pa.array(values, mask=~there)], schema=arrow_schema(layout))
    assert batch.serialize() == bytes_of(same)
    single = RowLayout((Column("x", Kind.FLOAT32, "A number.", nullable=True),), {})
    narrow = RowBatch(single, [fixed(Kind.FLOAT32, values, there)], 4)
    assert narrow.serialize() == bytes_of(
        pa.record_batch([pa.array(values, mask=~there).cast(pa.float32())], schema=arrow_schema(single))
    )


@given(seed=st.integers(0, 2**32), size=st.integers(1, 20_000), symbols=st.integers(1, 256))
@settings(max_examples=60)
def test_a_block_is_byte_for_byte_what_pyarrow_packs(seed, size, symbols):
    raw = bytes(random.Random(seed).choices(range(symbols), k=size))
    assert pack(raw) == pa.Codec("lz4_raw").compress(raw, asbytes=True)
    assert unpack(pack(raw), len(raw)) == raw


def some_batch():
    layout = RowLayout(
        (
            Column("t", Kind.TEXT, "Text."),
            Column("b", Kind.BINARY, "Bytes.", nullable=True),
            Column("n", Kind.INT64_LIST, "Numbers.", nullable=True),
            Column("g", Kind.BOOL, "A bit."),
        ),
        {},
    )
    columns = [
        texts(["a", "bc", "", "d"]),
        binaries([b"x", None, b"yz", b""]),
        lists(Kind.INT64_LIST, [[1, 2], None, [], [3]]),
        fixed(Kind.BOOL, np.array([True, False, False, True])),
    ]
    return RowBatch(layout, columns, 4)


def test_the_cloud_reads_what_a_device_encodes():
    batch = some_batch()
    value, raw_bytes = encode_rows(batch)
    assert decode_rows(value, raw_bytes, arrow_schema(batch.layout)).to_pylist() == batch.to_pylist()


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_refused_or_read_and_nothing_else(seed):
    batch, draw = some_batch(), random.Random(seed)
    whole = batch.serialize()
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            RowBatch.deserialize(bytes(damaged), batch.layout).to_pylist()
        except ValueError:
            continue


def test_a_block_that_is_cut_or_of_another_length_is_refused():
    value = pack(bytes(1000))
    for data, size in ((value[:-3], 1000), (value, 999), (value, 1001), (b"\xff" * 40, 1000)):
        with pytest.raises(DecodeError):
            unpack(data, size)
