"""No fetch is unpacked without a bound, and nothing that cannot be read holds up what comes after it."""

import resource

import pytest

from schemas.topics import TELEMETRY
from stream_processors.engine.fetch_bounds import MAX_TAKEN_BYTES
from stream_processors.engine.log_reader import MAX_READ_BYTES, read_span
from stream_processors.engine.log_span import LogSpan
from stream_processors.unread_range import UnreadRange
from tests.simulators.hostile_batches import (
    GZIP,
    LZ4,
    NONE,
    ZSTD,
    HostileRecord,
    RawName,
    batch_of,
    send,
)

pytestmark = pytest.mark.kafka
BOMB = [HostileRecord(value=bytes(64 * 1024**2))] * 2


def read(broker, namespace, start=0):
    span = LogSpan(TELEMETRY.base, 0, start, 10**9)
    return read_span(broker.bootstrap_servers, TELEMETRY.named(namespace), span, 10_000)


def append(broker, namespace, records, codec=NONE):
    return send(broker.bootstrap_servers, TELEMETRY.named(namespace), 0, batch_of(records, codec))[0]


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_a_batch_that_unpacks_to_too_much_is_one_unread_range_and_holds_up_nothing(broker, namespace, codec):
    append(broker, namespace, [HostileRecord(value=b"before")], codec)
    append(broker, namespace, BOMB, codec)
    append(broker, namespace, [HostileRecord(value=b"after")], codec)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, reached = read(broker, namespace)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert [(m.offset, m.value) for m in found] == [(0, b"before"), (2, b""), (3, b"after")]
    assert isinstance(found[1], UnreadRange)
    assert (reached, grown_mb < 40) == (4, True)


def test_a_second_reader_finds_the_same_messages_wherever_it_begins(broker, namespace):
    append(broker, namespace, [HostileRecord()] * 2)
    append(broker, namespace, BOMB, ZSTD)
    append(broker, namespace, [HostileRecord()] * 2)
    whole, _ = read(broker, namespace)
    for start in range(6):
        assert read(broker, namespace, start)[0] == [m for m in whole if m.offset >= start]


def test_a_header_whose_name_is_no_text_holds_up_nothing(broker, namespace):
    append(broker, namespace, [HostileRecord(headers=[(RawName(b"\xff\xfe"), b"x")])])
    append(broker, namespace, [HostileRecord(value=b"after")])
    found, _ = read(broker, namespace)
    assert (type(found[0]), found[1].value) == (UnreadRange, b"after")


def test_a_fetch_of_many_batches_is_taken_out_a_few_megabytes_at_a_time(broker, namespace):
    """Each is within its bound; five hundred of them would be gigabytes in one call."""
    value = (b"0123456789abcdef" * 65_536)[: 1024**2]
    for _ in range(40):
        append(broker, namespace, [HostileRecord(value=value)], LZ4)
    found, reached = read(broker, namespace)
    assert len(found) == reached < 40
    assert sum(len(m.value) for m in found) <= MAX_READ_BYTES + MAX_TAKEN_BYTES + len(value)
