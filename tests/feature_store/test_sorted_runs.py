"""Rows of compacted files: ordered by who and when, and the same however they were cut into pieces."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.sorted_runs import in_groups, in_order, merged, order_of
from schemas.row_schemas import TIME
from schemas.text_dictionaries import with_dictionaries

COLUMNS = pa.schema(
    [("device_id", pa.string()), ("event_time", TIME), ("k", pa.int64()), ("note", pa.string())]
)
ORDER = ("device_id", "event_time")
T0 = datetime(2026, 1, 1, tzinfo=UTC)

row = st.tuples(st.sampled_from(["a", "b", "ä", "", None]), st.integers(0, 3), st.sampled_from(["x", None]))
lots = st.lists(st.lists(row, max_size=12), min_size=1, max_size=5)


def table(found):
    """Rows as a file is read: texts as dictionaries."""
    made = [
        {"device_id": who, "event_time": T0 + timedelta(seconds=second), "k": k, "note": note}
        for k, (who, second, note) in found
    ]
    return pa.Table.from_pylist(made, schema=COLUMNS).cast(with_dictionaries(COLUMNS))


def numbered(parts):
    """Each row with its number over all parts."""
    start = 0
    for part in parts:
        yield list(enumerate(part, start))
        start += len(part)


def key(found):
    number, (who, second, _) = found
    return (who is None, (who or "").encode(), second, number)


def runs_of(parts, piece):
    for part in parts:
        yield in_pieces(in_order([table(part)], ORDER), piece)


def in_pieces(rows, piece):
    """As a file is read: each piece has dictionaries of its own."""
    for start in range(0, rows.num_rows, piece):
        yield rows.slice(start, piece).cast(COLUMNS).cast(with_dictionaries(COLUMNS))


@given(lots, st.integers(1, 5))
def test_merged_runs_are_the_rows_sorted_and_equal_ones_keep_their_sequence(lists, piece):
    parts = list(numbered(lists))
    pieces = list(merged(runs_of(parts, piece), ORDER))
    expected = [number for number, _ in sorted((r for part in parts for r in part), key=key)]
    assert [k for p in pieces for k in p["k"].to_pylist()] == expected


@given(lots, st.integers(1, 5), st.integers(1, 5), st.integers(1, 7))
def test_groups_are_the_same_however_the_rows_came_in_pieces(lists, one, other, size):
    parts = list(numbered(lists))
    found = [list(in_groups(merged(runs_of(parts, piece), ORDER), size)) for piece in (one, other)]
    for first, second in zip(*found, strict=True):
        assert first.equals(second)
        for name in ("device_id", "note"):  # dictionaries included: they are in the file
            assert first[name].chunk(0).dictionary.equals(second[name].chunk(0).dictionary)
    rows = sum(map(len, parts))
    assert [g.num_rows for g in found[0]] == [size] * (rows // size) + [rows % size] * (rows % size > 0)
    merged_at_once = [k for p in merged(runs_of(parts, 100), ORDER) for k in p["k"].to_pylist()]
    assert [k for g in found[0] for k in g["k"].to_pylist()] == merged_at_once


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["event_time", "device_id", "known_at"], ("device_id", "event_time")),
        (["cohort", "window_start"], ("cohort", "window_start")),
        (["device_id", "known_at"], ("device_id", "known_at")),
        (["known_at"], ()),
        (["device_id"], ()),
    ],
)
def test_a_table_is_ordered_by_whom_it_names_and_when(names, order):
    kinds = {"device_id": pa.string(), "cohort": pa.string()}
    assert order_of(pa.schema([(name, kinds.get(name, TIME)) for name in names])) == order


def test_a_column_of_another_type_orders_nothing():
    assert order_of(pa.schema([("device_id", pa.int64()), ("event_time", TIME)])) == ()
    assert order_of(pa.schema([("device_id", pa.string()), ("event_time", pa.int64())])) == ()


def test_without_an_order_one_run_follows_the_other():
    parts = list(numbered([[("b", 1, None)], [("a", 0, None)]]))
    pieces = merged((iter([table(part)]) for part in parts), ())
    assert [k for p in pieces for k in p["k"].to_pylist()] == [0, 1]
