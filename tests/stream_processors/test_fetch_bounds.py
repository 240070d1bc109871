"""No batch of the log unpacks without a bound, and none that cannot be read holds up what comes after it."""

import resource

import pytest

from schemas.envelope import UNREADABLE
from stream_processors.engine import fetch_bounds
from stream_processors.engine.fetch_bounds import DECODERS, OversizedBatchError
from stream_processors.engine.log_reader import LogSpan, read_span
from tests.simulators.raw_batches import (
    GZIP,
    LZ4,
    NONE,
    SNAPPY,
    ZSTD,
    HostileRecord,
    Name,
    batch_of,
    send_batch,
)  # fmt: skip

TOPIC = "telemetry.v1"
BOMB = [HostileRecord(value=bytes(64 * 1024**2))] * 2
CODECS = {"gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}


def everything(broker, namespace, partition=0, start=0):
    span = LogSpan(TOPIC, partition, start, 10**9)
    return read_span(broker.bootstrap_servers, f"{namespace}.{TOPIC}", span, 10_000)


def append(broker, namespace, records, codec=NONE, partition=0):
    return send_batch(broker.bootstrap_servers, f"{namespace}.{TOPIC}", partition, batch_of(records, codec))


@pytest.mark.kafka
@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_a_batch_that_unpacks_to_too_much_becomes_one_stand_in_and_nothing_is_held_up(
    broker, namespace, codec
):
    append(broker, namespace, [HostileRecord(value=b"before")], CODECS[codec])
    append(broker, namespace, BOMB, CODECS[codec])
    append(broker, namespace, [HostileRecord(value=b"after")], CODECS[codec])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, reached = everything(broker, namespace)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert [(m.offset, m.value) for m in found] == [(0, b"before"), (1, b""), (3, b"after")]
    assert found[1].headers[0][0] == UNREADABLE
    assert b"offsets 1 to 2 cannot be read" in found[1].headers[0][1]
    assert (reached, grown_mb < 40) == (4, True)


@pytest.mark.kafka
def test_a_second_reader_finds_the_same_messages_wherever_it_begins(broker, namespace):
    append(broker, namespace, [HostileRecord()] * 2)
    append(broker, namespace, BOMB, ZSTD)
    append(broker, namespace, [HostileRecord()] * 2)
    whole, _ = everything(broker, namespace)
    for start in range(6):
        assert everything(broker, namespace, start=start)[0] == [m for m in whole if m.offset >= start]


@pytest.mark.kafka
def test_a_header_whose_name_is_no_text_is_given_on_escaped(broker, namespace):
    odd = HostileRecord(headers=[(Name(b"\xff\xfe"), b"x"), ("plain", b"y")])
    append(broker, namespace, [HostileRecord(value=b"0"), odd, HostileRecord(value=b"2")])
    found, _ = everything(broker, namespace)
    assert [m.value for m in found] == [b"0", b"v", b"2"]
    assert found[1].headers == [("\\xff\\xfe", b"x"), ("plain", b"y")]


@pytest.mark.kafka
def test_a_batch_of_more_messages_than_any_client_sends_becomes_one_stand_in(broker, namespace):
    many = [HostileRecord(key=None, value=None)] * (fetch_bounds.MAX_BATCH_MESSAGES + 1)
    append(broker, namespace, many, ZSTD)
    after = append(broker, namespace, [HostileRecord(value=b"after")])
    found, _ = everything(broker, namespace)
    assert [(m.offset, m.value) for m in found] == [(0, b""), (after, b"after")]


@pytest.mark.kafka
def test_what_one_fetch_can_hold_is_taken_in_bounded_parts(broker, namespace):
    for _ in range(6):
        append(broker, namespace, [HostileRecord(value=bytes(3 * 1024**2))], ZSTD)
    found, reached = everything(broker, namespace)
    assert len(found) == reached < 6
    assert sum(len(m.value) for m in found) < 2 * 8 * 1024**2


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_each_decoder_unpacks_what_clients_pack_and_nothing_beyond_its_bound(codec):
    import aiokafka.codec as client

    pack, unpack = getattr(client, f"{codec}_encode"), DECODERS[f"{codec}_decode"]
    for size in (1, 100_000, fetch_bounds.MAX_BATCH_BYTES):
        assert unpack(pack(b"x" * size)) == b"x" * size
    with pytest.raises(OversizedBatchError):
        unpack(pack(b"x" * (fetch_bounds.MAX_BATCH_BYTES + 1)))
    with pytest.raises(OversizedBatchError):
        unpack(b"no such stream" * 3)


def test_the_bounds_are_the_ones_that_this_processs_consumers_use():
    from aiokafka.consumer import fetcher

    fetch_bounds.install()
    assert fetcher.PartitionRecords is fetch_bounds.BoundedPartitionRecords
