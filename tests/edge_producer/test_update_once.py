"""Laws of the commands: ``update --once`` prints what happened, and ``run`` updates while it senses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from edge_producer.spool.spool import read_books
from edge_producer.status_file import read_status
from edge_producer.updates.update_once import settled
from schemas.profile_file import find_profile
from tests.edge_producer.bundles import misses_golden
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, quick_machine
from tests.simulators.full_disk import FullDisk
from tests.simulators.update_service import candidate
from tests.waiting import wait_until


def environment(folder, devices=("m-1",), **given) -> dict[str, str]:
    fields = {
        "STATE_DIR": str(folder / "edge"),
        "JOIN_DIR": str(folder / "join"),
        "PROFILE": "machine_demo",
        "DEVICES": json.dumps(devices),
        "BOOTSTRAP_SERVERS": "127.0.0.1:9",
        "UPDATE_POLL_S": "1",
        "STOP_TIMEOUT_S": "0.2",
        **given,
    }
    return {**os.environ, "ORT_DISABLE_TELEMETRY": "1", **{f"EDGE_{k}": v for k, v in fields.items()}}


def once(folder, *devices: str) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "edge_producer", "update", "--once"]
    run = subprocess.run(
        command, env=environment(folder, devices), capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    return run.returncode, run.stdout.splitlines()


def test_update_once_updates_every_device_and_prints_it(service, tmp_path):
    for name in ("m-1", "m-2"):
        service.join(tmp_path / "join", name)
    release = service.sign(candidate(1))
    service.instruct(release)
    code, lines = once(tmp_path, "m-1", "m-2")
    assert (code, lines) == (0, [f"{name}: {release.version} idle committed" for name in ("m-1", "m-2")])
    assert once(tmp_path, "m-1", "m-2")[0] == 0, "nothing to do is well, too"


def test_an_update_between_its_commit_and_its_watch_is_not_over(service, tmp_path):
    """``update --once`` once ended there, if the service had been looked at just before."""
    service.join(tmp_path / "join", "m-1")
    service.instruct(service.sign(candidate(1)))
    disk = FullDisk()
    disk.fill(lambda path, _data: path.name == "current.json", 10**9)
    with UpdaterRig(edge_settings(tmp_path), quick_machine(), disk) as rig:
        rig.drive(lambda: rig.state == "committed")
        rig.agent.checked.set()
        assert not settled(rig.agent)
        disk.fill(lambda _path, _data: False)
        rig.drive(lambda: settled(rig.agent))
        assert rig.state == "idle"


def test_update_once_names_the_attack_and_fails(service, tmp_path):
    service.join(tmp_path / "join", "m-1")
    service.artifact_filter = lambda data: data[:-1] + b"?"
    service.instruct(service.sign(candidate(1)))
    code, [line] = once(tmp_path, "m-1")
    assert code == 1
    assert line.startswith(f"m-1: {service.factory.version} idle no_change_refused tampered_artifact")


def test_update_once_restores_what_fails_its_trial(service, tmp_path):
    service.join(tmp_path / "join", "m-1")
    service.instruct(service.sign(misses_golden(1)))
    code, [line] = once(tmp_path, "m-1")
    assert code == 1
    assert line.startswith(f"m-1: {service.factory.version} restored restored")
    assert service.results("m-1") == ["restored"]


def test_update_once_prints_when_the_service_does_not_answer(service, tmp_path):
    service.join(tmp_path / "join", "m-1")
    service.down = True
    code, [line] = once(tmp_path, "m-1")
    assert code == 1
    assert "UNAVAILABLE" in line


def test_misuse_has_its_own_exit_code(tmp_path):
    command = [sys.executable, "-m", "edge_producer", "update"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert "required: --once" in run.stderr


def test_a_running_process_updates_while_it_senses_and_shows_it(service, tmp_path):
    """The whole process, without a broker: the spool keeps every window."""
    names = ["m-1", "m-2"]
    for name in names:
        service.join(tmp_path / "join", name)
    release = service.sign(candidate(1))
    command = [sys.executable, "-m", "edge_producer", "run"]
    given = environment(tmp_path, names, SPEED="8", SHADOW_PREVIOUS="true")
    process = subprocess.Popen(command, env=given, stderr=subprocess.DEVNULL)
    status_path = edge_settings(tmp_path).status_path

    def models() -> dict:
        return (read_status(status_path) or {}).get("models", {})

    try:
        wait_until(lambda: len(service.reports) == 2, 60, "both devices to report")
        service.instruct(release)
        wait_until(
            lambda: all(
                (found := models().get(n, {})).get("result") == "committed" and found["state"] == "idle"
                for n in names
            ),
            60,
            "both devices to commit",
        )
        assert {models()[n]["version"] for n in names} == {release.version}
        assert models()["m-1"]["shadow"]["windows"] >= find_profile("machine_demo").rollout.watch_windows
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        process.kill()
        process.wait()
    status = read_status(status_path)
    assert status["decide_ms"]["n"] == status["counters"]["windows"]
    for books in read_books(edge_settings(tmp_path).spool_path).values():
        assert books.balanced
        assert books.sensed > 0
