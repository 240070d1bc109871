"""The keys of the cloud's own processes, and up to where a message may be unsigned."""

import json
import os
import stat
import subprocess
import sys

import pytest

from feature_store.commit_log import CommitLog
from feature_store.derived_trust import SIGNED_BY, DerivedTrust, begin_signing, unsigned_before
from feature_store.lake import Lake
from feature_store.worker_keys import WorkerKeys
from schemas.derived_seal import seal_derived
from schemas.envelope import MessageSigner
from schemas.errors import OperatorError, SignatureError
from schemas.topics import AGGREGATE, ALL_TOPICS, DEVICE_TOPICS, partition_for

KEY, VALUE = b"machine/hall/a/x86", b"{}"
PARTITION = partition_for(KEY.decode())
TOPIC = AGGREGATE.base
ENDS = {TOPIC: 100, "drift.v1": 7, "dead-letter.v1": 7, "lifecycle.v1": 7}


def sealed(signer: MessageSigner, topic: str = TOPIC, key: bytes = KEY):
    return seal_derived(topic, key, [("event_id", b"task-00/0/0")], VALUE, signer)


def log_end(topic: str, _partition: int) -> int:
    return ENDS[topic]


@pytest.fixture
def root(tmp_path):
    return Lake.open(tmp_path / "lake").root


@pytest.fixture
def signer(root) -> MessageSigner:
    return WorkerKeys(root).signer("worker")


def check(root, headers, offset: int = 0, topic: str = TOPIC, partition: int = PARTITION, key: bytes = KEY):
    return DerivedTrust.of(root).check(topic, (partition, offset), key, headers, VALUE)


def test_a_key_is_made_once_kept_private_and_registered(root):
    first = WorkerKeys(root).signer("worker")
    assert WorkerKeys(root).signer("worker").key_id == first.key_id
    path = root / "_workers" / "keys" / f"worker-{os.geteuid()}.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(WorkerKeys(root).verifiers("worker")) == [first.key_id]
    assert WorkerKeys(root).verifiers("engine") == {}


def test_processes_that_start_at_once_share_one_key(root):
    program = (
        "import sys; from pathlib import Path; from feature_store.worker_keys import WorkerKeys;"
        "print(WorkerKeys(Path(sys.argv[1])).signer('worker').key_id)"
    )
    command = [sys.executable, "-c", program, str(root)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    ids = {process.communicate(timeout=60)[0].strip() for process in running}
    assert ids == set(WorkerKeys(root).verifiers("worker"))
    assert len(ids) == 1


def test_every_topic_that_no_device_writes_has_a_role_that_signs_it():
    assert set(SIGNED_BY) == {t.base for t in ALL_TOPICS} - {t.base for t in DEVICE_TOPICS}


def test_a_message_counts_if_a_registered_key_of_the_right_role_signed_it(root, signer):
    begin_signing(root, log_end)
    assert check(root, sealed(signer)) is True
    for headers in ([], sealed(MessageSigner.generate()), sealed(WorkerKeys(root).signer("engine"))):
        with pytest.raises(SignatureError):
            check(root, headers)
    engine = WorkerKeys(root).signer("engine")
    assert check(root, sealed(engine, "lifecycle.v1"), topic="lifecycle.v1") is True


def test_a_true_partial_that_is_copied_to_another_partition_is_refused(root, signer):
    begin_signing(root, log_end)
    with pytest.raises(SignatureError, match="do not belong in partition"):
        check(root, sealed(signer), partition=(PARTITION + 1) % 8)


def test_a_reader_notices_a_key_that_comes_and_one_that_goes(root, signer):
    keys = WorkerKeys(root)
    assert list(keys.verifiers("worker")) == [signer.key_id]
    other = MessageSigner.generate()
    registration = {"format": 1, "role": "worker", "public_key": other.public_pem().decode()}
    path = root / "_workers" / f"{other.key_id}.json"
    path.write_text(json.dumps(registration))
    assert set(keys.verifiers("worker")) == {signer.key_id, other.key_id}
    path.unlink()
    assert list(keys.verifiers("worker")) == [signer.key_id]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"format":1,"role":"worker","public_key":"no pem"}', b"\x00\xff"]
)
def test_a_damaged_registration_stops_nobody_and_is_mended_at_the_next_start(root, signer, content):
    other = WorkerKeys(root).signer("engine")
    (root / "_workers" / f"{signer.key_id}.json").write_bytes(content)
    assert WorkerKeys(root).verifiers("worker") == {}
    assert list(WorkerKeys(root).verifiers("engine")) == [other.key_id]
    WorkerKeys(root).signer("worker")
    assert list(WorkerKeys(root).verifiers("worker")) == [signer.key_id]


def test_a_registration_under_another_keys_name_registers_nothing(root, signer):
    path = root / "_workers" / f"{signer.key_id}.json"
    path.rename(path.with_name("0123456789abcdef.json"))
    assert WorkerKeys(root).verifiers("worker") == {}


def test_a_damaged_private_key_is_put_aside_and_replaced(root, signer, caplog):
    path = root / "_workers" / "keys" / f"worker-{os.geteuid()}.pem"
    path.write_bytes(b"-----BEGIN")
    new = WorkerKeys(root).signer("worker")
    assert set(WorkerKeys(root).verifiers("worker")) == {
        signer.key_id,
        new.key_id,
    }  # the old ones' work counts
    assert f"{path} is damaged" in caplog.text
    assert path.with_suffix(".damaged").read_bytes() == b"-----BEGIN"


def test_a_key_that_cannot_be_kept_is_named(root):
    (root / "_workers").write_text("in the way")
    with pytest.raises(OperatorError, match="cannot use the signing key"):
        WorkerKeys(root).signer("worker")


def test_a_new_lake_accepts_nothing_unsigned(root, signer):
    begin_signing(root, log_end)
    with pytest.raises(SignatureError, match="not signed"):
        check(root, [], offset=0)


def test_what_an_older_release_left_unsigned_is_accepted_up_to_where_signing_began(root, signer):
    CommitLog(root).put_if_absent("task-03", 0, b"{}")
    begin_signing(root, log_end)
    assert check(root, [], offset=99) is False
    assert check(root, sealed(signer), offset=99) is True
    with pytest.raises(SignatureError):
        check(root, [], offset=100)
    with pytest.raises(SignatureError):
        check(root, [(n, c[::-1]) for n, c in sealed(signer) if n != "signer"], offset=100)


def test_the_beginning_is_recorded_once(root):
    CommitLog(root).put_if_absent("task-03", 0, b"{}")
    first = begin_signing(root, log_end)
    later = begin_signing(root, lambda topic, partition: 10**6)
    assert first == later == unsigned_before(root)
    assert later.covers(TOPIC, 7, 99)
    assert not later.covers(TOPIC, 7, 100)
    assert not later.covers(TOPIC, 8, 0)


def test_a_changed_message_is_refused_wherever_it_lies(root, signer):
    CommitLog(root).put_if_absent("task-03", 0, b"{}")
    begin_signing(root, log_end)
    with pytest.raises(SignatureError):
        check(root, [*sealed(signer), ("more", b"x")], offset=3)


def test_a_lake_that_was_set_back_before_it_signed_reads_its_log_again(root, signer):
    CommitLog(root).put_if_absent("task-03", 0, b"{}")
    begin_signing(root, log_end)
    lost = sealed(MessageSigner.generate())  # the key of the newer lake is gone
    assert check(root, lost, offset=50) is False
    with pytest.raises(SignatureError):
        check(root, lost, offset=100)


def test_before_any_worker_signed_nothing_is_called_forged(root):
    assert check(root, []) is False


NEGATIVE = b'{"format":1,"offsets":{"aggregate.v1":{"0":-1}}}'


@pytest.mark.parametrize("content", [b"", b"{", b'{"format":2,"offsets":{}}', NEGATIVE])
def test_a_damaged_record_of_the_beginning_vouches_for_nothing(root, signer, content, caplog):
    CommitLog(root).put_if_absent("task-03", 0, b"{}")
    begin_signing(root, log_end)
    for folder in (root, root / "_copies"):
        (folder / "_workers" / "unsigned_before.json").write_bytes(content)
    assert check(root, sealed(signer)) is True
    with pytest.raises(SignatureError):
        check(root, [], offset=0)
    assert "unsigned_before.json is damaged" in caplog.text
