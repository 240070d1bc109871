"""The demo on real parts: it ends by itself balanced, and Ctrl-C ends it cleanly."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from infra.stack.stack_file import read_stack
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.faults]


LINE = ("--no-loop", "--devices", "6", "--seconds", "24")
LOOP = ("--devices", "12", "--seconds", "180", "--seed", "7")


def start(tmp_path, *options, launcher=(), report=None):
    """Start a demo; with ``report`` its standard output goes to that file, all else to the pipe."""
    env = {**os.environ, "EDGELOOP_STATE_DIR": str(tmp_path / "state")}
    command = [*launcher, sys.executable, "-m", "infra", "demo", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    if report is None:
        return subprocess.Popen(command, env=env, start_new_session=True, **pipes)
    with report.open("wb") as file:
        pipes = {"stdout": file, "stderr": subprocess.PIPE}
        return subprocess.Popen([*command, "--json"], env=env, start_new_session=True, **pipes)


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
    process = start(tmp_path, *LINE, report=report)
    _, shown = process.communicate(timeout=150)
    assert process.returncode == 0, shown.decode()
    found = json.loads(report.read_text())
    assert "models" not in found
    rows = found["rows"]
    assert rows["sensed"] == rows["acked"] + rows["filtered"] + rows["evicted"] + rows["refused"]
    assert rows["received"] == rows["landed"] + rows["duplicate"] + rows["quarantined"]
    assert (rows["pending"], rows["in_flight"], rows["lost"]) == (0, 0, 0)
    assert found["bytes"]["sent"] < found["bytes"]["raw"]
    assert leftovers(tmp_path) == []


VICTIMS = {
    "model-trainer": "run_collecting",
    "model-gate": "model_trained",
    "model-engine": "published",
    "model-serve": "rollout_started",
    "model-guard": "channel_published",
}
"""Each process of the model service, and the step right after which it is killed."""


class Reaper:
    """Kills each process of a demo's model service once, at its step: pids that the stack names."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.waiting = dict(VICTIMS)

    def check(self) -> None:
        """Kill the processes whose step was taken."""
        taken = self.steps()
        for name, step in list(self.waiting.items()):
            stack = read_stack(self.state)
            entry = next((p for p in stack.processes if p.name == name), None) if stack else None
            if step in taken and entry is not None and entry.is_running:
                os.kill(entry.pid, signal.SIGKILL)
                del self.waiting[name]

    def steps(self) -> set[str]:
        registry = self.state / "models" / "registry.db"
        if not registry.exists():
            return set()
        with closing(sqlite3.connect(f"file:{registry}?mode=ro", uri=True, timeout=5)) as connection:
            with suppress(sqlite3.OperationalError):  # not migrated yet
                return {step for (step,) in connection.execute("SELECT DISTINCT step FROM outbox")}
            return set()


@pytest.mark.long
@pytest.mark.timeout(420)
def test_the_loop_closes_although_each_process_of_the_model_service_is_killed(tmp_path):
    report, reaper = tmp_path / "report.json", Reaper(tmp_path / "state")
    process = start(tmp_path, *LOOP, report=report)
    output: list[bytes] = []
    reading = threading.Thread(target=lambda: output.extend(process.stderr), daemon=True)
    reading.start()

    def over() -> bool:
        reaper.check()
        return process.poll() is not None

    wait_until(over, 400, "the demo's end")
    reading.join()
    process.stderr.close()
    assert report.stat().st_size, b"".join(output).decode()
    assert reaper.waiting == {}
    found = json.loads(report.read_text())
    assert found["balanced"]
    assert found["devices"]["total"] == found["devices"]["on_latest"] == 12
    assert (process.returncode, found["loop_closed"]) == (0, True)
    assert found["quality"]["gain"]["low"] > 0, "the new model is shown to be better, not only measured so"
    published = [m for m in found["models"] if m["status"] == "published"]
    assert published  # a first candidate may be refused: a killed gate leaves less time and fewer rows
    assert all(m["gates"] and all(m["gates"].values()) for m in published)
    assert found["wear"]["alarms"] > 0
    assert not found["wear"]["learnt"]
    assert [s["told"] for s in found["scenes"]] == ["tampered_artifact", "unsigned_instruction", "restored"]
    assert all(s["as_it_should"] for s in found["scenes"])
    assert leftovers(tmp_path) == []


@pytest.mark.long
def test_ctrl_c_ends_a_demo_cleanly_even_where_a_script_started_it_in_the_background(tmp_path):
    """A shell without job control starts ``… &`` with SIGINT ignored; in front it is at its default."""
    process = start(tmp_path, *LINE, launcher=("bash", "-c", 'trap "" INT; exec "$@"', "in-background"))
    spools = tmp_path / "state" / "edge"
    wait_until(lambda: list(spools.glob("*/status.json")), 90, "the fleet to sense")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in output
    assert b"stopped" in output
    wait_until(lambda: leftovers(tmp_path) == [], 20, "all processes to end")
