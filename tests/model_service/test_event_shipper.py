"""Lifecycle events reach the lake once each, whatever dies in between, and Kafka at least once."""

from datetime import UTC, datetime

import confluent_kafka as ck
import orjson
import pyarrow as pa
import pytest
from sqlalchemy import select, update

import feature_store
from feature_store.commit_log import CommitLog
from feature_store.lake import Lake
from model_service.lifecycle.event_shipper import EventShipper
from model_service.lifecycle.lifecycle_topic import LifecycleTopic
from model_service.registry.database import Registry, note
from model_service.registry.registry_tables import outbox
from schemas import tables
from schemas.derived_seal import check_derived
from schemas.envelope import MessageSigner, MessageVerifier
from schemas.topics import LIFECYCLE
from tests.waiting import wait_until


@pytest.fixture
def registry(tmp_path):
    made = Registry.open(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path)
    yield made
    made.close()


def record(registry, *names):
    with registry.transaction() as connection:
        for name in names:
            note(connection, name, "line-1", "rollout_started", {"version": "machine-1.00000001"})


def landed(lake_root):
    with feature_store.connect(lake_root, comments=False) as connection:
        return sorted(row[0] for row in connection.sql("SELECT event_id FROM lifecycle").fetchall())


def waiting(registry):
    with registry.reading() as connection:
        query = select(outbox.c.event_id).where(outbox.c.shipped_at.is_(None))
        return sorted(connection.execute(query).scalars())


def now():
    return datetime.now(UTC)


def test_each_event_lands_once_and_is_then_at_rest(registry, lake_root):
    shipper = EventShipper(registry, Lake.open(lake_root))
    record(registry, "a", "b")
    assert shipper.step(now()) == 2
    record(registry, "b", "c")
    assert shipper.step(now()) == 1
    assert shipper.step(now()) == 0
    assert landed(lake_root) == ["a", "b", "c"]
    assert waiting(registry) == []


def test_what_landed_before_a_crash_does_not_land_again(registry, lake_root):
    record(registry, "a", "b")
    EventShipper(registry, Lake.open(lake_root)).step(now())
    with registry.transaction() as connection:  # as if killed between the lake's commit and the mark
        connection.execute(update(outbox).values(shipped_at=None))
    record(registry, "c")
    assert EventShipper(registry, Lake.open(lake_root)).step(now()) == 3
    assert landed(lake_root) == ["a", "b", "c"]


def test_a_commit_that_was_decided_and_not_applied_counts_as_landed(registry, lake_root):
    record(registry, "a", "b")
    lake = Lake.open(lake_root)
    lake.ensure_table(tables.LIFECYCLE)
    row = {"event_id": "a", "event_time": now(), "subject": "s", "step": "t", "detail": "{}"}
    rows = [row | {"known_at": now(), "_partition": -1, "_offset": 0, "_row": 0}]
    table = pa.Table.from_pylist(rows, schema=tables.LIFECYCLE.schema)
    files = lake.stage("lifecycle", table, "lifecycle", 0)
    commit = orjson.dumps({"lifecycle": [f.to_json() for f in files]})
    assert CommitLog(lake_root).put_if_absent("lifecycle", 0, commit)  # and killed here
    assert EventShipper(registry, Lake.open(lake_root)).step(now()) == 2
    assert landed(lake_root) == ["a", "b"]


def test_a_broker_that_is_away_holds_nothing_up(registry, lake_root):
    topic = LifecycleTopic("127.0.0.1:1", "nowhere", MessageSigner.generate())
    shipper = EventShipper(registry, Lake.open(lake_root), topic)
    record(registry, "a")
    assert shipper.step(now()) == 0
    assert landed(lake_root) == ["a"]
    assert waiting(registry) == ["a"]
    record(registry, "b")
    shipper.step(now())
    assert landed(lake_root) == ["a", "b"]


@pytest.mark.kafka
def test_events_reach_the_topic_with_their_id(registry, lake_root, broker, namespace):
    signer = MessageSigner.generate()
    topic = LifecycleTopic(broker.bootstrap_servers, namespace, signer)
    shipper = EventShipper(registry, Lake.open(lake_root), topic)
    record(registry, "a", "b")
    wait_until(lambda: (shipper.step(now()), waiting(registry) == [])[1], 30, "shipping")
    topic.close()
    consumer = ck.Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": namespace,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([LIFECYCLE.named(namespace)])
    found = {}

    def read():
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            keys = {signer.key_id: MessageVerifier(signer.public_pem())}
            check_derived(LIFECYCLE.base, message.key(), message.headers(), message.value(), keys)
            found[dict(message.headers())["event_id"].decode()] = orjson.loads(message.value())
        return len(found) == 2

    wait_until(read, 30, "reading")
    consumer.close()
    assert found["a"]["subject"] == "line-1"
    assert found["b"]["detail"] == {"version": "machine-1.00000001"}
    assert landed(lake_root) == ["a", "b"]
