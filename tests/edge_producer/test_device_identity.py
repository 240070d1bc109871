"""Laws of a device's identity."""

import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge_producer.device_identity import load_or_create
from edge_producer.runner import Runner
from edge_producer.settings import EdgeSettings
from schemas.envelope import MessageVerifier
from schemas.errors import SpoolError
from tests.edge_producer.spool_rig import FirstSample, GivenWindows, bench_profile


def test_identity_is_made_once_and_kept_private(tmp_path):
    first, again = load_or_create(tmp_path, "d-1"), load_or_create(tmp_path, "d-1")
    assert first.secret == again.secret
    assert first.key_id == again.key_id == MessageVerifier(first.public_pem.encode()).key_id
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {0o600}


def test_devices_differ(tmp_path):
    one, two = load_or_create(tmp_path, "d-1"), load_or_create(tmp_path, "d-2")
    assert one.key_id != two.key_id
    assert one.secret != two.secret


def test_a_damaged_key_is_refused_not_replaced(tmp_path):
    load_or_create(tmp_path, "d-1")
    (tmp_path / "d-1.pem").write_text("gone")
    with pytest.raises(SpoolError, match="d-1"):
        load_or_create(tmp_path, "d-1")
    assert (tmp_path / "d-1.pem").read_text() == "gone"


def test_of_processes_that_start_at_once_all_get_the_key_that_is_on_disk(tmp_path):
    """Release 0.2.0 let the last one win: the others signed with a key that nobody could find again."""
    starters = 8
    together = threading.Barrier(starters)

    def start(_number):
        together.wait()
        return load_or_create(tmp_path, "d-1")

    with ThreadPoolExecutor(starters) as pool:
        found = list(pool.map(start, range(starters)))
    kept = load_or_create(tmp_path, "d-1")
    assert {(f.key_id, f.secret) for f in found} == {(kept.key_id, kept.secret)}


def test_a_start_sweeps_old_left_overs_beside_keys_and_status(tmp_path):
    given = EdgeSettings(
        state_dir=tmp_path,
        profile="bench",
        devices=("d-1",),
        bootstrap_servers="127.0.0.1:1",
        drain_timeout_s=0.1,
    )
    kept = load_or_create(given.keys_dir, "d-1")
    old = [
        given.keys_dir / "d-1.pem.part",
        given.keys_dir / f".tmp-d-1.pem.{32 * 'a'}",
        tmp_path / "status.json.part",
    ]
    young, a_users = tmp_path / f".tmp-status.json.{32 * 'a'}", tmp_path / "mine.csv.part"
    for path in (*old, young, a_users):
        path.write_bytes(b"half a")
    for path in (*old, a_users):
        os.utime(path, (time.time() - 7200,) * 2)
    stop = threading.Event()
    stop.set()
    Runner(given, bench_profile(), GivenWindows([]), FirstSample()).run(stop)
    assert young.exists()
    assert a_users.exists()
    assert not any(path.exists() for path in old)
    assert load_or_create(given.keys_dir, "d-1").key_id == kept.key_id
