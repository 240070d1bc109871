"""Laws of what a device sends: its bytes are those that the releases before sent, which used pyarrow."""

import random

import numpy as np
import pyarrow as pa
import pytest

from edge_producer.books import BookLine, CoMoments, books_batch
from edge_producer.sensed_rows import Row, StoredRow, wire_batch
from edge_producer.summaries import Summarizer
from schemas.arrow_schemas import arrow_schema
from schemas.envelope import decode_rows, encode_rows
from schemas.packed_schemas import summaries_of
from schemas.row_batch import RowBatch
from schemas.row_schemas import (
    BOOKS_LAYOUT,
    BOOKS_ROWS,
    SUMMARY_LAYOUT,
    SUMMARY_ROWS,
    TELEMETRY_HEAD,
    TELEMETRY_TAIL,
    TIME,
    telemetry_layout,
    telemetry_rows,
)
from tests.edge_producer.spool_rig import bench_profile
from tests.edge_producer.test_wide_channels import profile as wide_profile

LZ4 = pa.Codec("lz4_raw")
PROFILES = {"narrow": bench_profile(), "wide": wide_profile("float64")}


def as_before(batch):
    """What ``encode_rows`` gave before."""
    raw = batch.serialize()
    return LZ4.compress(raw, asbytes=True), len(raw)


def sensed(draw, profile, count):
    """Rows with features and scores that may be missing, infinite or of either sign of zero."""
    wide = any(profile.wide_features())
    values = np.array([0.0, -0.0, 1.5, -2e30, np.nan, np.inf, -np.inf, 1e-40])
    rows = []
    for seq in range(count):
        features = np.array(draw.choices(values, k=len(profile.feature_names)))
        blob = features.astype("<f8" if wide else "<f4").tobytes()
        score = draw.choice([None, 0.0, 0.1, 0.123456789, 1.0])
        rates = (draw.random(), draw.random())
        decision, model = draw.choice(["none", "inspect", "stöp"]), draw.choice(["m-1", "robust-1"])
        instants = (10**15 + seq, seq * 10**9, draw.choice([0, 1, 2]))
        rows.append(
            StoredRow(seq, 1, 2**62 - seq, seq, *instants, blob, score, decision, 1 << 30, *rates, model, 0.0)
        )
    return rows


def rows_before(device_id, rows, schema):
    """The batch as 0.2.0 and the release before this one made it."""
    n = len(rows)
    _, _, boots, seqs, events, monos, quality, blobs, scores, decisions, reasons, rates, q, models, *_ = zip(
        *rows, strict=True
    )
    kinds = [schema.field(name).type for name in schema.names[len(TELEMETRY_HEAD) : -len(TELEMETRY_TAIL)]]
    matrix = np.frombuffer(b"".join(blobs), dtype="<f8" if pa.float64() in kinds else "<f4").reshape(n, -1).T
    missing = ~np.isfinite(matrix)
    with np.errstate(over="ignore"):
        features = [
            pa.array(v, mask=m).cast(k)
            for v, m, k in zip(np.ascontiguousarray(matrix), missing, kinds, strict=True)
        ]
    arrays = [
        pa.array([device_id] * n),
        pa.array(boots, pa.int64()),
        pa.array(seqs, pa.int64()),
        pa.array(events, TIME),
        pa.array(monos, pa.int64()),
        pa.array(quality, pa.int8()),
        *features,
        pa.array(scores, pa.float32()),
        pa.array(decisions, pa.string()),
        pa.array(reasons, pa.int32()),
        pa.array(rates, pa.float64()),
        pa.array(q, pa.float64()),
        pa.array(models, pa.string()),
    ]
    return pa.record_batch(arrays, schema=schema)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("seed", range(20))
def test_rows_are_sent_as_the_same_bytes(name, seed):
    draw, profile = random.Random(seed), PROFILES[name]
    rows = sensed(draw, profile, draw.choice([1, 2, 7, 8, 9, 64, 500]))
    now = encode_rows(wire_batch("d-1", rows, telemetry_layout(profile)))
    assert now == as_before(rows_before("d-1", rows, telemetry_rows(profile)))


def books_before(device_id, lines, period_s):
    n = len(lines)
    (boots, periods, models, strata, revisions, *rest) = zip(*lines, strict=True)
    *counts, gaps, thinning, blobs, _lengths = rest
    moments = [None if blob is None else CoMoments.from_bytes(blob) for blob in blobs]
    moments = [m if m is not None and m.n else None for m in moments]
    lists = pa.list_(pa.float64())
    arrays = [
        pa.array([device_id] * n),
        pa.array(boots, pa.int64()),
        pa.array(periods, TIME),
        pa.array([period_s] * n, pa.float64()),
        pa.array(models, pa.string()),
        pa.array(strata, pa.string()),
        pa.array(revisions, pa.int64()),
        *(pa.array(c, pa.int64()) for c in counts),
        pa.array(gaps, pa.bool_()),
        pa.array(thinning, pa.float64()),
        pa.array([m and m.mean for m in moments], lists),
        pa.array([m and m.products[np.triu_indices(len(m.mean))] for m in moments], lists),
    ]
    return pa.record_batch(arrays, schema=BOOKS_ROWS)


def unpacked(batch, schema):
    """What the cloud reads of a packed batch."""
    packed = arrow_schema(batch.layout)
    return decode_rows(*encode_rows(batch), packed).cast(schema)


@pytest.mark.parametrize("seed", range(20))
def test_books_are_stated_as_the_same_bytes(seed):
    draw = random.Random(seed)
    lines = []
    for k in range(draw.choice([1, 3, 9, 100])):
        block = np.array([[draw.gauss(0, 1) for _ in range(3)] for _ in range(draw.choice([0, 1, 5]))])
        blob = draw.choice([None, CoMoments.of(block.reshape(-1, 3).astype(np.float32)).to_bytes()])
        counts = [draw.randrange(10**6) for _ in range(6)]
        gap, tau = draw.random() < 0.5, draw.choice([0.0, 0.25, 1.0])
        stratum = draw.choice(["rule", "sample"])
        lines.append(BookLine(k, k * 10**7, "m", stratum, k, *counts, gap, tau, blob, 60.0))
    stated = books_batch(["d-1"] * len(lines), lines)
    in_arrow = RowBatch(BOOKS_LAYOUT, stated.columns, stated.num_rows)
    before = books_before("d-1", lines, 60.0)
    assert encode_rows(in_arrow) == as_before(before)
    assert unpacked(stated, BOOKS_ROWS).equals(before), "and packed the cloud reads the same rows"


@pytest.mark.parametrize("seed", range(10))
def test_summaries_are_sent_as_the_same_bytes(seed):
    """What they hold comes from a sketch, which draws: so the rows are read, and written with pyarrow."""
    draw = random.Random(seed)
    edges = {"a": np.array([0.0, 1.0]), "score": np.array([0.5])}
    summarizer = Summarizer("d-1", "bench@1", ("a", "b"), 10.0, edges, sketches=True)
    for seq in range(draw.choice([1, 5, 300])):
        features = np.array([draw.choice([draw.gauss(0, 1), float("nan")]), float("nan")], dtype=np.float32)
        score = draw.choice([None, draw.random()])
        summarizer.add(Row(1, seq, seq * 10**6, 0, 0, 1, features, score, "none", "m", 0.0))
    summarizer.close()
    [summary] = summarizer.take_closed()
    rows = summary.batch(summaries_of("", "bench@1", ("a", "b")))
    batch = unpacked(rows, SUMMARY_ROWS)
    # Values at missing places are the ones that were masked, and are not read back: those stay as they are.
    again = pa.record_batch(
        [_rewritten(column, field.type) for column, field in zip(batch.columns, SUMMARY_ROWS, strict=True)],
        schema=SUMMARY_ROWS,
    )
    in_arrow = RowBatch(SUMMARY_LAYOUT, rows.columns, rows.num_rows)
    assert as_before(again) == encode_rows(in_arrow)


def _rewritten(column, kind):
    if pa.types.is_floating(kind):
        data = np.frombuffer(column.buffers()[1], dtype=np.float64, count=len(column))
        return pa.array(data, mask=np.array([not v for v in column.is_valid().to_pylist()]))
    return pa.array(column.to_pylist(), kind)
