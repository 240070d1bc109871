"""Real workers sign what they derive, and believe nobody else's aggregates."""

from datetime import UTC, datetime, timedelta

import confluent_kafka as ck
import pyarrow as pa
import pytest

from feature_store import connect
from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.derived_trust import DerivedTrust
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.log_view import dead_letters
from schemas.derived_seal import seal_derived
from schemas.envelope import MessageSigner, encode_rows
from schemas.row_schemas import SUMMARY_ROWS, fingerprint
from schemas.topics import AGGREGATE, DEAD_LETTER, DEVICE_PARTITIONS, SUMMARY, Lane, partition_for
from stream_processors.engine.task_loading import load_task
from tests.simulators.messages import SimDevice
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka]


def summary(device: SimDevice, at: datetime):
    """A sealed message with one period of one feature."""
    row = {
        "device_id": device.device_id, "boot_id": 1, "model_version": "machine-0", "featureset": "rotating@1",
        "feature": "temperature_mean", "period_start": at, "period_s": 5.0, "part": 0, "n": 5, "n_missing": 0,
        "mean": 20.0, "m2": 1.0, "min": 19.0, "max": 21.0,
    }  # fmt: skip
    value, raw = encode_rows(pa.RecordBatch.from_pylist([row], schema=SUMMARY_ROWS))
    return device.seal_value(SUMMARY.base, Lane.SUMMARY, fingerprint(SUMMARY_ROWS), value, 1, raw)


def produce(cloud, topic, partition, key, headers, value) -> None:
    producer = ck.Producer({"bootstrap.servers": cloud.servers})
    producer.produce(topic.named(cloud.namespace), value, key, headers=headers, partition=partition)
    assert producer.flush(30) == 0


def taken(cloud) -> int:
    """Partials that drift has taken in, on all tasks."""
    log = CommitLog(cloud.lake.root)
    states = [load_task(log, t).state for t in log.tasks() if t.startswith("task-")]
    return sum(s.counters.get("drift/partials", 0) for s in states)


def refused(cloud) -> list[tuple]:
    """Refused aggregates: error and whether they were signed."""
    if CutStore(cloud.lake).latest() is None:
        return []
    with connect(cloud.lake.root, comments=False) as con:
        asked = "SELECT error, verified FROM quarantine WHERE topic = 'aggregate.v1'"
        return con.execute(asked).fetchall()


def derived(cloud, topic):
    admin = KafkaAdmin(cloud.servers)
    return list(admin.read(admin.spans([topic.named(cloud.namespace)])))


def test_a_forged_aggregate_moves_no_verdict_and_is_on_record(cloud):
    device = SimDevice()
    cloud.register(device)
    cloud.start()
    before = datetime.now(UTC).replace(microsecond=0, second=0) - timedelta(hours=5)
    for at in (before, before + timedelta(hours=2)):  # the second closes the window of the first
        sealed = summary(device, at)
        partition = partition_for(device.device_id)
        produce(cloud, SUMMARY, partition, sealed.key, sealed.headers, sealed.value)
    wait_until(lambda: taken(cloud) == 1, 60, "a window to close and its partial to be taken")

    [true] = derived(cloud, AGGREGATE)
    place = (true.partition, true.offset)
    assert DerivedTrust.of(cloud.lake.root).check(AGGREGATE.base, place, true.key, true.headers, true.value)

    event_id = ("event_id", b"task-05/999/0")
    value = true.value.replace(b'"n":5', b'"n":5000')
    stranger = seal_derived(AGGREGATE.base, true.key, [event_id], value, MessageSigner.generate())
    produce(cloud, AGGREGATE, true.partition, true.key, [event_id], value)  # as 0.2.0 wrote them
    produce(cloud, AGGREGATE, true.partition, true.key, stranger, value)
    produce(cloud, AGGREGATE, true.partition, true.key, true.headers, value)
    elsewhere = (true.partition + 1) % DEVICE_PARTITIONS
    produce(cloud, AGGREGATE, elsewhere, true.key, true.headers, true.value)
    wait_until(lambda: len(refused(cloud)) == 4, 60, "the forged ones to be refused")
    assert set(refused(cloud)) == {("SignatureError", False)}

    produce(cloud, AGGREGATE, true.partition, true.key, true.headers, true.value)  # as after a crash
    wait_until(lambda: taken(cloud) == 2, 60, "the repeat")
    assert len(refused(cloud)) == 4
    letters = dead_letters(derived(cloud, DEAD_LETTER), DerivedTrust.of(cloud.lake.root))
    assert [(letter.error, letter.verified) for letter in letters] == [("SignatureError", True)] * 4


def test_a_dead_letter_that_anybody_wrote_is_told_from_ours(cloud):
    cloud.start()
    wait_until((cloud.lake.root / "_workers" / "unsigned_before.json").exists, 60, "the start")
    forged = [("error", b"DecodeError"), ("source_topic", b"label.v1"), ("event_id", b"task-00/0/0")]
    produce(cloud, DEAD_LETTER, 0, b"x", forged, b"bytes")
    produce(cloud, SUMMARY, 0, b"nobody", [], b"no message of ours")
    trust = DerivedTrust.of(cloud.lake.root)
    wait_until(lambda: len(derived(cloud, DEAD_LETTER)) == 2, 60, "our letter")
    letters = dead_letters(derived(cloud, DEAD_LETTER), trust)
    assert {(x.error, x.source_topic, x.verified) for x in letters} == {
        ("DecodeError", "label.v1", False),
        ("DecodeError", "summary.v1", True),
    }
