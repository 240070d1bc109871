"""Hostile messages of every kind among those of good devices: every good row lands, and the line stays up."""

import random
import string

import confluent_kafka as ck
import numpy as np
import pyarrow as pa
import pytest

from feature_store import connect
from feature_store.derived_trust import DerivedTrust
from infra.kafka.log_view import dead_letters
from schemas.envelope import encode_rows
from schemas.lz4_block import pack
from schemas.row_schemas import SUMMARY_ROWS, fingerprint, telemetry_rows
from schemas.topics import DEAD_LETTER, TELEMETRY, Lane, partition_for
from tests.schemas.test_arrow_bounds import compressed_by_arrow
from tests.simulators.cloud import Cloud, Feed
from tests.simulators.faulty_worker import ENDS, RAISES
from tests.simulators.hostile_batches import ZSTD, HostileRecord, RawName, batch_of, send
from tests.simulators.messages import MACHINE, SimDevice
from tests.stream_processors.cohorts import Period, summaries
from tests.stream_processors.poison_rig import in_records
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

HOSTILE = SimDevice("machine-00", spool_id="00000000000000ff")
"""A registered device whose key was stolen, or whose firmware is broken; good devices share its partition."""
LETTERS = 4_110
"""More dead letters than could be copied one by one before a watchdog ends the worker."""


@pytest.fixture
def cloud(broker, namespace, tmp_path):
    with Cloud(broker.bootstrap_servers, namespace, tmp_path) as running:
        yield running


class Stranger:
    """Writes whatever it likes to the broker."""

    def __init__(self, cloud):
        self._cloud = cloud
        self._producer = ck.Producer(
            {"bootstrap.servers": cloud.servers, "message.max.bytes": 1_048_500, "batch.size": 1_000_000}
        )

    def send(self, topic, key, value=b"", headers=()):
        self._produce(topic, key, value, headers)
        assert self._producer.flush(60) == 0

    def send_sealed(self, *messages):
        for sealed in messages:
            self._produce(sealed.topic, sealed.key, sealed.value, sealed.headers)
        assert self._producer.flush(60) == 0

    def _produce(self, topic, key, value, headers):
        self._producer.produce(
            f"{self._cloud.namespace}.{topic}", key=key, value=value, headers=list(headers),
            partition=partition_for(HOSTILE.device_id),
        )  # fmt: skip
        self._producer.poll(0)

    def send_batch(self, records, codec):
        topic = f"{self._cloud.namespace}.{TELEMETRY.base}"
        send(self._cloud.servers, topic, partition_for(HOSTILE.device_id), batch_of(records, codec))


def summary_with(**change):
    table = summaries([Period(HOSTILE.device_id, 0, [5.0] * 5)], **change).select(SUMMARY_ROWS.names)
    [rows] = table.cast(SUMMARY_ROWS).combine_chunks().to_batches()
    value, raw = encode_rows(rows)
    return HOSTILE.seal_value("summary.v1", Lane.SUMMARY, fingerprint(SUMMARY_ROWS), value, 1, raw)


def arrow_bomb():
    """A signed message of under a kilobyte that Arrow would unpack to a hundred megabytes."""
    schema, n = telemetry_rows(MACHINE), 1_000_000
    columns = [
        pa.repeat(pa.scalar("", f.type), n) if pa.types.is_string(f.type)
        else pa.array(np.zeros(n, dtype="int64")).cast(f.type) for f in schema
    ]  # fmt: skip
    raw = compressed_by_arrow(pa.record_batch(columns, schema=schema), "zstd")
    value = pack(raw)
    assert len(value) < 1_000
    return HOSTILE.seal_value(TELEMETRY.base, Lane.LIVE, fingerprint(schema), value, n, len(raw))


def attack(cloud):
    """One message of each kind; those of a stranger first."""
    stranger = Stranger(cloud)
    rng = random.Random(7)
    key = "".join(rng.choices(string.ascii_letters, k=1_039_850)).encode()
    stranger.send(TELEMETRY.base, key)
    stranger.send_batch([HostileRecord(value=bytes(300 * 1024**2))], ZSTD)
    stranger.send_batch([HostileRecord(headers=[(RawName(b"\xff\xfe"), b"x")])], 0)
    stranger.send("aggregate.v1", b"c", b"[" * 100_000)
    stranger.send_sealed(summary_with(max=1e100, m2=1.0))
    stranger.send_sealed(arrow_bomb())
    stranger.send_sealed(HOSTILE.rows(RAISES, 1))
    stranger.send_sealed(HOSTILE.rows(ENDS, 1))


def test_one_message_of_each_kind_among_good_ones_stops_nobody(cloud):
    feed = Feed(cloud)
    cloud.register(HOSTILE, *feed.devices[1:])
    feed.devices = feed.devices[1:]
    cloud.supervise("tests.simulators.faulty_worker")
    feed.send(3)
    attack(cloud)
    feed.send(3)
    cloud.await_landed(feed.rows, 150)
    assert cloud.landed() == (feed.rows, feed.rows)
    worker = cloud.workers[-1]
    assert (len(cloud.workers), worker.exit_code) == (3, None)  # the first two ended over one message
    entries = in_records(cloud.lake.root)
    assert sorted(e.how for e in entries) == ["ended", "raised"]
    assert {e.detail["producer"] for e in entries} == {HOSTILE.device_id}
    query = "SELECT error, count(*) FROM quarantine GROUP BY error"
    refused = dict(connect(cloud.lake.root, comments=False).execute(query).fetchall())
    assert refused == {"PoisonError": 2, "DecodeError": 4, "SignatureError": 1}


@pytest.mark.long
def test_thousands_of_dead_letters_and_a_crash_between_decision_and_publication_end_in_seconds(cloud, admin):
    feed = Feed(cloud)
    cloud.register(HOSTILE, *feed.devices[1:])
    feed.devices = feed.devices[1:]
    sealed = (TELEMETRY.base, Lane.LIVE, "0" * 16, b"x" * 50, 1, 50)
    # Signed, so that each is kept as a letter of its own.
    Stranger(cloud).send_sealed(*(HOSTILE.seal_value(*sealed) for _ in range(LETTERS)))
    dying = cloud.start("tests.simulators.dying_worker", "apply", "1")
    wait_until(lambda: dying.exit_code is not None, 60, "the worker to die after it decided")
    cloud.supervise()
    feed.send(2)
    cloud.await_landed(feed.rows, 150)
    topic, trust = DEAD_LETTER.named(cloud.namespace), DerivedTrust.of(cloud.lake.root)
    wait_until(
        lambda: len(dead_letters(admin.read(admin.spans([topic])), trust)) >= LETTERS, 60, "all letters"
    )
    assert len(cloud.workers) == 2
