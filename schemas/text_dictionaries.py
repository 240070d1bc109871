"""Texts of rows as dictionaries: each text once, and a number a row. They are the same rows in less memory.

A device id, a decision or a model's version is the same in thousands of rows. Whoever lands, sorts or writes
them compares and copies numbers instead; files and tables hold texts all the same.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXTS = pa.dictionary(pa.int32(), pa.string())


def with_dictionaries(columns: pa.Schema) -> pa.Schema:
    """The columns, texts as dictionaries."""
    return pa.schema([f.with_type(TEXTS) if f.type == pa.string() else f for f in columns])


def without_dictionaries(rows: pa.Table) -> pa.Table:
    """The rows, texts as themselves."""
    if not any(pa.types.is_dictionary(f.type) for f in rows.schema):
        return rows
    plain = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in rows.schema]
    return rows.cast(pa.schema(plain, metadata=rows.schema.metadata))


def held_as(rows: pa.Schema, columns: pa.Schema) -> pa.Schema:
    """The columns, those texts as dictionaries that these rows hold so."""
    held = {f.name for f in rows if f.type == TEXTS}
    return pa.schema([f.with_type(TEXTS) if f.name in held and f.type == pa.string() else f for f in columns])


def encoded(rows: pa.Table) -> pa.Table:
    """The rows, texts as dictionaries."""
    wanted = with_dictionaries(rows.schema).with_metadata(rows.schema.metadata)
    if rows.schema.equals(wanted):
        return rows
    columns = [c.dictionary_encode() if c.type == pa.string() else c for c in rows.columns]
    return pa.table(columns, schema=wanted)


def in_one_piece(rows: pa.Table) -> pa.Table:
    """The rows in one piece, with one dictionary for each column of texts."""
    return rows.unify_dictionaries().combine_chunks()


def same_text(text: str, n: int) -> pa.DictionaryArray:
    """A column of one text."""
    return pa.DictionaryArray.from_arrays(np.zeros(n, dtype="int32"), pa.array([text], pa.string()))


def as_they_come(rows: pa.Table) -> pa.Table:
    """The rows with dictionaries that hold what the rows hold, in the order in which it comes first.

    So what is written says nothing of what was read together, and is what the texts themselves would be.
    """
    if not any(f.type == TEXTS for f in rows.schema):
        return rows
    whole = rows if all(c.num_chunks == 1 for c in rows.columns) else in_one_piece(rows)
    columns = [_as_it_comes(c.chunk(0)) if c.type == TEXTS and c.num_chunks else c for c in whole.columns]
    return pa.table(columns, schema=whole.schema)


def _as_it_comes(column: pa.DictionaryArray) -> pa.DictionaryArray:
    size = len(column.dictionary)
    if size == 1 and not column.null_count and len(column):
        return column
    used = pc.unique(column.indices).drop_null().to_numpy()
    if len(used) == size and (used[1:] > used[:-1]).all():
        return column
    place = np.zeros(max(1, size), dtype="int32")
    place[used] = np.arange(len(used), dtype="int32")
    codes = pa.array(place).take(column.indices)
    return pa.DictionaryArray.from_arrays(codes, column.dictionary.take(pa.array(used)))
