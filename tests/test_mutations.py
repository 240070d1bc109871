"""Each safeguard of the line, switched off, must turn a test red: else nobody would notice its loss."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra", "tests")

MUTATIONS = {
    "dedupe": (
        "stream_processors/admission.py",
        "    if envelope.msg_no not in marks:\n        return False",
        "    if envelope.msg_no >= 0:\n        return False",
        "tests/stream_processors/test_ingest.py::test_a_resent_message_lands_once_whether_in_one_batch_or_two",
    ),
    "put-if-absent": (
        "stream_processors/checkpoint.py",
        "        return self._parts.commits.put_if_absent(record.task, record.n, record.to_bytes())",
        "        self._parts.commits.put_if_absent(record.task, record.n, record.to_bytes())\n"
        "        return True",
        "tests/stream_processors/test_checkpoint.py::test_a_zombie_cannot_commit_and_its_rows_land_once",
    ),
    "apply check": (
        "feature_store/lake.py",
        "    return applied is None or n > applied",
        "    return True",
        "tests/stream_processors/test_checkpoint.py::test_a_crash_after_any_step_loses_and_duplicates_nothing",
    ),
    "signature check": (
        "schemas/envelope.py",
        "    verifier.verify(signature, _signed_bytes(topic, key, unsigned))",
        "    _signed_bytes(topic, key, unsigned)",
        "tests/stream_processors/test_ingest.py::test_a_header_changed_after_sealing_breaks_the_signature",
    ),
    "digest check": (
        "schemas/envelope.py",
        "    if hashlib.sha256(value).digest() != envelope.digest:",
        "    if False:",
        "tests/stream_processors/test_ingest.py::test_an_altered_message_is_dead_lettered_and_loses_nothing_else",
    ),
}


def run_test(folder: Path, test: str) -> int:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--noconftest", "-p", "no:cacheprovider", test]
    return subprocess.run(command, check=False, cwd=folder, capture_output=True, timeout=170).returncode


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_switched_off_safeguard_turns_a_test_red(name, tmp_path):
    file, safeguard, mutation, test = MUTATIONS[name]
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    source = (tmp_path / file).read_text()
    assert source.count(safeguard) == 1, f"{file} no longer holds the safeguard as quoted here"
    assert run_test(tmp_path, test) == 0
    (tmp_path / file).write_text(source.replace(safeguard, mutation))
    assert run_test(tmp_path, test) == 1
