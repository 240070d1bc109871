"""Which rows may go without an inclusion probability: context alone, and context always."""

import numpy as np
import pyarrow as pa
import pytest

from schemas.row_schemas import CONTEXT, Reason, channel_bit, stratum_of, telemetry_rows_of_wire_1
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from tests.simulators.messages import MACHINE, T0, SimDevice, SimDirectory, SimLog, telemetry_batch

P = MACHINE.filter.p
SAMPLE, THRESHOLD = int(Reason.SAMPLE), int(Reason.THRESHOLD)


def land(*batches: pa.RecordBatch) -> tuple[pa.Table | None, list[str]]:
    """Rows that land, and the reasons of those that do not."""
    device, log = SimDevice(), SimLog()
    messages = [log.append(device.telemetry(batch)) for batch in batches]
    found = run_jobs([Ingest(SimDirectory(device))], messages, TaskState("task-00"), T0)
    refused = found.rows["quarantine"]["reason"].to_pylist() if "quarantine" in found.rows else []
    return found.rows.get("telemetry_machine"), refused


@pytest.mark.parametrize(
    ("reasons", "q", "lands"),
    [
        (CONTEXT, None, True),
        (CONTEXT | channel_bit(1), None, True),
        (CONTEXT, P, False),
        (CONTEXT, 1.0, False),
        (CONTEXT, float("nan"), False),
        (CONTEXT | SAMPLE, None, False),
        (CONTEXT | THRESHOLD, None, False),
        (SAMPLE, None, False),
        (THRESHOLD, None, False),
        (int(Reason.PRETRIGGER), None, False),
        (0, None, False),
        (SAMPLE, float("nan"), False),
        (int(Reason.PRETRIGGER), 1.0, True),  # release 0.2.0 sends these
        (SAMPLE, P, True),
    ],
)
def test_a_row_goes_without_a_probability_exactly_if_it_is_context(reasons, q, lands):
    rows, refused = land(telemetry_batch("machine-00", 0, 1, reasons=[reasons], inclusion_probability=[q]))
    assert (rows is not None, not refused) == (lands, lands)
    if lands and q is None:
        assert rows["inclusion_probability"].to_pylist() == [None]


def test_a_refused_row_takes_no_other_with_it_and_names_why():
    kinds = [CONTEXT, SAMPLE, SAMPLE, CONTEXT | SAMPLE]
    batch = telemetry_batch("machine-00", 0, 4, reasons=kinds, inclusion_probability=[None, P, None, None])
    rows, refused = land(batch)
    assert rows["seq"].to_pylist() == [0, 1]
    assert refused == [
        "inclusion_probability is not one the policy allows",
        "context that a rule or the sample selected",
    ]


def test_rows_of_wire_1_and_of_this_release_land_beside_each_other():
    older = telemetry_batch(
        "machine-00", 0, 2, reasons=[int(Reason.PRETRIGGER), SAMPLE], inclusion_probability=[1.0, P]
    )
    older = pa.RecordBatch.from_arrays(older.columns, schema=telemetry_rows_of_wire_1(MACHINE))
    newer = telemetry_batch("machine-00", 2, 2, reasons=[CONTEXT, SAMPLE], inclusion_probability=[None, P])
    rows, refused = land(older, newer)
    assert not refused
    by_seq = rows.sort_by("seq")
    assert by_seq["inclusion_probability"].to_pylist() == [1.0, P, None, P]
    assert [stratum_of(r) for r in by_seq["reasons"].to_pylist()] == ["rule", "sample", "context", "sample"]
    assert np.isfinite(by_seq["vibration_rms"].to_numpy()).all()
