"""Laws of `relearn`: the process that runs the device is asked, and nobody else."""

import json
import os
import subprocess
import sys

import pytest

from edge_producer.__main__ import EXIT_DONE, EXIT_FAILED, EXIT_MISUSE
from edge_producer.relearn_requests import RelearnRequests
from infra.stack.edge_processes import ask_to_relearn
from schemas.errors import StackError


def process(state_dir, name, *devices):
    folder = state_dir / "edge" / name
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"decisions": dict.fromkeys(devices, "none")}))
    return folder


def test_the_process_that_has_the_device_is_asked(tmp_path):
    one, two = process(tmp_path, "one", "d-1", "d-2"), process(tmp_path, "two", "d-3")
    assert ask_to_relearn(tmp_path, ["d-3", "d-1"]) == {"d-3": "two", "d-1": "one"}
    assert RelearnRequests(one, ["d-1", "d-2"]).take() == ["d-1"]
    assert RelearnRequests(two, ["d-3"]).take() == ["d-3"]


def test_with_one_unknown_device_none_is_asked(tmp_path):
    one = process(tmp_path, "one", "d-1")
    with pytest.raises(StackError, match="d-9"):
        ask_to_relearn(tmp_path, ["d-1", "d-9"])
    assert RelearnRequests(one, ["d-1"]).take() == []


def test_a_device_in_the_field_is_asked_by_its_own_command(tmp_path):
    given = {"STATE_DIR": str(tmp_path), "PROFILE": "machine", "DEVICES": '["d-1"]'}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGE_")}
    environment |= {f"EDGE_{k}": v for k, v in {**given, "BOOTSTRAP_SERVERS": "x:9"}.items()}

    def run(*arguments):
        command = [sys.executable, "-m", "edge_producer", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert run("relearn").returncode == EXIT_MISUSE
    refused = run("relearn", "d-2")
    assert refused.returncode == EXIT_FAILED
    assert "d-1" in refused.stderr
    assert run("relearn", "d-1").returncode == EXIT_DONE
    assert RelearnRequests(tmp_path, ["d-1"]).take() == ["d-1"]
