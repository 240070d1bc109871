"""A table whose texts are dictionaries is the same table: same rows, same columns, same bytes on the disk."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store import parquet
from schemas.text_dictionaries import TEXTS, as_they_come, encoded, held_as, without_dictionaries

COLUMNS = pa.schema(
    [
        pa.field("device_id", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("note", pa.string()),
    ],
    metadata={"kind": "any"},
)

texts = st.sampled_from(["", "none", "größer", "machine-00", "machine-01"])
row = st.tuples(texts, st.one_of(texts, st.none()))
pieces = st.tuples(
    st.lists(row, min_size=1, max_size=9), st.lists(row, max_size=9), st.lists(row, max_size=9)
)


def table(rows) -> pa.Table:
    made = [{"device_id": who, "n": n, "note": note} for n, (who, note) in enumerate(rows)]
    return pa.Table.from_pylist(made, schema=COLUMNS)


def with_more_texts(rows: pa.Table) -> pa.Table:
    """The rows as they come out of a larger table: their dictionaries hold texts of others, in any order."""
    others = table([("zz", "machine-01"), ("machine-00", "zz")])
    return encoded(pa.concat_tables([others, rows])).slice(2)


@settings(max_examples=60, deadline=None)
@given(pieces)
def test_a_file_is_byte_for_byte_the_same_however_texts_are_held(found):
    parts = [table(rows) for rows in found]
    plain = pa.concat_tables(parts).combine_chunks()
    held = pa.concat_tables([with_more_texts(part) for part in parts])
    assert held.schema.field("note").type == TEXTS
    expected, statistics = parquet.encode(plain, parquet.LANDING)
    content, found_statistics = parquet.encode(parquet.conform(held, COLUMNS), parquet.LANDING)
    assert (content, found_statistics) == (expected, statistics)
    assert pq.read_table(pa.BufferReader(content)).cast(COLUMNS).equals(plain)


def test_a_large_file_of_an_earlier_release_is_among_the_forms_that_repair_tries():
    rows = pa.table(
        {"note": [f"{i % 9}" for i in range(8000)], "counts": [list(range(i, i + 20)) for i in range(8000)]}
    )
    sink, how = pa.BufferOutputStream(), dict(parquet.options(rows.schema, parquet.LANDING))
    del how["write_batch_size"]  # earlier releases left it to the library
    with pq.ParquetWriter(sink, rows.schema, **how) as writer:
        writer.write_table(rows, row_group_size=parquet.ROW_GROUP_ROWS)
    now, earlier = parquet.forms(encoded(rows), parquet.LANDING)
    assert (now.equals(sink.getvalue()), earlier.equals(sink.getvalue())) == (False, True)


@given(pieces)
def test_rows_with_their_texts_as_themselves_are_those_that_were_encoded(found):
    plain = table([row for rows in found for row in rows])
    back = without_dictionaries(as_they_come(with_more_texts(plain)))
    assert back.schema.equals(plain.schema, check_metadata=True)
    assert back.to_pylist() == plain.to_pylist()


def test_only_texts_that_rows_hold_as_dictionaries_are_wanted_so():
    rows = pa.table({"device_id": encoded(table([("a", None)])).column("device_id"), "note": ["x"]})
    wanted = held_as(rows.schema, COLUMNS)
    assert [wanted.field(n).type for n in COLUMNS.names] == [TEXTS, pa.int64(), pa.string()]


def test_a_table_gets_a_column_that_it_lacks_beside_dictionaries():
    rows = encoded(table([("a", "x")])).drop_columns(["note"])
    fitting = parquet.conform(rows, COLUMNS)
    assert fitting.column("device_id").type == TEXTS
    assert without_dictionaries(fitting).to_pylist() == [{"device_id": "a", "n": 0, "note": None}]
    with pytest.raises(ValueError, match="must not be missing"):
        parquet.conform(rows.drop_columns(["n"]), COLUMNS)
