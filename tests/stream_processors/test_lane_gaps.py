"""Message numbers that have not arrived are on record, lane by lane; and who signed what was refused."""

import pytest

from feature_store import connect
from feature_store.append import append
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from schemas.topics import Lane
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from tests.simulators.messages import T0, SimDevice, SimDirectory, SimLog, telemetry_batch

GAPS = "lane_gaps"


class Worker:
    """Ingest with the state that it keeps from commit to commit."""

    def __init__(self, *devices: SimDevice):
        self.job, self.state = Ingest(SimDirectory(*devices)), TaskState("task-00")
        self.rows: dict[str, list] = {}

    def take(self, *messages) -> dict[str, list[dict]]:
        outcome = run_jobs([self.job], messages, self.state, T0)
        state = {**self.state.state, **outcome.state}
        self.state = TaskState(
            "task-00", self.state.n + 1, {}, {k: v for k, v in state.items() if v is not None}
        )
        for table, rows in outcome.rows.items():
            self.rows.setdefault(table, []).append(rows)
        return {name: rows.to_pylist() for name, rows in outcome.rows.items()}


@pytest.fixture
def device():
    return SimDevice()


@pytest.fixture
def sent(device):
    """Five messages of two rows each, as the log would hold them."""
    log = SimLog()
    return [log.append(device.rows(2 * n, 2)) for n in range(5)]


def test_numbers_that_did_not_arrive_are_stated_once_and_taken_back_when_they_arrive(device, sent):
    worker = Worker(device)
    assert GAPS not in worker.take(sent[0])
    [gap] = worker.take(sent[3])[GAPS]
    assert (gap["device_id"], gap["spool_id"], gap["lane"], gap["missing"]) == (
        "machine-00", device.spool_id, "live", 2,
    )  # fmt: skip
    assert (gap["known_at"], gap["_partition"], gap["_offset"], gap["_row"]) == (T0, 0, 1, 0)
    assert GAPS not in worker.take(sent[4])
    assert [g["missing"] for g in worker.take(sent[1])[GAPS]] == [1]
    assert [g["missing"] for g in worker.take(sent[2])[GAPS]] == [0]
    assert not [k for k in worker.state.state if "/gap/" in k]


def test_lanes_are_counted_apart(device):
    worker, log = Worker(device), SimLog()
    for lane, numbers in ((Lane.LIVE, 3), (Lane.BACKLOG, 5)):
        for n in range(numbers):
            device.telemetry(telemetry_batch("machine-00", n, 1), lane)  # sealed and lost
        worker.take(log.append(device.telemetry(telemetry_batch("machine-00", n, 1), lane)))
    rows = [r for t in worker.rows[GAPS] for r in t.to_pylist()]
    assert [(r["lane"], r["missing"]) for r in rows] == [("live", 3), ("backlog", 5)]


def test_a_gap_from_before_the_table_is_stated_when_the_lane_is_heard_of_again(device, sent):
    worker = Worker(device)
    worker.take(sent[0])
    worker.take(sent[2])
    kept = {k: v for k, v in worker.state.state.items() if "/gap/" not in k}  # as 0.2.0 has it
    worker.state = TaskState("task-00", 7, {}, kept)
    assert [g["missing"] for g in worker.take(sent[3])[GAPS]] == [1]


def test_a_cloud_that_was_set_back_shows_what_it_lost(device, sent, lake_root):
    lake = Lake.open(lake_root)
    lake.ensure_fixed_tables()
    set_back = Worker(
        device
    )  # knows message 0; 1 to 3 were acknowledged, landed, and lost with the newer lake
    set_back.take(sent[0])
    set_back.take(sent[4])
    append(lake, CutStore(lake), "test", lambda n: {GAPS: set_back.rows[GAPS][0]})
    with connect(lake_root, comments=False) as con:
        asked = "SELECT device_id, missing_messages FROM data_quality"
        assert con.execute(asked).fetchall() == [("machine-00", 3)]


def test_a_refusal_says_whether_the_signature_held(device, sent):
    log, stranger = SimLog(), SimDevice(device.device_id)
    foreign = log.append(device.telemetry(telemetry_batch("another", 0, 1)))
    cloned = SimDevice(device.device_id, device.spool_id, device.signer)
    cases = {
        "nobody's": (log.append(stranger.rows(0, 1)), False),
        "changed": (sent[1]._replace(value=sent[1].value + b"x"), False),
        "no headers": (sent[1]._replace(headers=[]), False),
        "no key": (sent[1]._replace(key=None), False),
        "a clone's": (log.append(cloned.rows(50, 3)), True),
        "of another device": (foreign, True),
    }
    worker = Worker(device)
    worker.take(sent[0])
    for name, (message, verified) in cases.items():
        [refused] = worker.take(message)["quarantine"]
        assert refused["verified"] is verified, name


def test_a_row_that_the_policy_refuses_was_signed(device):
    log, bad = SimLog(), [2.0]
    [refused] = Worker(device).take(log.append(device.rows(0, 1, score=bad)))["quarantine"]
    assert refused["verified"] is True
