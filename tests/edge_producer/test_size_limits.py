"""Laws of messages that a topic does not take, on a real broker: cut, sealed anew, or blocked; never lost."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from edge_producer.runner import Runner
from edge_producer.spool.spool import Spool, read_books
from edge_producer.status_file import read_status
from schemas.row_schemas import telemetry_rows
from schemas.topics import TELEMETRY
from tests.edge_producer.spool_rig import FirstSample, GivenWindows, bench_profile, window
from tests.edge_producer.test_on_kafka import Log, settings
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka

ALL_ROWS = bench_profile(p=1.0, p_min=1.0, pretrigger=0, burst_after=0)


@pytest.fixture
def limit(broker, namespace):
    """Sets the largest message of ``telemetry.v1``."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})

    def change(size):
        entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, TELEMETRY.named(namespace), incremental_configs=[entry])
        admin.incremental_alter_configs([resource])[resource].result()

    return change


def one_device(tmp_path, broker, namespace, **given):
    return settings(tmp_path, broker, namespace, **given).model_copy(update={"devices": ("d-1",)})


def run(given, windows):
    runner = Runner(given, ALL_ROWS, GivenWindows(windows), FirstSample())
    return runner.run(threading.Event())


def windows(n, first=0):
    return [window(0.1, first + k) for k in range(n)]


def seqs(admin, namespace):
    """(boot, seq) of every row in the log, repeats included."""
    rows = Log(admin, namespace).rows("telemetry.v1", telemetry_rows(ALL_ROWS))
    return [(row["boot_id"], row["seq"]) for row in rows]


def test_messages_are_cut_to_what_the_topic_takes_before_the_first_is_sent(
    tmp_path, broker, admin, namespace, limit
):
    limit(1500)
    result = run(one_device(tmp_path, broker, namespace), windows(600))
    assert result.drained
    assert len(set(seqs(admin, namespace))) == len(seqs(admin, namespace)) == 600
    books = result.books["d-1"]
    assert (books.acked, books.refused, books.pending) == (600, 0, 0)


def test_what_was_sealed_larger_than_the_topic_takes_now_is_sealed_anew_if_it_was_never_tried(
    tmp_path, broker, admin, namespace, limit
):
    given = one_device(tmp_path, broker, namespace, drain_timeout_s=0.2)
    (tmp_path / "offline").touch()
    run(given, windows(300))
    # Sealed while the topic took it; the process died before it was handed over, and the spool says so.
    seal_all(given, never_tried=True)
    limit(1500)
    (tmp_path / "offline").unlink()
    result = run(one_device(tmp_path, broker, namespace), windows(10, first=300))
    assert result.drained, result
    assert sorted(set(seqs(admin, namespace))) == sorted(seqs(admin, namespace))
    assert len(seqs(admin, namespace)) == 310
    assert read_status(given.status_path)["counters"]["messages_resealed"] == 1


def seal_all(given, *, never_tried):
    """Seal what waits into one large message, as a process that knew no limit would."""
    from edge_producer.device_identity import load_or_create
    from edge_producer.sending.sealing import Sealer
    from schemas.topics import Lane

    spool = Spool.open(given.spool_path, given.devices, ALL_ROWS, 1e12)
    signer = load_or_create(given.keys_dir, "d-1").signer
    with spool.transaction():
        rows = spool.rows.read(1, -1.0, float("inf"), 10_000)
        [stored] = Sealer(spool, {"d-1": signer}, ALL_ROWS).rows(1, Lane.LIVE, rows)
        if never_tried:
            spool.messages.note(stored.id, may_have_landed=False, blocked="")
    spool.close()


def test_what_may_have_landed_is_blocked_and_kept_and_others_go_on_around_it(
    tmp_path, broker, admin, namespace, limit
):
    given = one_device(tmp_path, broker, namespace, drain_timeout_s=0.2)
    (tmp_path / "offline").touch()
    run(given, windows(300))
    seal_all(given, never_tried=False)
    limit(1500)
    (tmp_path / "offline").unlink()
    result = run(one_device(tmp_path, broker, namespace), windows(10, first=300))
    assert not result.drained
    assert (result.blocked.messages, result.blocked.rows) == (1, 300)
    assert "telemetry.v1 takes 1500 bytes" in result.blocked.reason
    books = result.books["d-1"]
    assert (books.acked, books.refused, books.pending) == (10, 0, 300)
    assert read_status(given.status_path)["blocked"]["rows"] == 300
    limit(1_040_000)
    result = run(one_device(tmp_path, broker, namespace), windows(10, first=310))
    assert result.drained
    assert (result.blocked.messages, result.books["d-1"].acked) == (0, 320)
    assert len(set(seqs(admin, namespace))) == len(seqs(admin, namespace)) == 320


def test_a_limit_lowered_under_load_costs_no_row_and_doubles_none(tmp_path, broker, admin, namespace, limit):
    given = one_device(
        tmp_path, broker, namespace, pace="real", commit_interval_s=0.2, message_rows=200, linger_s=1.0
    )
    paced = [window(0.1, k, due_s=k / 100) for k in range(900)]
    results = []
    thread = threading.Thread(target=lambda: results.append(run(given, paced)))
    thread.start()
    # Each new connection asks for the limits, the last one some second after the first message.
    wait_until(lambda: len(seqs(admin, namespace)) > 300, 60, "messages of some seconds")
    limit(1500)
    thread.join(120)
    assert results[0].drained, results
    assert len(set(seqs(admin, namespace))) == len(seqs(admin, namespace)) == 900
    counters = read_status(given.status_path)["counters"]
    assert counters["messages_resealed"] >= 1
    assert results[0].books["d-1"].acked == 900


@pytest.mark.faults
def test_a_process_that_ends_with_blocked_messages_says_so_by_its_exit_code(
    tmp_path, broker, namespace, limit
):
    given = one_device(tmp_path, broker, namespace, drain_timeout_s=0.2)
    (tmp_path / "offline").touch()
    run(given, windows(300))
    seal_all(given, never_tried=False)
    (tmp_path / "offline").unlink()
    limit(1500)
    profile, recording = tmp_path / "bench.toml", tmp_path / "r.csv"
    from tests.edge_producer.spool_rig import PROFILE

    profile.write_text(PROFILE.replace("p = 0.3\np_min = 0.05", "p = 1.0\np_min = 1.0"))
    recording.write_text(
        "time,load\n" + "".join(f"2026-03-01T12:{k // 60:02}:{k % 60:02},0.1\n" for k in range(60))
    )
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("EDGE_")},
        "EDGE_STATE_DIR": str(tmp_path),
        "EDGE_PROFILE": str(profile),
        "EDGE_DEVICES": "d-1",
        "EDGE_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "EDGE_NAMESPACE": namespace,
        "EDGE_SOURCE": "replay",
        "EDGE_RECORDING": str(recording),
        "EDGE_PACE": "flat_out",
    }
    command = [sys.executable, "-m", "edge_producer", "run"]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "300 rows are blocked, and kept" in done.stderr.strip().splitlines()[-1]
    assert read_books(Path(tmp_path) / "spool.db")["d-1"].pending == 300
