"""The cloud first, devices after: a device waits for a cloud that reads what it sends, on a real broker."""

import logging
import threading
import uuid

import pytest

from edge_producer.runner import Runner
from edge_producer.sending.topic_limits import ASK_SOON_S, TopicLimits
from edge_producer.settings import EdgeSettings
from edge_producer.status_file import read_status
from schemas.envelope import decode_rows, read_envelope
from schemas.row_schemas import telemetry_rows, telemetry_rows_of_wire_1
from schemas.topics import ALL_TOPICS, PROVISIONED_TOPICS, WIRE_READ
from tests.edge_producer.spool_rig import (
    FirstSample,
    GivenWindows,
    bench_profile,
    sealed_by_0_2_0,
    window,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka

PROFILE = bench_profile(p=1.0, p_min=1.0)


@pytest.fixture
def older(admin):
    """Namespace of a cloud of release 0.2.0: all its topics."""
    name = f"t{uuid.uuid4().hex[:10]}"
    admin.create_topics(name, ALL_TOPICS)
    yield name
    admin.delete_topics([t for t in admin.topics() if t.startswith(f"{name}.")])


def run(folder, broker, namespace, first, n):
    """One process over n windows, with a high score among them."""
    given = EdgeSettings(
        state_dir=folder,
        profile="bench",
        devices=("d-1",),
        bootstrap_servers=broker.bootstrap_servers,
        namespace=namespace,
        pace="flat_out",
        commit_interval_s=0.1,
        drain_timeout_s=3.0 if first == 0 else 30.0,
    )
    scores = [0.95 if k == n // 2 else 0.1 for k in range(n)]
    windows = [window(score, first + k) for k, score in enumerate(scores)]
    result = Runner(given, PROFILE, GivenWindows(windows), FirstSample()).run(threading.Event())
    return result, read_status(given.status_path)


def sent(admin, namespace, topic):
    return list(admin.read(admin.spans([f"{namespace}.{topic}"])))


def test_a_device_waits_with_one_clear_line_and_sends_everything_once_the_cloud_reads_it(
    tmp_path, broker, admin, older, caplog
):
    with caplog.at_level(logging.WARNING):
        result, status = run(tmp_path, broker, older, 0, 40)
    lines = [r.getMessage() for r in caplog.records if "earlier release" in r.getMessage()]
    assert lines == [status["waits_because"]]
    assert f"no topic {older}.{WIRE_READ.base}" in lines[0]
    assert status["stalled"]
    assert not result.drained
    assert (result.books["d-1"].pending, result.books["d-1"].acked) == (40, 0)
    for topic in ("telemetry.v1", "books.v1", "summary.v1"):
        assert sent(admin, older, topic) == []
    assert len(sent(admin, older, "alert.v1")) > 0, "alerts do not wait"
    admin.create_topics(older)
    result, status = run(tmp_path, broker, older, 40, 10)
    assert result.drained
    assert (status["waits_because"], result.books["d-1"].acked) == ("", 50)
    rows = [row for m in sent(admin, older, "telemetry.v1") for row in decoded(m, telemetry_rows(PROFILE))]
    assert len({(r["boot_id"], r["seq"]) for r in rows}) == len(rows) == 50


def decoded(message, schema):
    envelope, _ = read_envelope(message.key, message.headers)
    return decode_rows(message.value, envelope.raw_bytes, schema).to_pylist()


def test_what_0_2_0_had_sealed_leaves_for_a_cloud_of_0_2_0(tmp_path, rigs, broker, admin, older):
    rig = rigs(tmp_path, PROFILE)
    rig.sense([0.1] * 6)
    rig.flush()
    sealed_by_0_2_0(rig)
    rig.close()
    result, _ = run(tmp_path, broker, older, 0, 4)
    [message] = sent(admin, older, "telemetry.v1")
    assert [r["seq"] for r in decoded(message, telemetry_rows_of_wire_1(PROFILE))] == list(range(6))
    assert (result.books["d-1"].acked, result.books["d-1"].pending) == (6, 4)


def test_a_running_device_asks_again_until_the_cloud_reads(broker, admin, older):
    now = [0.0]
    topics = {topic.base: topic.named(older) for topic in PROVISIONED_TOPICS}
    limits = TopicLimits(broker.bootstrap_servers, topics, lambda: now[0])

    def answered(times: int) -> bool:
        limits.poll(reachable=True)
        return limits.answers >= times

    wait_until(lambda: answered(1), 30, "an answer")
    assert limits.cloud_is_older
    admin.create_topics(older, [WIRE_READ])
    now[0] += ASK_SOON_S
    wait_until(lambda: answered(2), 30, "an answer")
    assert (limits.cloud_is_older, limits.why_wait) == (False, "")


def test_a_device_that_is_not_told_sends(older):
    topics = {topic.base: topic.named(older) for topic in PROVISIONED_TOPICS}
    limits = TopicLimits("127.0.0.1:1", topics, lambda: 0.0)
    assert not limits.cloud_is_older
