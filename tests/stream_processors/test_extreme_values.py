"""Whatever a registered device signs, in whatever column: no job raises, and every row is accounted for."""

import json
import random
from datetime import timedelta

import pyarrow as pa
import pytest

from feature_store.lake import Lake
from schemas.envelope import encode_rows
from schemas.row_schemas import BOOKS_ROWS, SUMMARY_ROWS, fingerprint, telemetry_rows
from schemas.topics import DEVICE_TOPICS, LANES_OF
from stream_processors.aggregate.aggregate_job import AggregateWindows
from stream_processors.drift.drift_job import DriftWatch
from stream_processors.engine.job_trials import check_output
from stream_processors.engine.pipeline import in_order, run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.job import Output, RawMessage
from tests.simulators.line import make_lake, on_task
from tests.simulators.messages import MACHINE, T0, SimDevice, SimDirectory, SimLog

FLOATS = (
    0.0, -0.0, 5e-324, -5e-324, 1e-300, 1.4e-45, 1e-6, 1.0, -1.0, 3.4e38, -3.4e38, 1e39, 1e76, 1e77, 1e99,
    1e100, -1e100, 1e101, 1.7e308, -1.7e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
INTS = (0, 1, -1, 2, 255, 2**31 - 1, -(2**31), 2**40, 2**40 + 1, 2**53 + 1, 2**63 - 1, -(2**63))
TEXTS = (
    "",
    "a",
    "score",
    "rule",
    "é\u202e",
    "a\x1fb",
    "\x00",
    "x" * 256,
    "x" * 257,
    "\U0010ffff",
    "a/b/c",
    "%s",
)
TIMES_US = (0, -1, 2**63 - 1, -(2**63), 10**18, -(10**18), 1_767_225_600_000_000, 1_767_225_600_000_001)
"""Values that are likely to be somebody's edge."""


def value_of(rng, kind, usual, wild):
    """A value for a column: usual, or with probability ``wild`` at some edge."""
    if rng.random() >= wild:
        return usual
    edges = {
        pa.types.is_floating: FLOATS,
        pa.types.is_timestamp: TIMES_US,
        pa.types.is_boolean: (True, False),
    }
    for is_kind, values in edges.items():
        if is_kind(kind):
            return rng.choice(values)
    if pa.types.is_integer(kind):
        fitting = [i for i in INTS if abs(i) < 2 ** (kind.bit_width - 1)]
        return rng.choice(fitting)
    if pa.types.is_list(kind):
        return [value_of(rng, kind.value_type, 0, wild) for _ in range(rng.choice((0, 1, 40)))]
    return rng.choice(TEXTS).encode() if pa.types.is_binary(kind) else rng.choice(TEXTS)


def usual(rng, field, device_id, at_us):
    """A plausible value of a column."""
    plausible = {
        "device_id": device_id, "model_version": "m@1", "featureset": MACHINE.featureset, "stratum": "sample",
        "feature": rng.choice(["temperature_mean", "score"]), "decision": "none", "period_s": 5.0, "n": 5,
        "mean": 5.0, "m2": 10.0, "min": 3.0, "max": 7.0, "part": 0, "thinning": 1.0, "score": 0.1,
        "reasons": 1, "sample_p": MACHINE.filter.p, "inclusion_probability": MACHINE.filter.p,
    }  # fmt: skip
    if field.name in plausible:
        return plausible[field.name]
    if pa.types.is_timestamp(field.type):
        return at_us
    if pa.types.is_list(field.type) or pa.types.is_binary(field.type):
        return None
    return False if pa.types.is_boolean(field.type) else 0


def rows_of(rng, schema, device_id, at_us, wild):
    n = rng.choice((1, 1, 3, 20))
    columns = []
    for field in schema:
        values = [value_of(rng, field.type, usual(rng, field, device_id, at_us), wild) for _ in range(n)]
        if field.name == "device_id" and rng.random() >= wild / 8:
            values = [device_id] * n
        if pa.types.is_timestamp(field.type):
            columns.append(pa.array(values, pa.int64()).cast(field.type))
        else:
            columns.append(
                pa.array(values, pa.float64()).cast(field.type, safe=False)
                if pa.types.is_floating(field.type)
                else pa.array(values, field.type)
            )
    return pa.record_batch(columns, schema=schema)


def json_value(rng, plain):
    odd = (
        *FLOATS,
        *INTS,
        *TEXTS,
        None,
        [],
        {},
        True,
        2**70,
        "1999-01-01T00:00:00Z",
        "2199-12-31T23:59:59.999999Z",
    )
    return plain if rng.random() < 0.8 else rng.choice(odd)


def event_of(rng, topic, device_id, at):
    instant = at.isoformat()
    events = {
        "alert.v1": {
            "device_id": device_id, "boot_id": 7, "seq": 3, "event_time": instant, "action": "stop",
            "score": 0.9, "model_version": "m",
            "features": {"a": json_value(rng, 1.0), rng.choice(TEXTS): 2.0},
        },
        "label.v1": {
            "label_id": "l", "device_id": device_id, "span_start": instant,
            "span_end": (at + timedelta(hours=1)).isoformat(), "label": "ok", "source": device_id,
            "known_at": instant, "confidence": 1.0, "label_probability": 1.0, "supersedes": None,
        },
        "device-state.v1": {
            "device_id": device_id, "boot_id": 7, "event_time": instant, "profile": "machine",
            "model_version": "m", "decision": "none", "spool_bytes": 1, "pending_rows": 1,
            "oldest_pending_s": 0.5,
        },
        "excerpt.v1": {
            "device_id": device_id, "boot_id": 7, "event_time": instant, "permit_id": "p", "purpose": "x",
            "approver": "a", "part": 0, "parts": 1, "first": 0, "rate_hz": 512.0, "n": 1,
            "samples": {"vibration": "AAAAAAAA8D8="},
        },
    }  # fmt: skip
    return json.dumps({k: json_value(rng, v) for k, v in events[topic].items()}).encode()


class FuzzedLine:
    """Devices and a labeller that sign anything, all built-in jobs, and a state that survives as JSON."""

    def __init__(self, seed, lake):
        self.rng, self.lake = random.Random(seed), lake
        self.wild = (0.4, 0.05, 0.01)[seed % 3]  # the wildest are mostly refused, and never get far
        self.devices = [SimDevice(f"machine-{i:02d}", spool_id=f"{i:016x}") for i in range(4)]
        directory = SimDirectory(*self.devices)
        for key, known in list(directory._devices.items())[:1]:
            directory._devices[key] = type(known)(
                known.producer, True, known.verifier, known.sends_for, labels=True
            )
        self.jobs = in_order([Ingest(directory), AggregateWindows(directory), DriftWatch(directory)])
        self.state, self.log, self.at = TaskState("task-00"), SimLog(), T0 + timedelta(minutes=2)
        self.waiting: list[RawMessage] = []
        self.sent = 0

    def message(self):
        rng, device = self.rng, self.rng.choice(self.devices)
        topic = "summary.v1" if rng.random() < 0.5 else rng.choice(DEVICE_TOPICS).base
        lane = rng.choice(LANES_OF[topic])
        schemas = {
            "telemetry.v1": telemetry_rows(MACHINE),
            "summary.v1": SUMMARY_ROWS,
            "books.v1": BOOKS_ROWS,
        }
        if topic in schemas:
            rows = rows_of(rng, schemas[topic], device.device_id, int(self.at.timestamp() * 1e6), self.wild)
            value, raw = encode_rows(rows)
            sealed = device.seal_value(topic, lane, fingerprint(schemas[topic]), value, rows.num_rows, raw)
        else:
            value = event_of(rng, topic, device.device_id, self.at)
            sealed = device.seal_value(topic, lane, "json", value, 1, len(value))
        return on_task(self.log.append(sealed, self.at))

    def forged_partial(self):
        """A message of ``aggregate.v1`` that nobody signed."""
        rng, offset = self.rng, 10_000 + self.sent
        event = {
            "event_id": f"task-0{rng.randrange(9)}/{self.sent}/0", "cohort": "c", "profile": "machine",
            "model_version": "m", "feature": "temperature_mean", "window_start": self.at.isoformat(),
            "window_s": 60.0, "part": 0, "n": 5, "mean": 1.0, "m2": 1.0, "min": 0.0, "max": 2.0, "devices": 2,
            "late": False, "watermark": self.at.isoformat(),
        }  # fmt: skip
        value = json.dumps({k: json_value(rng, v) for k, v in event.items()}).encode()
        at_ms = rng.choice((-1, 0, 2**62, -(2**62), int(self.at.timestamp() * 1000)))
        return RawMessage("aggregate.v1", 0, offset, at_ms, rng.choice((None, b"", b"\xff", b"c")), [], value)

    def commit(self):
        rng = self.rng
        batch = [
            self.message() if rng.random() < 0.9 else self.forged_partial() for _ in range(rng.randrange(12))
        ]
        self.sent += len(batch)
        batch, self.waiting = [*self.waiting, *batch], []
        outcome = run_jobs(self.jobs, batch, self.state, self.at)
        check_output(Output(outcome.rows, outcome.state, outcome.messages, outcome.counters), self.lake.check)
        for i, derived in enumerate(m for m in outcome.messages if m.topic == "aggregate.v1"):
            self.waiting.append(
                RawMessage(
                    "aggregate.v1",
                    0,
                    100_000 + self.sent * 1000 + i,
                    int(self.at.timestamp() * 1000),
                    derived.key.encode(),
                    [],
                    derived.value,
                )
            )
        counters = {k: self.state.counters.get(k, 0) + v for k, v in outcome.counters.items()}
        after = self.state.changed_by(outcome.state)
        kept = TaskState(after.task, after.n, {}, after.state, {**self.state.counters, **counters})
        self.state = TaskState.from_bytes(kept.to_bytes())  # as after a restart
        self.at += timedelta(seconds=rng.choice((1, 5, 60, 3600)))

    def assert_accounted(self):
        for topic in (t.base for t in DEVICE_TOPICS):
            c = {
                what: self.state.counters.get(f"ingest/{topic}/{what}_rows", 0)
                for what in ("received", "landed", "duplicate", "quarantined")
            }
            assert c["received"] == c["landed"] + c["duplicate"] + c["quarantined"], (topic, c)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    made = make_lake(tmp_path_factory.mktemp("lake"))
    return Lake.open(made.root)


@pytest.mark.parametrize("seed", range(6))
def test_no_signed_value_makes_a_job_raise_and_every_row_is_accounted_for(seed, lake):
    line = FuzzedLine(seed, lake)
    for _ in range(40):
        line.commit()
    line.assert_accounted()
    assert line.state.counters["ingest/telemetry.v1/received_messages"] > 5


def test_a_summary_whose_extreme_lies_beyond_what_its_spread_allows_is_counted_and_harms_nothing(lake):
    """One signed row with max = 1e100 ended every worker, at each start anew."""
    line = FuzzedLine(0, lake)
    device, at_us = line.devices[0], int(line.at.timestamp() * 1e6)
    usual_row = {f.name: usual(line.rng, f, device.device_id, at_us) for f in SUMMARY_ROWS}
    row = usual_row | {"max": 1e100, "m2": 1.0, "feature": "temperature_mean"}
    arrays = [
        pa.array([row[f.name]], pa.int64()).cast(f.type) if pa.types.is_timestamp(f.type)
        else pa.array([row[f.name]], f.type) for f in SUMMARY_ROWS
    ]  # fmt: skip
    value, raw = encode_rows(pa.record_batch(arrays, schema=SUMMARY_ROWS))
    sealed = device.seal_value(
        "summary.v1", LANES_OF["summary.v1"][0], fingerprint(SUMMARY_ROWS), value, 1, raw
    )
    outcome = run_jobs(line.jobs, [on_task(line.log.append(sealed, line.at))], line.state, line.at)
    assert outcome.rows["summaries"].num_rows == 1
    assert outcome.counters["aggregate/unusable_periods"] == 1
