"""Of derived messages only what no broker takes is set aside; originals are read in few spans."""

import os
from collections import Counter

import confluent_kafka as ck
import pytest

from schemas.envelope import MessageSigner
from schemas.topics import AGGREGATE, DEAD_LETTER, TELEMETRY
from stream_processors.engine.kafka_log import KafkaLog
from stream_processors.engine.letters import LARGEST_COPY_BYTES, NEAR, content_of, spans_of
from stream_processors.engine.log_span import LogSpan
from stream_processors.engine.poison_store import split_publishable
from stream_processors.engine.records import CommitRecord, LogIdentity
from stream_processors.job import Derived, RawMessage, dead_letter

IDENTITY = LogIdentity("c", {})


def record(*messages):
    return CommitRecord("task-00", 3, "2026-01-01T00:00:00+00:00", IDENTITY, {}, messages=tuple(messages))


def original(offset, value=b"v", key=b"k", headers=()):
    return RawMessage(TELEMETRY.base, 0, offset, 0, key, list(headers), value)


@pytest.fixture
def kafka(broker, namespace):
    calls = Counter()
    log = KafkaLog(
        broker.bootstrap_servers,
        namespace,
        "test",
        MessageSigner.generate(),
        lambda: calls.update(["progress"]),
    )
    log.calls = calls
    yield log
    log.close()


def published(admin, namespace, topic=DEAD_LETTER):
    return list(admin.read(admin.spans([topic.named(namespace)])))


def send(broker, namespace, topic, messages):
    producer = ck.Producer({"bootstrap.servers": broker.bootstrap_servers, "message.max.bytes": 2_000_000})
    for key, value in messages:
        producer.produce(f"{namespace}.{topic}", key=key, value=value, partition=0)
        producer.poll(0)
    assert producer.flush(30) == 0


@pytest.mark.kafka
def test_a_letter_whose_key_alone_is_too_long_is_published_without_its_bytes(broker, namespace, admin, kafka):
    key = b"x" * 1_039_850
    send(broker, namespace, TELEMETRY.base, [(key, b"")])
    letter = dead_letter(original(0, b"", key), "DecodeError", "the key is too long")
    assert kafka.publish(record(letter), {}) == ()
    [found] = published(admin, namespace)
    assert found.key == b"x" * 256
    assert "too_large" in dict(found.headers)


@pytest.mark.kafka
def test_thousands_of_originals_are_read_in_a_few_spans_and_progress_is_reported(
    broker, namespace, admin, kafka
):
    send(broker, namespace, TELEMETRY.base, [(b"k", b"%d" % i) for i in range(4_110)])
    letters = [dead_letter(original(i), "DecodeError", "no") for i in range(0, 4_110, 2)]
    assert kafka.publish(record(*letters), {}) == ()
    values = Counter(m.value for m in published(admin, namespace))
    assert values == Counter(b"%d" % i for i in range(0, 4_110, 2))
    assert kafka.calls["progress"] > 3


@pytest.mark.kafka
def test_a_derived_message_that_the_broker_refuses_is_reported_and_the_others_are_published(
    broker, namespace, admin, kafka
):
    good = [Derived(AGGREGATE.base, "k", b"%d" % i) for i in range(20)]
    huge = Derived(AGGREGATE.base, "k", os.urandom(2_000_000))
    made_up = Derived("no-such-topic.v1", "k", b"?")
    refused = kafka.publish(record(*good[:10], huge, made_up, *good[10:]), {})
    assert sorted(u.number for u in refused) == [10, 11]
    assert Counter(m.value for m in published(admin, namespace, AGGREGATE)) == Counter(d.value for d in good)


@pytest.mark.kafka
def test_an_original_that_the_log_dropped_is_named_as_lost_and_stops_no_other(
    broker, namespace, admin, kafka
):
    send(broker, namespace, TELEMETRY.base, [(b"k", b"%d" % i) for i in range(10)])
    client = ck.admin.AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    topic = TELEMETRY.named(namespace)
    for future in client.delete_records([ck.TopicPartition(topic, 0, 6)]).values():
        future.result()
    letters = [dead_letter(original(i), "DecodeError", "no") for i in (2, 7)]
    assert kafka.publish(record(*letters), {}) == ()
    found = {dict(m.headers)["source_offset"]: m for m in published(admin, namespace)}
    assert "lost" in dict(found[b"2"].headers)
    assert found[b"7"].value == b"7"


def test_a_message_that_no_broker_takes_is_known_before_it_is_sent():
    good, large = Derived("aggregate.v1", "k", b"x"), Derived("aggregate.v1", "k", b"x" * 1_000_001)
    kept, apart = split_publishable((good, large, good))
    assert kept == (good, good)
    assert [derived for derived, _ in apart] == [large]


@pytest.mark.parametrize("part", ["key", "headers", "value"])
def test_every_part_of_a_message_counts_towards_its_size(part):
    long = b"x" * LARGEST_COPY_BYTES
    message = {
        "key": original(0, key=long),
        "headers": original(0, headers=[("h", long)]),
        "value": original(0, value=long),
    }[part]
    content = content_of(dead_letter(message, "E", "r"), message)
    assert content.bare
    assert content.size < 10_000


def test_near_originals_are_read_in_one_span_and_far_ones_in_another():
    places = [("a.v1", 0, o) for o in (0, 5, 5 + NEAR, 5_000)] + [("b.v1", 0, 6), ("a.v1", 1, 6)]
    assert spans_of(places) == [
        LogSpan("a.v1", 0, 0, 6 + NEAR), LogSpan("a.v1", 0, 5_000, 5_001), LogSpan("a.v1", 1, 6, 7),
        LogSpan("b.v1", 0, 6, 7),
    ]  # fmt: skip
