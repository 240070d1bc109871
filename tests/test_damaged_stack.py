"""Small files of the stack, its workers, labels and backups by damage: each cell of the table is a test."""

import json
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from feature_store.commit_log import CommitLog
from feature_store.derived_trust import begin_signing, unsigned_before
from feature_store.job_status import JobStatus, JobStatusFiles
from feature_store.worker_keys import WorkerKeys
from infra.backup.backup_manifest import BackupManifest, damaged_files, read_manifest, saved_file
from infra.labels.label_outbox import open_outbox
from infra.settings import StackSettings
from infra.stack.kept_port import keep_port, kept_port
from infra.stack.stack import Stack
from infra.stack.stack_file import StackLock, is_held, read_stack
from infra.stack.stack_status import collect_status
from schemas.errors import PipelineError
from schemas.events import Label
from schemas.self_digest import with_digest
from stream_processors.engine.attempts import AttemptMarks, CommitAttempt
from stream_processors.engine.poison_store import PoisonStore
from stream_processors.engine.records import CommitRecord, LogIdentity, SetAside, StoppedJob, TaskState
from stream_processors.engine.stopped import StoppedFiles, stopped_in
from stream_processors.job import RawMessage
from tests.infra.cli import EdgeloopHere
from tests.simulators.promises import DAMAGES, damaged, promises, word
from tests.waiting import wait_until

CELLS = promises("damage: stack")
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
TASK, KNOWN = "task-00", {"aggregate.v1": {"0": 7}}
FILES = {
    "`stack.json`, no stack is up": ("stack.json", "status"),
    "`stack.lock`, no stack is up": ("stack.lock", "status"),
    "`kafka.port`": ("kafka.port", "port"),
    "`kafka.port.json`": ("kafka.port.json", "port"),
    "outbox of labels": ("labels/outbox.db", "labels"),
    "newest number of the outbox": ("labels/outbox.db.newest", "labels"),
    "signing key of the workers": ("lake/_workers/keys/worker-*.pem", "signing"),
    "registration of a worker's key": ("lake/_workers/[0-9a-f]*.json", "signing"),
    "where signing began": ("lake/_workers/unsigned_before.json", "began"),
    "state that was set aside": ("lake/_poison/task-00/*2.json", "set aside"),
    "copy of a stopped job": ("lake/_stopped_jobs/task-00.json", "stopped"),
    "attempt mark": ("lake/_attempts/task-00.json", "attempt"),
    "status of a user's job": ("lake/_jobs/count/00.json", "job"),
    "manifest of a backup": ("backup/backup.json", "backup"),
    "file of a backup": ("backup/state/kafka.port", "backup"),
}
ELSEWHERE = {
    "lake/_poison/task-00/*2.json": "lake/_poison/task-00/000000000001.json",
    "kafka.port": "earlier/kafka.port",
    "kafka.port.json": "earlier/kafka.port.json",
    "labels/outbox.db": "earlier/labels/outbox.db",
    "labels/outbox.db.newest": "earlier/labels/outbox.db.newest",
}
"""What a file held at another moment, where a plain other content would not be the hardest case."""


def a_label(number: int) -> Label:
    return Label(
        label_id=f"l-{number}", device_id="m-1", span_start=NOW, span_end=NOW, label="bearing",
        source="labeller/anna", known_at=NOW,
    )  # fmt: skip


def record(n: int) -> CommitRecord:
    kept = SetAside("state", "drift", f"key-{n}", "ValueError", "it is too large", "raised", {"value": n})
    return CommitRecord(TASK, n, NOW.isoformat(), LogIdentity("c", {}), {}, set_aside=(kept,))


def state() -> TaskState:
    stopped = StoppedJob("ValueError", "a bug", NOW.isoformat(), {"telemetry.v1": 3})
    return TaskState(TASK, 4, {"telemetry.v1": 3}, {}, {}, None, stopped={"drift": stopped})


class Folder:
    """A state folder with one of each file, and each file's reader."""

    def __init__(self, root: Path) -> None:
        self.root, self.lake, self.stopped_files = root, root / "lake", StoppedFiles(root / "lake")
        self.readers = {
            "status": self.status, "port": lambda: kept_port(root)[0], "labels": self.labels,
            "signing": self.signing, "began": lambda: unsigned_before(self.lake).offsets,
            "set aside": lambda: [e["id"] for e in PoisonStore(self.lake).entries() if e["kind"] == "state"],
            "stopped": self.stopped,
            "attempt": lambda: AttemptMarks(self.lake).opened(state()).n,
            "job": self.job, "backup": self.backup,
        }  # fmt: skip

    def make(self) -> None:
        (self.root / "stack.json").write_text("{}"), (self.root / "stack.lock").touch()
        for number, port in enumerate((5001, 41519)):
            keep_port(self.root, port)
            with open_outbox(self.root / "labels" / "outbox.db") as outbox:
                outbox.take([(a_label(number), "machine")])
            if number == 0:
                shutil.copytree(self.root, self.root / "earlier")
        CommitLog(self.lake).put_if_absent(TASK, 0, b"{}")
        begin_signing(self.lake, lambda _topic, _partition: 7)
        self.signing()
        for n in (1, 2):
            PoisonStore(self.lake).keep(record(n))
        StoppedFiles(self.lake).note(state())
        message = RawMessage("telemetry.v1", 0, 3, NOW, b"k", (), b"v")
        AttemptMarks(self.lake).begin(state(), [message])
        JobStatusFiles(self.lake).write(JobStatus("count", TASK, position=3), NOW)
        backup = self.root / "backup"
        (backup / "state").mkdir(parents=True)
        shutil.copy(self.root / "kafka.port", backup / "state")
        files = {"kafka.port": saved_file(backup / "state" / "kafka.port")}
        manifest = BackupManifest(taken_at=NOW, release="1", cut=1, rows={"devices": 5}, files=files)
        (backup / "backup.json").write_bytes(with_digest(manifest.model_dump_json(indent=1).encode()))

    def status(self):
        done = EdgeloopHere(self.root)("down")
        return collect_status(StackSettings(state_dir=self.root))["state"], done.returncode

    def labels(self):
        with open_outbox(self.root / "labels" / "outbox.db") as outbox:
            return [(p.msg_no, json.loads(p.value)["label_id"]) for p in outbox.pending()]

    def signing(self):
        signer = WorkerKeys(self.lake).signer("worker")
        return signer.key_id in WorkerKeys(self.lake).verifiers("worker")

    def stopped(self):
        self.stopped_files.note(state())  # as after every commit
        return [(s["task"], s["job"]) for s in stopped_in(self.lake)]

    def job(self):
        found = JobStatusFiles(self.lake).read("count", TASK)
        return 3 if found is None else found.position

    def backup(self):
        manifest = read_manifest(self.root / "backup")
        if bad := list(damaged_files(self.root / "backup", manifest.files)):
            raise PipelineError(f"{bad[0]} is damaged: use another backup")
        return manifest.rows


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("told"))
    folder.make()
    return folder.root


def test_each_cell_of_the_table_has_its_case():
    assert {file for file, _, _ in CELLS} == set(FILES)
    assert len(CELLS) == len(FILES) * len(DAMAGES)


@pytest.mark.sliced(one_of=8)
@pytest.mark.parametrize(("file", "damage", "promise"), CELLS, ids=[f"{f}: {d}" for f, d, _ in CELLS])
def test_a_damaged_file_is_healed_or_named_and_the_others_are_read(
    told, tmp_path, caplog, file, damage, promise
):
    shutil.copytree(told, tmp_path / "state")
    folder = Folder(tmp_path / "state")
    pattern, part = FILES[file]
    whole = {name: read() for name, read in folder.readers.items()}
    [path] = folder.root.glob(pattern) if part != "status" else [folder.root / pattern]
    if part == "status" and not path.exists():
        path.write_text("{}")
    older = folder.root / ELSEWHERE[pattern] if pattern in ELSEWHERE else None
    if path.stat().st_size == 0:
        path.write_bytes(b"held")
    if part == "labels" and damage == "one bit turned" and path.suffix == ".db":
        path.write_bytes(path.read_bytes().replace(b"bearing", b"bearinf", 1))
    else:
        damaged(path, damage, b'{"format": 1, "n": 77}' if older is None else older.read_bytes())
    caplog.clear()
    caplog.set_level(logging.WARNING)
    if word(promise) in ("healed", "harmless"):
        assert folder.readers[part]() == whole[part]
    elif word(promise) == "named":
        assert folder.readers[part]() != whole[part]
        assert path.name in kept_port(folder.root)[1]
    else:
        with pytest.raises(PipelineError) as caught:
            folder.readers[part]()
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not any(r.exc_info for r in caplog.records)
    for name in folder.readers.keys() - {part}:
        assert folder.readers[name]() == whole[name], name


def test_a_set_aside_file_damaged_in_both_copies_is_one_named_entry_among_the_others(told, tmp_path):
    shutil.copytree(told, tmp_path / "state")
    folder = Folder(tmp_path / "state")
    for path in folder.lake.rglob("_poison/task-00/*1.json"):
        path.write_bytes(b"{")
    damage, other = PoisonStore(folder.lake).entries()
    assert (damage["kind"], other["id"]) == ("damaged", "task-00/2/0")
    assert "000000000001.json cannot be read" in damage["reason"]


def test_an_attempt_mark_with_any_bit_turned_counts_for_nothing(told, tmp_path):
    shutil.copytree(told / "lake" / "_attempts", tmp_path / "_attempts")
    path = tmp_path / "_attempts" / "task-00.json"
    whole = path.read_bytes()
    known = AttemptMarks(tmp_path).opened(state())
    assert known.deaths == 1
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert AttemptMarks(tmp_path).opened(state()) in (known, CommitAttempt(5))


@pytest.fixture(scope="module")
def running(broker, tmp_path_factory):
    """A stack that is up, without processes of its own."""
    folder = tmp_path_factory.mktemp("running")
    given = {"broker": broker.bootstrap_servers, "namespace": "damaged-", "workers": 0, "models": False}
    with Stack(StackSettings(state_dir=folder, **given)):
        yield folder


@pytest.mark.kafka
@pytest.mark.parametrize("name", ["stack.json", "stack.lock"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_stack_that_is_up_writes_its_own_files_anew(running, name, damage):
    path, whole = running / name, read_stack(running)
    if not path.stat().st_size:
        path.write_bytes(b"held")
    damaged(path, damage, b'{"format": 1, "pid": 1}')
    wait_until(lambda: read_stack(running) == whole and is_held(running), 20, f"{name} to be written anew")
    assert not StackLock(running).acquire(), "no second stack starts in the folder"
