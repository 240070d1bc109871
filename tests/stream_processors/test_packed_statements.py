"""Laws of packed summaries and books in the cloud: the same rows land as from Arrow, checked alike."""

from datetime import UTC, datetime

import numpy as np
import pytest

from edge_producer.books import BookLine, CoMoments, books_batch
from edge_producer.summaries import Summarizer, merge_summaries
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from schemas.arrow_schemas import arrow_schema
from schemas.envelope import encode_rows
from schemas.packed_schemas import PACKED_BOOKS_LAYOUT, packed_summary_layout, packed_summary_rows
from schemas.row_batch import RowBatch
from schemas.row_schemas import BOOKS_LAYOUT, SUMMARY_LAYOUT, fingerprint
from schemas.topics import BOOKS, SUMMARY, Lane
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from tests.edge_producer.spool_rig import row
from tests.simulators.messages import MACHINE, SimDevice, SimDirectory, SimLog, gateway_boot

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LAYOUT = packed_summary_layout(MACHINE)
NAMES = MACHINE.feature_names


def summaries(device_id, seed, windows=40, *, sketches=False, boot_id=None):
    rng = np.random.default_rng(seed)
    edges = {NAMES[0]: np.array([0.0, 1.0]), "score": np.array([0.25, 0.5])}
    made = Summarizer(device_id, MACHINE.featureset, NAMES, 10.0, edges, sketches=sketches, layout=LAYOUT)
    for seq in range(windows):
        one = row(seq, float(np.float32(rng.random())))
        one.features = rng.normal(size=len(NAMES)).astype(np.float32)
        one.features[rng.integers(len(NAMES))] = np.nan
        one.boot_id = one.boot_id if boot_id is None else boot_id
        made.add(one)
    made.close()
    closed = made.take_closed()
    merged = merge_summaries(closed, 60.0, 9, LAYOUT)
    return RowBatch.concat([s.batch(LAYOUT) for s in (*closed[1:], merged)])


def books(device_id, seed):
    rng = np.random.default_rng(seed)
    moments = CoMoments.of(rng.normal(size=(5, 10)).astype(np.float32)).to_bytes()
    lines = [
        BookLine(7, k * 10**7, "m", stratum, k + 1, 10, 3, 7, 0, 0, 0, False, 0.5, blob, 10.0)
        for k in range(5)
        for stratum, blob in (("sample", None), ("rule", moments))
    ]
    return books_batch([device_id] * len(lines), lines)


def sealed(device, topic, lane, batch):
    value, raw = encode_rows(batch)
    return device.seal_value(topic.base, lane, batch.layout.fingerprint, value, batch.num_rows, raw)


def landed(directory, messages, table):
    output = run_jobs([Ingest(directory)], messages, TaskState("task-00"), NOW)
    return output, output.rows.get(table)


def in_arrow(batch, layout):
    return RowBatch(layout, batch.columns, batch.num_rows)


@pytest.mark.parametrize("seed", range(5))
def test_the_lake_gets_the_same_rows_from_either_encoding(seed):
    device = SimDevice()
    cases = (
        (SUMMARY, Lane.SUMMARY, summaries(device.device_id, seed, sketches=seed % 2 == 0), SUMMARY_LAYOUT),
        (BOOKS, Lane.BOOKS, books(device.device_id, seed), BOOKS_LAYOUT),
    )
    for topic, lane, batch, layout in cases:
        tables = []
        for one in (batch, in_arrow(batch, layout)):
            log = SimLog()
            message = log.append(sealed(device, topic, lane, one))
            output, _ = landed(SimDirectory(device), [message], "")
            tables.append(next(iter(output.rows.values())))
        assert tables[0].num_rows == batch.num_rows
        assert tables[0].drop(["_offset", "known_at"]).equals(tables[1].drop(["_offset", "known_at"]))


def test_one_message_of_a_gateway_holds_the_periods_of_all_its_devices():
    gateway, log = SimDevice("gate-1"), SimLog()
    names = [f"m-{k}" for k in range(20)]
    boot_id = gateway_boot("gate-1")
    batch = RowBatch.concat([summaries(name, k, boot_id=boot_id) for k, name in enumerate(names)])
    message = log.append(sealed(gateway, SUMMARY, Lane.SUMMARY, batch))
    output, rows = landed(SimDirectory(gateway, behind={"gate-1": tuple(names)}), [message], "summaries")
    assert set(rows["device_id"].to_pylist()) == set(names)
    assert rows.num_rows == batch.num_rows == output.counters["ingest/summary.v1/landed_rows"]
    fewer = SimDirectory(gateway, behind={"gate-1": tuple(names[1:])})
    refused, rows = landed(fewer, [message], "summaries")
    assert set(rows["device_id"].to_pylist()) == set(names[1:])
    assert set(refused.rows["quarantine"]["reason"].to_pylist()) == {"gate-1 may not send for m-0"}


def test_many_packed_messages_together_are_judged_as_each_alone():
    device, log = SimDevice(), SimLog()
    batches = [summaries(device.device_id, k, 20) for k in range(8)]
    messages = [log.append(sealed(device, SUMMARY, Lane.SUMMARY, batch)) for batch in batches]
    _, together = landed(SimDirectory(device), messages, "summaries")
    alone = [landed(SimDirectory(device), [m], "summaries")[1] for m in messages]
    assert together.num_rows == sum(t.num_rows for t in alone)
    assert together["mean"].to_pylist() == [value for t in alone for value in t["mean"].to_pylist()]


def test_a_packed_summary_whose_counts_lie_is_refused_like_any_other():
    device, log = SimDevice(), SimLog()
    batch = books(device.device_id, 1)
    rows = batch.to_pylist()
    rows[0]["sensed"] = -1
    message = log.append(sealed(device, BOOKS, Lane.BOOKS, RowBatch.from_pylist(rows, PACKED_BOOKS_LAYOUT)))
    output, table = landed(SimDirectory(device), [message], "books")
    assert table.num_rows == len(rows) - 1
    assert output.rows["quarantine"]["reason"].to_pylist() == ["sensed is negative"]


def test_a_lake_reads_the_summaries_of_every_version_of_a_profile(tmp_path):
    registry = ProfileRegistry(Lake(tmp_path))
    registry.register(MACHINE)
    features = MACHINE.features.model_copy(update={"version": 2})
    registry.register(MACHINE.model_copy(update={"features": features}))
    for version in (MACHINE, MACHINE.model_copy(update={"features": features})):
        wire = registry.wire(fingerprint(packed_summary_rows(version)))
        assert (wire.kind, wire.profile.name) == ("summaries", "machine")
    assert registry.wire(PACKED_BOOKS_LAYOUT.fingerprint).kind == "books"
    assert fingerprint(arrow_schema(PACKED_BOOKS_LAYOUT)) == PACKED_BOOKS_LAYOUT.fingerprint
