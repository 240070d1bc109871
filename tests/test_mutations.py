"""Each safeguard of the line, switched off, must turn a test red: else nobody would notice its loss."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("schemas", "feature_store", "edge_producer", "stream_processors", "model_service", "infra", "tests")

MUTATIONS = {
    "dedupe": (
        "stream_processors/ingest/admission.py",
        "    if envelope.msg_no not in marks:\n        return False",
        "    if envelope.msg_no >= 0:\n        return False",
        "tests/stream_processors/test_ingest_job.py::test_a_resent_message_lands_once_whether_in_one_batch_or_two",
    ),
    "put-if-absent": (
        "stream_processors/engine/checkpoint.py",
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
        "tests/stream_processors/test_ingest_job.py::test_a_header_changed_after_sealing_breaks_the_signature",
    ),
    "digest check": (
        "schemas/envelope.py",
        "    if hashlib.sha256(value).digest() != envelope.digest:",
        "    if False:",
        "tests/stream_processors/test_ingest_job.py::test_an_altered_message_is_dead_lettered_and_loses_nothing_else",
    ),
    "artifact hash check": (
        "edge_producer/updates/download.py",
        "        if hashlib.sha256(data).hexdigest() != sha256:",
        "        if False:",
        "tests/edge_producer/test_update_download.py::test_other_bytes_are_refused_and_forgotten",
    ),
    "channel signature": (
        "edge_producer/trust/verifier.py",
        "            if not fits(entry, sent):",
        "            if False:",
        "tests/edge_producer/test_trust_attacks.py"
        "::test_a_document_that_its_role_did_not_sign_is_an_unsigned_instruction",
    ),
    "channel seq check": (
        "edge_producer/trust/instruction.py",
        "    if channel.seq < facts.highest_seq:",
        "    if False:",
        "tests/edge_producer/test_trust_attacks.py::test_an_older_channel_signed_anew_is_replayed",
    ),
    "trial": (
        "edge_producer/updates/installer.py",
        '        if progress == "pass":',
        '        if progress in ("pass", "fail"):',
        "tests/edge_producer/test_updates.py"
        "::test_a_model_that_fails_its_trial_is_restored_told_and_not_tried_again",
    ),
    "fsync of the slot pointer": (
        "schemas/durable.py",
        "            if sync:\n                self.sync(file.fileno(), path)",
        "            if sync:\n                file.fileno()",
        "tests/edge_producer/test_update_slots.py::test_a_switch_that_returned_survives_a_power_cut",
    ),
    "countersigned change": (
        "model_service/trust/proposals.py",
        "    if not _makes_only(published, change, proposal):",
        "    if False:",
        "tests/model_service/test_trust.py::test_a_gate_refuses_a_proposal_that_does_anything_else",
    ),
}


def run_tests(folder: Path, *tests: str, **variables: str) -> int:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--noconftest", "-p", "no:cacheprovider", *tests]
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env = {**inherited, "PYTHONPATH": str(folder), **variables}
    return subprocess.run(
        command, check=False, cwd=folder, env=env, capture_output=True, timeout=170
    ).returncode


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the checkout in which all of these tests pass as long as no safeguard is off."""
    folder = tmp_path_factory.mktemp("copy")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    assert run_tests(folder, *(test for *_, test in MUTATIONS.values())) == 0
    return folder


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_switched_off_safeguard_turns_a_test_red(name, copy):
    file, safeguard, mutation, test = MUTATIONS[name]
    source = (copy / file).read_text()
    assert source.count(safeguard) == 1, f"{file} no longer holds the safeguard as quoted here"
    try:
        (copy / file).write_text(source.replace(safeguard, mutation))
        assert run_tests(copy, test, PYTHONDONTWRITEBYTECODE="1") == 1  # no bytecode of it stays
    finally:
        shutil.copy2(ROOT / file, copy / file)  # with its time, by which the bytecode of the copy is known
