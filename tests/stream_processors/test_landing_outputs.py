"""Further outputs and the calendar land as columns of their own; what no score can be is refused by name."""

import numpy as np
import pyarrow as pa

from schemas.calendar_features import Calendar
from schemas.instants import to_us
from schemas.tables import telemetry_table
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from tests.edge_producer.output_models import PUMP
from tests.simulators.messages import T0, SimDevice, SimDirectory, SimLog, telemetry_batch

NAMED = PUMP.model_copy(update={"name": "machine"})
"""Messages of the simulated device say that they are of this profile."""


def land(queue: list[float | None]) -> tuple[pa.Table, list[str]]:
    device, log = SimDevice(), SimLog()
    batch = telemetry_batch("machine-00", 0, len(queue), NAMED, score_queue=queue)
    rows = Calendar.of(NAMED.features).rows([to_us(t) for t in batch.column("event_time").to_pylist()])
    for at, name in enumerate(NAMED.features.calendar):
        place = batch.schema.get_field_index(f"calendar_{name}")
        batch = batch.set_column(place, batch.schema.field(place), pa.array(rows[:, at].astype("float32")))
    jobs = [Ingest(SimDirectory(device, profiles=(NAMED,)))]
    found = run_jobs(jobs, [log.append(device.telemetry(batch))], TaskState("task-00"), T0)
    refused = found.rows["quarantine"]["reason"].to_pylist() if "quarantine" in found.rows else []
    return found.rows["telemetry_machine"], refused


def test_outputs_and_calendar_land_beside_the_features():
    rows, refused = land([0.0, 0.25, 1.0, None, float("nan")])
    assert not refused
    assert rows["score_queue"].to_pylist() == [0.0, 0.25, 1.0, None, None]
    assert rows.schema.names[6:14] == list(NAMED.row_columns)
    hours = np.arctan2(rows["calendar_hour_sin"].to_numpy(), rows["calendar_hour_cos"].to_numpy())
    assert np.isfinite(hours).all()
    assert telemetry_table(NAMED).schema.field("score_queue").type == pa.float32()


def test_an_output_that_no_score_can_be_is_refused_and_named():
    rows, refused = land([0.5, 1.5, -0.1, float("inf")])
    assert rows["score_queue"].to_pylist() == [0.5]
    assert sorted(refused) == [
        "score_queue is infinite",
        "score_queue is outside [0, 1]",
        "score_queue is outside [0, 1]",
    ]
