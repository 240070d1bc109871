"""The demo on real parts: it ends by itself balanced, and Ctrl-C ends it cleanly."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]


LINE = ("--no-loop", "--devices", "6", "--seconds", "24")
LOOP = ("--devices", "12", "--seconds", "150", "--seed", "7")


def start(tmp_path, *options):
    env = {**os.environ, "EDGELOOP_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-m", "infra", "demo", *options]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def leftovers(tmp_path):
    """Processes that carry this test's state folder in their command or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(tmp_path) in " ".join(process.cmdline()) or str(tmp_path) in process.environ().get(
                "EDGELOOP_STATE_DIR", ""
            ):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_demo_ends_by_itself_with_books_that_balance(tmp_path):
    report = tmp_path / "report.json"
    process = start(tmp_path, *LINE, "--json", str(report))
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output.decode()
    told = json.loads(report.read_text())
    assert "models" not in told
    rows = told["rows"]
    assert rows["sensed"] == rows["acked"] + rows["filtered"] + rows["evicted"] + rows["refused"]
    assert rows["received"] == rows["landed"] + rows["duplicate"] + rows["quarantined"]
    assert (rows["pending"], rows["in_flight"], rows["lost"]) == (0, 0, 0)
    assert told["bytes"]["sent"] < told["bytes"]["raw"]
    assert leftovers(tmp_path) == []


@pytest.mark.timeout(420)
def test_the_loop_closes_by_itself_and_everything_is_where_it_should_be(tmp_path):
    report = tmp_path / "report.json"
    process = start(tmp_path, *LOOP, "--json", str(report))
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output.decode()
    told = json.loads(report.read_text())
    assert told["balanced"]
    assert told["loop_closed"]
    assert told["devices"]["total"] == told["devices"]["on_latest"] == 12
    assert told["quality"]["gain"]["low"] > 0
    assert [m["status"] for m in told["models"]] == ["published"]
    assert told["models"][0]["gates"]
    assert all(told["models"][0]["gates"].values())
    assert told["wear"]["alarms"] > 0
    assert not told["wear"]["learnt"]
    assert [s["told"] for s in told["scenes"]] == ["tampered_artifact", "unsigned_instruction", "restored"]
    assert leftovers(tmp_path) == []


def test_ctrl_c_ends_a_demo_cleanly_and_leaves_no_process(tmp_path):
    process = start(tmp_path, *LINE)
    spools = tmp_path / "state" / "edge"
    wait_until(lambda: list(spools.glob("*/status.json")), 90, "the fleet to sense")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in output
    assert b"stopped" in output
    wait_until(lambda: leftovers(tmp_path) == [], 20, "all processes to end")
