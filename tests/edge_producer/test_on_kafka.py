"""Laws of the line from window to broker, on a real broker and in real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict

import pytest

from edge_producer.clock import SteadyClock
from edge_producer.runner import Runner
from edge_producer.sending.sender import DeliveryReports, Sender
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool import read_books
from edge_producer.status_file import read_status
from schemas.envelope import SealedMessage, decode_rows, read_envelope
from schemas.events import Alert, DeviceState, parse_event
from schemas.packed_schemas import packed_books_rows, packed_summary_rows
from schemas.row_schemas import BOOK_COUNTS, telemetry_rows
from schemas.topics import DEVICE_TOPICS, Lane, Topic, partition_for
from tests.edge_producer.spool_rig import FirstSample, GivenWindows, bench_profile, window
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka

DEVICES = ("d-1", "d-2", "d-3")


class Log:
    """Everything devices have on the broker."""

    def __init__(self, admin, namespace):
        names = {t.named(namespace): t.base for t in DEVICE_TOPICS}
        self.lanes = defaultdict(list)
        self.values = defaultdict(list)
        for message in admin.read(admin.spans(list(names))):
            envelope, _ = read_envelope(message.key, message.headers)
            assert message.partition == partition_for(envelope.producer)
            self.lanes[envelope.producer, envelope.spool_id, envelope.lane].append(
                (envelope.msg_no, envelope.digest)
            )
            if (envelope.msg_no, envelope.digest) not in self.lanes[
                envelope.producer, envelope.spool_id, envelope.lane
            ][:-1]:
                self.values[names[message.topic]].append((envelope, message.value))

    def rows(self, topic, schema):
        return [
            row
            for envelope, value in self.values[topic]
            for row in decode_rows(value, envelope.raw_bytes, schema).to_pylist()
        ]

    def newest_lines(self):
        """The last statement of every line of the books."""
        newest = {}
        for line in sorted(self.rows("books.v1", packed_books_rows()), key=lambda r: r["revision"]):
            newest[line["device_id"], line["boot_id"], line["period_start"], line["stratum"]] = line
        return newest

    def check_numbers(self):
        """Dense numbers in every lane, and one digest a number."""
        for lane, messages in self.lanes.items():
            digests = dict(messages)
            assert len(set(messages)) == len(digests), f"{lane}: two contents under one number"
            assert sorted(digests) == list(range(len(digests))), lane


def settings(folder, broker, namespace, **given):
    defaults = {"pace": "flat_out", "commit_interval_s": 0.1, "linger_s": 0.1, "state_interval_s": 0.5}
    return EdgeSettings(
        state_dir=folder,
        profile="bench",
        devices=DEVICES,
        bootstrap_servers=broker.bootstrap_servers,
        namespace=namespace,
        **{**defaults, **given},
    )


def scores(n):
    return [0.95 if k % 50 in (0, 1) else 0.1 + k % 7 / 20 for k in range(n)]


def run(given, windows, stop=None):
    runner = Runner(given, bench_profile(), GivenWindows(windows), FirstSample())
    return runner.run(stop or threading.Event())


def totals_of(result):
    return {n: sum(getattr(b, n) for b in result.books.values()) for n in BOOK_COUNTS}


def fleet_windows(n, first=0):
    return [window(s, first + k, d) for k, s in enumerate(scores(n)) for d in DEVICES]


def test_everything_sensed_is_acknowledged_after_drain(tmp_path, broker, admin, namespace):
    given = settings(tmp_path, broker, namespace)
    result = run(given, fleet_windows(700))
    assert result.drained
    log = Log(admin, namespace)
    log.check_numbers()
    rows = log.rows("telemetry.v1", telemetry_rows(bench_profile()))
    keys = {(r["device_id"], r["boot_id"], r["seq"]) for r in rows}
    assert len(keys) == len(rows)
    for name, books in result.books.items():
        assert books.balanced
        assert (books.sensed, books.pending, books.evicted, books.refused) == (700, 0, 0, 0)
        assert books.acked == sum(r["device_id"] == name for r in rows)
    assert read_status(given.status_path)["phase"] == "stopped"


def test_the_status_says_where_in_the_log_the_last_of_its_messages_stand(tmp_path, broker, admin, namespace):
    given = settings(tmp_path, broker, namespace)
    run(given, fleet_windows(300))
    log = Log(admin, namespace)
    said = read_status(given.status_path)["log_ends"]
    topics = [topic for topic in DEVICE_TOPICS if log.values.get(topic.base)]
    assert {t.base for t in topics} == set(said)
    for topic in topics:
        spans = admin.spans([topic.named(namespace)])
        ends = {str(p): span.end for (_, p), span in spans.items() if span.end}
        assert said[topic.base] == ends, "nobody else has written"


def test_the_last_statement_of_every_line_has_nothing_pending(tmp_path, broker, admin, namespace):
    result = run(settings(tmp_path, broker, namespace), fleet_windows(300))
    log = Log(admin, namespace)
    newest = log.newest_lines()
    totals = {n: sum(line[n] for line in newest.values()) for n in BOOK_COUNTS}
    assert totals == totals_of(result)
    assert totals["pending"] == 0
    assert all(line["feature_means"] is None for line in newest.values())
    summaries = [
        r for r in log.rows("summary.v1", packed_summary_rows(bench_profile())) if r["feature"] == "score"
    ]
    assert sum(r["n"] for r in summaries) == totals["sensed"]


def test_alerts_and_device_states_are_events_of_their_devices(tmp_path, broker, admin, namespace):
    run(settings(tmp_path, broker, namespace), fleet_windows(120))
    log = Log(admin, namespace)
    alerts = [parse_event(Alert, value) for _, value in log.values["alert.v1"]]
    assert {a.action for a in alerts} == {"inspect", "stop"}
    rows = log.rows("telemetry.v1", telemetry_rows(bench_profile()))
    assert {(a.device_id, a.boot_id, a.seq) for a in alerts} <= {
        (r["device_id"], r["boot_id"], r["seq"]) for r in rows
    }
    states = [parse_event(DeviceState, value) for _, value in log.values["device-state.v1"]]
    assert {s.device_id for s in states if s.pending_rows == 0} == set(DEVICES)


def test_flight_mode_spools_and_live_overtakes_backlog_afterwards(tmp_path, broker, admin, namespace):
    given = settings(tmp_path, broker, namespace, pace="real", backlog_after_s=0.5, message_rows=5)
    given.state_dir.mkdir(exist_ok=True)
    offline = given.state_dir / "offline"
    offline.touch()
    windows = [window(0.85, k, "d-1", due_s=k / 100) for k in range(1000)]
    thread = threading.Thread(target=run, args=(given, windows))
    thread.start()
    wait_until(
        lambda: (read_status(given.status_path) or {"books": {"pending": 0}})["books"]["pending"] > 150
    )
    assert not Log(admin, namespace).lanes
    offline.unlink()
    thread.join(60)
    books = read_books(given.spool_path)["d-1"]
    assert (books.acked, books.pending) == (1000, 0)
    log = Log(admin, namespace)
    log.check_numbers()
    lanes = [envelope.lane for envelope, _ in log.values["telemetry.v1"]]
    assert {Lane.LIVE, Lane.BACKLOG} <= set(lanes)
    assert Lane.BACKLOG in lanes[lanes.index(Lane.LIVE) :], "live rows waited for all of the backlog"


def test_what_could_not_be_sent_goes_out_after_a_restart(tmp_path, broker, admin, namespace):
    given = settings(tmp_path, broker, namespace, drain_timeout_s=0.5)
    (tmp_path / "offline").touch()
    result = run(given, fleet_windows(100))
    assert not result.drained
    assert sum(b.pending for b in result.books.values()) > 0
    (tmp_path / "offline").unlink()
    again = run(settings(tmp_path, broker, namespace), fleet_windows(50, first=100))
    assert again.drained
    assert {b.sensed for b in again.books.values()} == {150}
    Log(admin, namespace).check_numbers()


@pytest.mark.parametrize("score", [0.1, 0.95])
def test_a_spool_that_was_full_is_drained_and_every_row_stated(tmp_path, broker, admin, namespace, score):
    """Full of rows and books, or of alerts, of which nothing gives way."""
    limit = 700_000
    given = settings(tmp_path, broker, namespace, spool_max_bytes=limit, pace="real", drain_timeout_s=0.1)
    (tmp_path / "offline").touch()
    scores_of = [score if k % 3 else 0.1 for k in range(1500)]
    result = run(given, [window(s, k, d, due_s=k / 400) for k, s in enumerate(scores_of) for d in DEVICES])
    assert sum(file.stat().st_size for file in tmp_path.glob("spool.db*")) <= limit
    assert sum(books.evicted for books in result.books.values()) > 0
    (tmp_path / "offline").unlink()
    again = run(settings(tmp_path, broker, namespace, spool_max_bytes=limit), fleet_windows(50, first=2000))
    assert again.drained
    assert [books.sensed for books in again.books.values()] == [1550] * 3
    log = Log(admin, namespace)
    log.check_numbers()
    totals = {n: sum(line[n] for line in log.newest_lines().values()) for n in BOOK_COUNTS}
    assert totals == totals_of(again)
    assert totals["pending"] == 0
    assert len(log.rows("telemetry.v1", telemetry_rows(bench_profile()))) == totals["acked"]


def test_a_message_that_the_client_does_not_send_cannot_have_landed(broker, namespace):
    sender = Sender(broker.bootstrap_servers, namespace, "test", SteadyClock())
    sender.send(1, SealedMessage("telemetry.v1", b"d-1", [], b"x" * 1_200_000))
    [rejection] = sender.poll().rejected
    assert (rejection.id, rejection.too_large, rejection.cannot_have_landed) == (1, True, True)
    sender.close()


def test_a_message_that_the_broker_rejects_is_known_not_to_have_landed_and_the_next_one_goes(broker, admin):
    namespace = f"small{os.getpid()}"
    small = Topic("telemetry.v1", 8, config={"max.message.bytes": "2000"})
    admin.create_topics(namespace, [small])
    sender = Sender(broker.bootstrap_servers, namespace, "test", SteadyClock())
    try:
        outcomes = DeliveryReports()
        for id_, size in ((1, 10_000), (2, 100)):
            sender.send(id_, SealedMessage("telemetry.v1", b"d-1", [], os.urandom(size)))
            wait_until(lambda: gather(sender, outcomes), 30, "an answer")
        [rejection] = outcomes.rejected
        assert (rejection.id, rejection.too_large, rejection.cannot_have_landed) == (1, True, True)
        assert outcomes.acked == [2]
        assert sender.limits.limit("telemetry.v1") == 2000
    finally:
        sender.close()
        admin.delete_topics([small.named(namespace)])


def gather(sender, outcomes):
    """Add the answers that came in; whether nothing is in flight any more."""
    outcomes.add(sender.poll(0.01))
    return not sender.in_flight and not sender.judging


def test_what_is_in_flight_at_a_cut_is_returned(namespace):
    sender = Sender("127.0.0.1:1", namespace, "test", SteadyClock())
    assert sender.send(1, SealedMessage("telemetry.v1", b"d-1", [], b"x"))
    sender.disconnect()
    assert sender.poll().returned == [1]
    assert not sender.send(1, SealedMessage("telemetry.v1", b"d-1", [], b"x"))


def start_edge(folder, broker, namespace, log, **extra):
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("EDGE_")},
        "EDGE_STATE_DIR": str(folder),
        "EDGE_PROFILE": "machine",
        "EDGE_DEVICES": json.dumps(DEVICES),
        "EDGE_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "EDGE_NAMESPACE": namespace,
        "EDGE_SPEED": "5",
        "EDGE_COMMIT_INTERVAL_S": "0.2",
        "EDGE_LINGER_S": "0.1",
        **extra,
    }
    command = [sys.executable, "-m", "edge_producer", "run"]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def ended(process):
    try:
        return process.wait(90)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.faults
def test_kill_9_while_sensing_and_sending_loses_and_doubles_nothing(tmp_path, broker, admin, namespace):
    with (tmp_path / "log").open("wb") as log:
        sensed = 0
        for _ in range(3):
            process = start_edge(tmp_path, broker, namespace, log)
            try:
                wait_until(
                    lambda s=sensed: total(tmp_path, "acked") and total(tmp_path, "sensed") > s + 40, 60
                )
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
            books = read_books(tmp_path / "spool.db").values()
            assert all(b.balanced for b in books)
            sensed = sum(b.sensed for b in books)
        last = start_edge(tmp_path, broker, namespace, log, EDGE_DURATION_S="10")
        assert ended(last) == 0, (tmp_path / "log").read_text()
    check_delivered(tmp_path, admin, namespace, at_least=sensed)


@pytest.mark.faults
def test_sigterm_drains_and_exits_cleanly(tmp_path, broker, admin, namespace):
    with (tmp_path / "log").open("wb") as log:
        process = start_edge(tmp_path, broker, namespace, log)
        try:
            wait_until(lambda: total(tmp_path, "sensed") > 20, 60)
        finally:
            process.send_signal(signal.SIGTERM)
        assert ended(process) == 0, (tmp_path / "log").read_text()
    check_delivered(tmp_path, admin, namespace, at_least=20)


@pytest.mark.long
@pytest.mark.faults
def test_a_dead_broker_costs_nothing_but_time(tmp_path, broker, admin, namespace):
    with (tmp_path / "log").open("wb") as log:
        process = start_edge(tmp_path, broker, namespace, log, EDGE_DURATION_S="100")
        try:
            wait_until(lambda: total(tmp_path, "acked") and total(tmp_path, "sensed") > 30, 60, "a first ack")
            broker.kill()
            at_kill = total(tmp_path, "sensed")
            wait_until(lambda: total(tmp_path, "sensed") > at_kill + 50, 60, "sensing without a broker")
        finally:
            broker.restart()
        assert ended(process) == 0, (tmp_path / "log").read_text()
    check_delivered(tmp_path, admin, namespace, at_least=150)


def total(folder, name):
    path = folder / "spool.db"
    return (
        sum(getattr(b, name) for b in read_books(path).values()) if (folder / "status.json").exists() else 0
    )


def check_delivered(folder, admin, namespace, at_least):
    """After a drain: dense numbers, every row once, as many as the books count."""
    log = Log(admin, namespace)
    log.check_numbers()
    books = read_books(folder / "spool.db")
    schemas = {envelope.schema for envelope, _ in log.values["telemetry.v1"]}
    assert len(schemas) == 1
    n_rows = sum(envelope.n_rows for envelope, _ in log.values["telemetry.v1"])
    assert n_rows == sum(b.acked for b in books.values())
    assert sum(b.sensed for b in books.values()) >= at_least
    for device in books.values():
        assert device.balanced
        assert (device.pending, device.evicted, device.refused) == (0, 0, 0)
