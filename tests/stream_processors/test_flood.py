"""A flood on a real broker: counted to the message and kept in sums, and nobody else's rows go missing."""

import signal

import confluent_kafka as ck
import pytest

from feature_store import connect
from feature_store.derived_trust import DerivedTrust
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.letter_originals import originals
from infra.kafka.log_view import dead_letters
from schemas.topics import DEAD_LETTER, TELEMETRY, partition_for
from stream_processors.refused_messages import LetterLimits
from tests.simulators.cloud import Feed
from tests.simulators.hostile_batches import GZIP, ZSTD, RawName, batch, send, with_offsets
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]

FLOOD = 30_000
KEY = "machine-00"
FLOODED = partition_for(KEY)


def flood(cloud, n, headers=(), value=b"x"):
    """Unsigned messages under the id of a good device; returns the offsets that they got."""
    offsets = []
    producer = ck.Producer({"bootstrap.servers": cloud.servers, "linger.ms": 20})
    for _ in range(n):
        producer.produce(
            TELEMETRY.named(cloud.namespace), value, KEY, FLOODED, headers=list(headers),
            on_delivery=lambda error, message: offsets.append(message.offset()),
        )  # fmt: skip
        producer.poll(0)
    assert producer.flush(60) == 0
    return offsets


def ask(cloud, query):
    with connect(cloud.lake.root, comments=False) as connection:
        return connection.execute(query).fetchall()


def refused(cloud):
    found = ask(cloud, "SELECT coalesce(sum(messages), 0) FROM refusals WHERE device_id IS NULL")
    return int(found[0][0])


def covered(cloud):
    """Offsets of the flooded partition that rows of `quarantine` stand for, with repeats."""
    spans = ask(cloud, "SELECT _offset, last_offset, n_messages FROM quarantine WHERE NOT verified")
    assert all(last - first + 1 >= n for first, last, n in spans)
    return sum(n for _, _, n in spans)


def letters(cloud):
    admin = KafkaAdmin(cloud.servers)
    trust = DerivedTrust.of(cloud.lake.root)
    found = dead_letters(admin.read(admin.spans([DEAD_LETTER.named(cloud.namespace)])), trust)
    assert all(letter.verified for letter in found)
    return found


def test_good_rows_around_a_flood_land_and_the_flood_is_summed(cloud):
    feed = Feed(cloud)
    cloud.start()
    feed.send(2)
    offsets = flood(cloud, FLOOD)
    feed.send(2)
    cloud.await_landed(feed.rows)
    wait_until(lambda: refused(cloud) == FLOOD, 60, "all of the flood to be counted")
    assert cloud.landed() == (feed.rows, feed.rows)
    assert covered(cloud) == FLOOD
    assert ask(cloud, f"SELECT quarantined, quarantined_messages, landed FROM data_quality "
                      f"WHERE device_id = '{KEY}'") == [(0, 0, feed.rows // 16)]  # fmt: skip
    found = letters(cloud)
    alone, sums = [x for x in found if x.has_bytes], [x for x in found if not x.has_bytes]
    minutes = ask(cloud, "SELECT count(DISTINCT date_trunc('minute', known_at)) FROM quarantine")[0][0]
    assert len(alone) <= LetterLimits().messages * (minutes + 1)
    assert sum(x.messages for x in found) == FLOOD
    assert len(sums) < FLOOD / 1000
    largest = max(sums, key=lambda x: x.messages)
    again = list(originals(largest, KafkaAdmin(cloud.servers), cloud.namespace))
    assert again == [(KEY.encode(), [], b"x")] * largest.messages
    assert set(range(largest.offsets[0][0], largest.offsets[-1][1] + 1)) <= set(offsets)


@pytest.mark.long
def test_batches_that_no_honest_client_sends_stop_nobody_and_hide_nothing(cloud):
    feed, topic = Feed(cloud), TELEMETRY.named(cloud.namespace)
    worker = cloud.start()
    feed.send(1)
    strange = [
        batch(b"a", b"b", headers=[(RawName(), b"")]),
        batch(bytes(200_000_000), codec=ZSTD),
        batch(bytes(50_000_000), codec=GZIP),
        with_offsets(0, 1_000_000),
        batch(*[b""] * 3, headers=[("h", b"")] * 50_000),
    ]
    for content in strange:
        send(cloud.servers, topic, FLOODED, content)
        feed.send(1)
    cloud.await_landed(feed.rows)
    wait_until(lambda: refused(cloud) == 9, 30, "all strange messages to be counted")
    assert (worker.exit_code, cloud.landed()) == (None, (feed.rows, feed.rows))
    assert sum(x.messages for x in letters(cloud)) == 9
    unread = ask(
        cloud, "SELECT reason, n_messages FROM quarantine WHERE reason LIKE '%Error:%' ORDER BY _offset"
    )
    assert [n for _, n in unread] == [2, 1, 1, 1]
    assert [kind in reason for kind, (reason, _) in zip(("utf-8", "unpacks", "unpacks", "offset"), unread,
                                                        strict=True)] == [True] * 4  # fmt: skip


@pytest.mark.long
@pytest.mark.sliced(one_of=2)
@pytest.mark.parametrize("step", ["decide", "conclude"])
def test_a_worker_killed_amid_a_flood_counts_every_message_once(cloud, step):
    feed = Feed(cloud)
    dying = cloud.start("tests.simulators.dying_worker", step, "2")
    cloud.await_settled(dying)
    feed.send(1)
    total = 0
    while dying.exit_code is None:
        total += len(flood(cloud, 2_000))
        dying.wait(0.1)
    assert dying.exit_code == -signal.SIGKILL
    total += len(flood(cloud, 2_000))
    feed.send(1)
    cloud.start()
    cloud.await_landed(feed.rows)
    wait_until(lambda: refused(cloud) >= total, 60, "all of the flood to be counted")
    assert (refused(cloud), covered(cloud)) == (total, total)
    assert sum(x.messages for x in letters(cloud)) == total
    assert cloud.landed() == (feed.rows, feed.rows)
