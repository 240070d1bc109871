"""Laws of packed rows: nothing changes on the way, and no bytes from outside take more than they may."""

import math
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
from schemas.lz4_block import pack
from schemas.packed_rows import KNOWN, MAX_UNPACKED, PACKING, pack_rows, unpack_rows
from schemas.packed_schemas import PACKED_BOOKS_LAYOUT, summaries_of
from schemas.row_batch import RowBatch
from schemas.row_schemas import BOOKS_LAYOUT, SUMMARY_LAYOUT
from schemas.varints import Bytes, read_varints, unzigzag, varints, zigzag

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
FLOATS = st.floats(allow_nan=False)
NAMES = st.sampled_from(["sample", "rule", "a", "ü", "", "m-3"])
VALUES = {
    Kind.TEXT: NAMES,
    Kind.BINARY: st.binary(max_size=9),
    Kind.BOOL: st.booleans(),
    Kind.INT8: st.integers(-128, 127),
    Kind.INT32: INT32,
    Kind.INT64: INT64 | st.integers(0, 9),
    Kind.TIME: st.integers(0, 2**52),
    Kind.FLOAT32: st.floats(width=32, allow_nan=False),
    Kind.FLOAT64: FLOATS | st.floats(width=32, allow_nan=False),
    Kind.INT64_LIST: st.lists(st.just(0) | INT64, max_size=30),
    Kind.FLOAT64_LIST: st.lists(FLOATS, max_size=5),
}
NULLABLE = {Kind.FLOAT32, Kind.FLOAT64, Kind.BINARY, Kind.INT64_LIST, Kind.FLOAT64_LIST, Kind.INT64}
LAYOUT = RowLayout(
    tuple(Column(f"c_{kind.name}", kind, "", kind in NULLABLE) for kind in Kind),
    {PACKING: "1", KNOWN: '{"c_TEXT":["rule","sample"]}'},
)


def column_st(kind, n):
    one = VALUES[kind] if kind not in NULLABLE else VALUES[kind] | st.none()
    steps = st.integers(0, 1000).map(lambda first: [first + 7 * k for k in range(n)])
    some = st.lists(one, min_size=n, max_size=n) | one.map(lambda value: [value] * n)
    return some | steps if kind in (Kind.INT32, Kind.INT64, Kind.TIME) else some


@st.composite
def rows_st(draw):
    n = draw(st.sampled_from([0, 1, 2, 11, 40]))
    names = [c.name for c in LAYOUT.columns]
    columns = [draw(column_st(c.kind, n)) for c in LAYOUT.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


@given(rows_st())
@settings(max_examples=150, deadline=None)
def test_what_is_unpacked_is_what_was_packed_bit_for_bit(rows):
    batch = RowBatch.from_pylist(rows, LAYOUT)
    again = unpack_rows(pack_rows(batch), LAYOUT)
    assert again.to_pylist() == rows
    assert again.num_rows == len(rows)
    for before, after in zip(batch.columns, again.columns, strict=True):
        if before.values.dtype.kind == "f" and before.valid is None:
            assert before.values.tobytes() == after.values.tobytes(), "the sign of a zero, too"


@given(rows_st())
@settings(max_examples=60, deadline=None)
def test_the_cloud_reads_the_same_rows_packed_and_from_arrow(rows):
    packed = RowBatch.from_pylist(rows, LAYOUT)
    plain_layout = RowLayout(LAYOUT.columns, {})
    plain = RowBatch(plain_layout, packed.columns, packed.num_rows)
    from_packed = decode_rows(*encode_rows(packed), arrow_schema(LAYOUT))
    from_arrow = decode_rows(*encode_rows(plain), arrow_schema(plain_layout))
    assert from_packed.to_pylist() == from_arrow.to_pylist()


@given(st.lists(INT64, max_size=60))
def test_numbers_of_any_size_come_back(values):
    numbers = zigzag(np.array(values, dtype=np.int64))
    data = Bytes(varints(numbers))
    assert unzigzag(read_varints(data, len(values))).tolist() == values
    data.end()


@given(st.lists(st.integers(0, 2**64 - 1), min_size=25, max_size=60))
def test_many_numbers_are_written_like_each_alone(values):
    numbers = np.array(values, dtype=np.uint64)
    assert varints(numbers) == b"".join(varints([value]) for value in values)


def test_floats_that_four_bytes_hold_take_four():
    layout = RowLayout((Column("x", Kind.FLOAT64, ""),), {PACKING: "1"})
    single = RowBatch.from_pylist([{"x": k / 8} for k in range(100)], layout)
    double = RowBatch.from_pylist([{"x": k / 10} for k in range(100)], layout)
    assert len(pack_rows(double)) - len(pack_rows(single)) == 400


def test_columns_are_those_that_the_lake_has():
    assert summaries_of("p", "f@1", ("a",)).columns == SUMMARY_LAYOUT.columns
    assert PACKED_BOOKS_LAYOUT.columns == BOOKS_LAYOUT.columns


def test_rows_packed_with_other_known_texts_are_refused():
    rows = RowBatch.from_pylist([], summaries_of("p", "f@1", ("a", "b")))
    with pytest.raises(ValueError, match="other known texts"):
        unpack_rows(pack_rows(rows), summaries_of("p", "f@1", ("b", "a")))


def some_packed():
    row = {c.name: None for c in LAYOUT.columns} | {
        "c_TEXT": "new", "c_BOOL": True, "c_INT8": 3, "c_INT32": 4, "c_INT64": 5, "c_TIME": 6,
        "c_FLOAT64": math.pi, "c_INT64_LIST": [0, 0, 3], "c_BINARY": b"xy", "c_FLOAT64_LIST": [1.5],
    }  # fmt: skip
    return pack_rows(RowBatch.from_pylist([row, row | {"c_INT32": 9}], LAYOUT))


def decoded(raw):
    return decode_rows(pack(raw), len(raw), arrow_schema(LAYOUT))


def test_bytes_that_are_cut_short_or_go_on_are_refused():
    raw = some_packed()
    assert decoded(raw).num_rows == 2
    for size in range(len(raw)):
        with pytest.raises(DecodeError):
            decode_rows(pack(raw[:size]) or b"\0", max(size, 1), arrow_schema(LAYOUT))
    with pytest.raises(DecodeError):
        decoded(raw + b"\0")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_refused_or_give_rows_and_never_raise_anything_else(seed):
    draw, whole = random.Random(seed), some_packed()
    for _ in range(100):
        raw = bytearray(whole)
        for _ in range(draw.choice([1, 2, 5])):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        try:
            decoded(bytes(raw)).validate(full=True)
        except DecodeError:
            continue


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.BINARY, Kind.INT64_LIST, Kind.FLOAT64_LIST])
def test_nothing_unpacks_to_more_than_is_allowed(kind):
    layout = RowLayout((Column("x", kind, ""),), {PACKING: "1"})
    head = pack_rows(RowBatch.from_pylist([], layout))[:3] + varints([65_536])
    many = 2**24
    body = {
        Kind.TEXT: bytes([1]) + varints([1]) + varints([1000]) + b"x" * 1000 + varints([0]),
        Kind.BINARY: bytes([5, 1]) + varints(zigzag(np.array([many]))),
        Kind.INT64_LIST: bytes([5, 1]) + varints(zigzag(np.array([many]))) + varints([0]),
        Kind.FLOAT64_LIST: bytes([5, 1]) + varints(zigzag(np.array([many]))),
    }[kind]
    with pytest.raises(DecodeError, match=f"more than {MAX_UNPACKED}"):
        decode_rows(pack(head + body), len(head + body), arrow_schema(layout))


def test_too_many_rows_are_refused():
    layout = RowLayout((Column("x", Kind.INT64, ""),), {PACKING: "1"})
    raw = pack_rows(RowBatch.from_pylist([], layout))[:3] + varints([65_537]) + bytes([1, 0])
    with pytest.raises(DecodeError, match="65537 rows"):
        decode_rows(pack(raw), len(raw), arrow_schema(layout))


def test_a_text_that_is_none_is_refused():
    layout = RowLayout((Column("x", Kind.TEXT, ""),), {PACKING: "1"})
    raw = pack_rows(RowBatch.from_pylist([{"x": "ab"}], layout)).replace(b"ab", b"\xff\xfe")
    with pytest.raises(DecodeError):
        decode_rows(pack(raw), len(raw), arrow_schema(layout))


def test_pyarrow_holds_every_kind():
    assert {str(f.type) for f in arrow_schema(LAYOUT)} == {kind.value for kind in Kind}
    assert isinstance(arrow_schema(LAYOUT), pa.Schema)
