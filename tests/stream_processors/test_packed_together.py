"""Packed rows of many messages unpacked at once are those of each message alone; so is each refusal."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.columns import Column, Kind, RowLayout
from schemas.envelope import decode_rows
from schemas.errors import DecodeError
from schemas.lz4_block import pack
from schemas.packed_rows import KNOWN, PACKING, pack_rows
from schemas.row_batch import ColumnValues, RowBatch
from schemas.varints import varints
from stream_processors.ingest import packed_together
from stream_processors.ingest.packed_reader import PackedReader
from stream_processors.ingest.packed_together import NotTogetherError, unpack_together
from stream_processors.ingest.sealed_rows import SealedValue

KINDS = RowLayout(
    tuple(Column(kind.name.lower(), kind, "", nullable=True) for kind in Kind),
    {PACKING: "1", KNOWN: '{"text": ["none", "größer"]}'},
)
"""A column of each kind."""
INT64 = np.iinfo(np.int64)


def schema_of(layout: RowLayout) -> pa.Schema:
    fields = [pa.field(c.name, ARROW[c.kind], c.nullable) for c in layout.columns]
    return pa.schema(fields, metadata={**layout.metadata})


ARROW = {
    Kind.TEXT: pa.string(), Kind.BINARY: pa.binary(), Kind.BOOL: pa.bool_(), Kind.INT8: pa.int8(),
    Kind.INT32: pa.int32(), Kind.INT64: pa.int64(), Kind.FLOAT32: pa.float32(), Kind.FLOAT64: pa.float64(),
    Kind.TIME: pa.timestamp("us", "UTC"), Kind.INT64_LIST: pa.list_(pa.int64()),
    Kind.FLOAT64_LIST: pa.list_(pa.float64()),
}  # fmt: skip
SCHEMA = schema_of(KINDS)


def column_of(kind: Kind, n: int, rng: np.random.Generator) -> ColumnValues:
    """Values such that every form occurs: equal ones, even steps, small, huge and missing ones."""
    style = rng.integers(5)
    valid = None if style < 2 else rng.random(n) < rng.choice([0.0, 0.5, 1.0])
    if valid is not None and valid.all():
        valid = None
    there = np.ones(n, bool) if valid is None else valid
    if kind in (Kind.TEXT, Kind.BINARY, Kind.INT64_LIST, Kind.FLOAT64_LIST):
        lengths = np.where(there, rng.integers(4, size=n) if style else 3, 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("<i4")
        total = int(offsets[-1])
        if kind is Kind.INT64_LIST:
            values = np.where(rng.random(total) < 0.5, 0, rng.integers(INT64.min, INT64.max, total))
        elif kind is Kind.FLOAT64_LIST:
            values = rng.normal(size=total)
        else:
            values = rng.integers(97, 100, total).astype("u1")
        return ColumnValues(valid, values, offsets)
    if kind is Kind.BOOL:
        return ColumnValues(valid, rng.random(n) < 0.5)
    if kind in (Kind.FLOAT32, Kind.FLOAT64):
        values = np.full(n, rng.normal()) if style == 0 else rng.normal(size=n)
        wide = values.astype("f4") if kind is Kind.FLOAT32 or style == 1 else values
        return ColumnValues(valid, wide.astype("f4" if kind is Kind.FLOAT32 else "f8"))
    dtype = {Kind.INT8: "i1", Kind.INT32: "i4"}.get(kind, "i8")
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    values = [np.full(n, high), low + np.arange(n), rng.integers(low, high, n)][min(style, 2)]
    return ColumnValues(valid, np.where(there, values, 0).astype(dtype))


@cache
def packed(n: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    return pack_rows(RowBatch(KINDS, [column_of(c.kind, n, rng) for c in KINDS.columns], n))


def sealed(raw: bytes) -> SealedValue:
    return SealedValue(pack(raw), len(raw))


def alone(message: SealedValue, schema: pa.Schema) -> pa.Table | None:
    try:
        return pa.Table.from_batches([decode_rows(message.value, message.raw_bytes, schema)])
    except DecodeError:
        return None


def read_as_alone(messages: list[SealedValue], schema: pa.Schema) -> int:
    """Whether all are read as alone; returns how many were together with others."""
    tables = set()
    for message, span in zip(messages, PackedReader(schema).read(messages), strict=True):
        wanted = alone(message, schema)
        if isinstance(span, DecodeError):
            assert wanted is None, "alone it is read"
            continue
        assert wanted is not None, "alone it is refused"
        same = [(c.cast("int64") if pa.types.is_timestamp(c.type) else c) for c in span.rows().columns]
        other = [(c.cast("int64") if pa.types.is_timestamp(c.type) else c) for c in wanted.columns]
        assert str([c.to_pylist() for c in same]) == str([c.to_pylist() for c in other])
        tables |= {id(span.table)} if span.table.num_rows > span.n else set()
    return len(tables)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 300)), min_size=4, max_size=12))
def test_messages_read_together_are_those_read_alone(shapes):
    assert read_as_alone([sealed(packed(n, seed)) for n, seed in shapes], SCHEMA) == 1


@settings(max_examples=400)
@given(
    st.integers(0, 300), st.integers(1, 6), st.integers(0, 10**6), st.integers(0, 255),
    st.sampled_from(["change", "cut", "more"]),
)  # fmt: skip
def test_a_damaged_message_is_refused_as_it_is_alone_and_costs_no_other_its_rows(seed, n, place, byte, how):
    raw = bytearray(packed(n, seed))
    at = place % len(raw)
    if how == "change":
        raw[at] = byte
    elif how == "cut":
        del raw[at:]
    else:
        raw[at:at] = bytes([byte])
    sound = [sealed(packed(k, seed + k)) for k in (3, 1, 5, 2, 4)]
    read_as_alone([*sound[:2], sealed(bytes(raw)), *sound[2:]], SCHEMA)


def test_the_others_stay_together_where_some_do_not_hold():
    raw = packed(5, 7)
    messages = [sealed(raw), sealed(raw[:-1]), sealed(raw + b"\0"), sealed(raw), sealed(raw), sealed(raw)]
    spans = PackedReader(SCHEMA).read(messages)
    assert [isinstance(span, DecodeError) for span in spans] == [False, True, True, False, False, False]
    assert {span.table.num_rows for span in spans if not isinstance(span, DecodeError)} == {20}


def test_rows_that_must_have_a_value_and_do_not_are_refused_alone_only():
    strict = RowLayout((Column("n", Kind.INT64, ""), Column("t", Kind.TEXT, "")), {PACKING: "1"})
    schema = schema_of(strict)
    text = ColumnValues(None, np.frombuffer(b"ab", "u1"), np.array([0, 1, 2], "<i4"))
    right = pack_rows(RowBatch(strict, [ColumnValues(None, np.array([1, 2])), text], 2))
    wrong = pack_rows(RowBatch(strict, [ColumnValues(np.array([True, False]), np.array([1, 2])), text], 2))
    spans = PackedReader(schema).read([sealed(p) for p in (right, right, wrong, right, right)])
    assert [isinstance(s, DecodeError) for s in spans] == [False, False, True, False, False]


@pytest.mark.parametrize("stated", [0, 1, 2, 100, 2**31, 2**32, 2**63, 2**64 - 1])
def test_no_stated_number_makes_anything_of_that_size(stated):
    """Whatever number stands wherever one may stand."""
    raw, sound = packed(3, 11), [sealed(packed(3, 12))] * 4
    for place in range(3, len(raw), 3):
        hostile = raw[:place] + varints([stated]) + raw[place + 1 :]
        read_as_alone([*sound, sealed(hostile)], SCHEMA)


def test_what_is_too_much_together_is_read_in_parts(monkeypatch):
    monkeypatch.setattr(packed_together, "MOST_UNPACKED", 200)
    with pytest.raises(NotTogetherError) as caught:
        unpack_together([packed(5, 1)] * 4, KINDS)
    assert caught.value.wrong.all()
    read_as_alone([sealed(packed(5, 1))] * 4, SCHEMA)
