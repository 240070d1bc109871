"""Laws of golden vectors: what is read of them is what pyarrow reads, in whatever form they are."""

import io
import json
import random

import numpy as np
import pyarrow as pa
import pytest

from edge_producer.bundle import BUNDLES, GOLDEN
from edge_producer.golden_vectors import read_golden
from schemas.errors import BundleError
from schemas.golden_keys import OUTPUTS

SHIPPED = sorted(path.name for path in BUNDLES.iterdir())


def by_pyarrow(data):
    """Windows and expected outputs as pyarrow reads them."""
    table = pa.ipc.open_file(io.BytesIO(data)).read_all()
    shape = json.loads(table.schema.metadata[b"shape"])
    matrices = [np.array(table.column(name).to_pylist(), dtype=np.float32) for name in ("window", "features")]
    score = np.array(table.column("score").to_pylist(), dtype=np.float32)
    further = json.loads(table.schema.metadata.get(OUTPUTS.encode(), b"[]"))
    outputs = np.array(further, dtype=np.float32).reshape(len(score), -1 if further else 0)
    return matrices[0].reshape(-1, *shape), np.column_stack([matrices[1], score, outputs])


def same(data):
    found, (windows, expected) = read_golden(data, "v"), by_pyarrow(data)
    return np.array_equal(found.windows, windows, equal_nan=True) and np.array_equal(
        found.expected, expected, equal_nan=True
    )


def written(table, batches=1, **options):
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=-(-table.num_rows // batches))
    return sink.getvalue()


def shipped(name):
    return (BUNDLES / name / GOLDEN).read_bytes()


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_read_as_pyarrow_reads_it(name):
    assert same(shipped(name))


@pytest.mark.parametrize("form", ["batches", "compressed", "lists", "doubles"])
def test_another_form_is_read_all_the_same(form):
    table = pa.ipc.open_file(io.BytesIO(shipped("robust"))).read_all()
    kinds = {"lists": pa.list_(pa.float32()), "doubles": pa.list_(pa.float64(), 24)}
    if form in kinds:
        at = table.schema.get_field_index("features")
        column = pa.chunked_array([table.column("features").combine_chunks().cast(kinds[form])])
        meta = table.schema.metadata
        table = table.set_column(at, "features", column).replace_schema_metadata(meta)
    data = written(table, 3 if form == "batches" else 1, compression="lz4" if form == "compressed" else None)
    assert same(data)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_vectors_are_refused_or_read_and_nothing_else(seed):
    """Their digest is checked before: this is only for vectors that somebody signed as they are."""
    draw, whole = random.Random(seed), shipped("robust")
    for _ in range(40):
        damaged = bytearray(whole[: draw.choice([len(whole), draw.randrange(8, len(whole))])])
        for _ in range(draw.randint(0, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            read_golden(bytes(damaged), "v")
        except BundleError:
            continue
