"""Laws of backup and restore: one moment, nothing lost in silence, and a fleet that takes its next update."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from feature_store import connect
from infra.backup.frozen_stack import RESUMER
from infra.backup.state_copy import REPLACED
from infra.stack.stack_file import RESTORING
from tests.faults.checker import Checker
from tests.faults.damage import flip_one_bit
from tests.faults.evidence import read_devices
from tests.faults.fault_rig import FaultRig
from tests.faults.loop_faults import begin_rollout, finish_rollout
from tests.waiting import wait_until

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(420)]
REVOKED = "west-4"


def rows(rig: FaultRig) -> int:
    with closing(connect(rig.lake_root, comments=False)) as connection:
        return connection.execute("SELECT count(*) FROM telemetry").fetchone()[0]


def versions(rig: FaultRig) -> dict[str, int]:
    return {role["role"]: role["version"] for role in rig.command.json("trust", "status")}


def known_by_devices(rig: FaultRig) -> dict[str, str]:
    return {d.device: d.version for edge in rig.edges.values() for d in read_devices(edge.folder)}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A stack backed up while it ran, that went on, was restored, and was started again."""
    folder = tmp_path_factory.mktemp("backup")
    told: dict[str, object] = {}
    with FaultRig(folder, seed=5) as rig:
        checker = Checker.of(rig)
        assert checker.await_flow() == ""
        invited = rig.command(
            "fleet", "invite", "late-1", "--profile", "machine", "-o", str(folder / "late.json")
        )
        assert invited.returncode == 0, invited.stderr
        told["backup"] = rig.command.json("backup", str(folder / "saved"))
        told["rows_then"] = told["backup"]["rows"]["telemetry_machine"]
        told["versions_then"] = versions(rig)
        finish_rollout(rig, begin_rollout(rig))
        assert checker.await_flow() == ""
        revoked = rig.command("fleet", "revoke", REVOKED)
        assert revoked.returncode == 0, revoked.stderr
        told["versions_before"], told["rows_before"] = versions(rig), rows(rig)
        told["while_up"] = rig.command("restore", str(folder / "saved"), "--none-revoked")
        rig.command("down")
        told["unasked"] = rig.command("restore", str(folder / "saved"))
        told["restored"] = rig.command.json("restore", str(folder / "saved"), "--none-revoked")
        told["rows_restored"] = rows(rig)
        rig.up()
        told["rig"] = rig
        yield told


def test_a_backup_of_a_running_stack_is_of_one_moment_and_nothing_ends_by_it(told):
    assert told["backup"]["frozen_s"] > 0
    assert told["rows_then"] == told["rows_restored"] > 0


def test_a_restore_is_refused_while_the_stack_is_up_and_asks_for_revocations(told):
    assert told["while_up"].returncode == 1
    assert "edgeloop down" in told["while_up"].stderr
    assert told["unasked"].returncode == 2
    assert "--none-revoked" in told["unasked"].stderr


def test_what_a_restore_loses_is_shown_as_lost_and_kept_aside(told):
    lost = told["restored"]["lost_rows"]
    assert lost["telemetry_machine"] >= told["rows_before"] - told["rows_restored"] > 0
    assert REPLACED in told["restored"]["replaced"]


def test_versions_are_above_what_any_device_knows_and_unused_tokens_are_void(told):
    restored = versions(told["rig"])
    for role, version in told["versions_before"].items():
        if role in ("snapshot", "timestamp", "channels-canary", "channels-broad", "models-machine"):
            assert restored[role] > version, role
    assert told["restored"]["voided_tokens"] == 1


def test_a_device_revoked_after_the_backup_is_revoked_again(told):
    assert REVOKED in told["restored"]["revoked"]


def test_a_fleet_newer_than_the_backup_takes_its_next_update(told):
    rig = told["rig"]
    release = begin_rollout(rig)
    finish_rollout(rig, release)

    def others():
        return {v for d, v in known_by_devices(rig).items() if d != REVOKED}

    wait_until(lambda: others() == {release.version}, 60, f"every device on {release.version}")


def test_a_damaged_backup_is_refused_before_anything_moves(told, tmp_path):
    folder = Path(told["backup"]["folder"])
    manifest = json.loads((folder / "backup.json").read_bytes())
    name = random.Random(4).choice(sorted(n for n, f in manifest["files"].items() if f["size"]))
    flip_one_bit(folder / "state" / name, random.Random(4))
    elsewhere = str(tmp_path / "empty")
    refused = told["rig"].command("--state-dir", elsewhere, "restore", str(folder), "--none-revoked")
    assert refused.returncode == 1
    assert "damaged" in refused.stderr
    assert name in refused.stderr


def test_a_stack_does_not_start_in_a_folder_whose_restore_was_interrupted(told, tmp_path):
    (tmp_path / RESTORING).write_text("half")
    refused = told["rig"].command("--state-dir", str(tmp_path), "up")
    assert refused.returncode == 1
    assert "restore" in refused.stderr


def test_a_backup_that_dies_leaves_no_process_paused():
    with subprocess.Popen(["sleep", "60"]) as paused:
        helper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(RESUMER), str(paused.pid)], stdin=subprocess.PIPE
        )
        os.kill(paused.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(paused.pid).status() == psutil.STATUS_STOPPED, 5, "it to stop")
        helper.stdin.close()  # as the kernel does when the backup's process dies
        wait_until(lambda: psutil.Process(paused.pid).status() != psutil.STATUS_STOPPED, 10, "it to resume")
        helper.wait()
        paused.kill()
