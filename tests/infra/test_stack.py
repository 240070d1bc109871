"""The stack: one owner, everything listed, nothing left behind."""

import grp
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_broker import KafkaBroker
from infra.settings import StackSettings, load_settings
from infra.stack.running import running_stack
from infra.stack.stack import Stack
from infra.stack.stack_file import StackLock, is_held, read_stack
from model_service.processes import PROCESSES
from schemas.errors import StackError
from schemas.profile_file import builtin_profiles
from schemas.topics import ALL_TOPICS
from tests.infra.cli import Edgeloop
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka


@pytest.fixture
def edgeloop(tmp_path: Path) -> Iterator[Edgeloop]:
    """The command in a fresh state folder; whatever it left running is taken down."""
    command = Edgeloop(tmp_path / "state")
    yield command
    command("down")


@pytest.fixture
def settings(tmp_path: Path, broker: KafkaBroker, namespace: str, cache_dir: Path) -> StackSettings:
    """A stack of our own on the session's broker."""
    return StackSettings(
        state_dir=tmp_path / "state",
        cache_dir=cache_dir,
        broker=broker.bootstrap_servers,
        namespace=namespace,
        workers=0,
        models=False,
    )


def living(pids: list[int]) -> list[int]:
    return [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]


def readable(folder: Path, bits: int) -> list[str]:
    """What below a folder has any of these mode bits."""
    found = [p for p in (folder, *folder.rglob("*")) if not p.is_symlink()]
    return [f"{stat.S_IMODE(m):o} {p}" for p in found if (m := p.lstat().st_mode) & bits]


def test_up_status_down_leaves_no_process_and_keeps_the_data(edgeloop: Edgeloop):
    up = edgeloop.json("up")
    status = edgeloop.json("status")
    pids = [up["pid"], *(p["pid"] for p in status["processes"])]
    names = ["kafka", "worker-1", *(f"model-{name}" for name in PROCESSES)]
    assert [p["name"] for p in status["processes"]] == names
    assert (status["state"], status["problems"], len(living(pids))) == ("ready", [], 3 + len(PROCESSES))
    assert [t["name"] for t in status["topics"]] == [t.base for t in ALL_TOPICS]
    assert {lag["lag"] for lag in status["lag"]} == {0}
    assert {p["restarts"] for p in status["processes"]} == {0}
    assert set(builtin_profiles()) <= set(ProfileRegistry(Lake(edgeloop.state_dir / "lake")).profiles())
    KafkaAdmin(up["bootstrap_servers"]).send("dead-letter.v1", b"k", [("error", b"DecodeError")], b"bytes")
    assert [x["error"] for x in edgeloop.json("dlq", "list")] == ["DecodeError"]
    assert readable(edgeloop.state_dir, 0o077) == []
    assert edgeloop.json("down") == {"stopped": True}
    wait_until(lambda: living(pids) == [], 10, "the end of all processes")
    assert edgeloop.json("status")["state"] == "down"
    assert edgeloop.json("down") == {"stopped": False}


@pytest.mark.long
@pytest.mark.faults
def test_a_worker_that_dies_is_started_again_and_none_survives_a_supervisor_that_is_killed(
    edgeloop: Edgeloop,
):
    up = edgeloop.json("up")
    pids = {p["name"]: p["pid"] for p in edgeloop.json("status")["processes"]}
    os.kill(first := pids["worker-1"], signal.SIGKILL)

    def restarted() -> bool:
        found = read_stack(edgeloop.state_dir)
        worker = next(p for p in found.processes if p.name == "worker-1") if found else None
        pids["worker-1"] = worker.pid if worker else first
        return worker is not None and worker.restarts == 1 and worker.is_running and worker.pid != first

    wait_until(restarted, 30, "a new worker")
    os.kill(up["pid"], signal.SIGKILL)
    wait_until(lambda: living(list(pids.values())) == [], 30, "the end of all processes")
    assert edgeloop.json("status")["state"] == "down"
    assert edgeloop.json("down") == {"stopped": False}


def test_the_group_that_the_setting_names_reads_the_data_of_a_stack_and_no_key(
    settings: StackSettings, tmp_path: Path
):
    theirs = sorted({*os.getgroups()} if os.geteuid() else {g.gr_gid for g in grp.getgrall()})
    group = grp.getgrgid(theirs[-1])
    with Stack(settings.model_copy(update={"data_group": group.gr_name, "models": True, "workers": 1})):
        found = read_stack(settings.state_dir)
        wait_until(lambda: all(p.is_running for p in found.processes), 20, "its processes")
    assert readable(settings.state_dir, 0o007) == []
    everything = [p for p in settings.state_dir.rglob("*") if p.is_file()]
    private = [p for p in everything if b"PRIVATE KEY" in p.read_bytes() or p.name == "PASSPHRASE"]
    assert len(private) > 10
    assert {stat.S_IMODE(p.stat().st_mode) for p in private} == {0o600}
    raw = [p for p in settings.lake_root.iterdir() if p.name.startswith("excerpts_")]
    assert raw
    assert {stat.S_IMODE(p.stat().st_mode) for p in raw} == {0o700}, "samples have readers of their own"
    within = {p for folder in raw for p in folder.rglob("*")}
    data = [p for p in everything if not {"keys", "pki", "offline-keys"} & {*p.parts} and p not in within]
    assert {(stat.S_IMODE(p.stat().st_mode), p.stat().st_gid) for p in data} == {(0o640, group.gr_gid)}


@pytest.mark.long
def test_a_stack_comes_back_under_the_addresses_that_it_had(settings: StackSettings):
    with Stack(own_broker := settings.model_copy(update={"broker": None})) as first:
        assert first.site is not None
        before = (first.bootstrap_servers, first.site)
    with Stack(own_broker) as again:
        assert (again.bootstrap_servers, again.site) == before


def test_a_second_stack_in_the_same_folder_is_refused(settings: StackSettings):
    with Stack(settings), pytest.raises(StackError, match=r"is up in .* already: run `edgeloop status`"):
        Stack(settings).start()


def test_two_folders_are_two_stacks(settings: StackSettings, tmp_path: Path):
    other = settings.model_copy(update={"state_dir": tmp_path / "other"})
    with Stack(settings), Stack(other):
        assert is_held(settings.state_dir)
        assert is_held(other.state_dir)


def test_a_command_uses_the_stack_that_is_up_and_leaves_it_up(settings: StackSettings):
    with Stack(settings):
        with running_stack(settings) as found:
            assert found.owned is None
            assert found.bootstrap_servers == settings.broker
        assert is_held(settings.state_dir)


def test_a_command_stops_the_stack_that_it_started(settings: StackSettings):
    with running_stack(settings, "test") as found:
        assert found.owned is not None
        assert read_stack(settings.state_dir).owner == "test"
    assert not is_held(settings.state_dir)
    assert read_stack(settings.state_dir) is None


def test_down_does_not_end_a_command_of_another_terminal(settings: StackSettings):
    with Stack(settings, "demo"):
        result = Edgeloop(settings.state_dir)("down")
        assert (result.returncode, is_held(settings.state_dir)) == (1, True)
        assert "belongs to `edgeloop demo`" in result.stderr


def test_a_failed_start_says_why_and_frees_the_folder(settings: StackSettings):
    unreachable = settings.model_copy(update={"broker": "127.0.0.1:1"})
    with pytest.raises(StackError, match=r"no broker answers at 127\.0\.0\.1:1"):
        Stack(unreachable).start()
    assert not is_held(settings.state_dir)
    assert "no broker answers" in (read_stack(settings.state_dir).error or "")


def test_up_prints_the_reason_of_a_failed_start(tmp_path: Path, broker: KafkaBroker):
    result = Edgeloop(tmp_path)("up", "--port", str(broker.port))
    assert result.returncode == 1
    assert f"error: port {broker.port} is taken" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_stale_stack_file_of_a_recycled_pid_is_nobodys(settings: StackSettings):
    with Stack(settings):
        mine = read_stack(settings.state_dir)
    assert mine.owner_lives
    assert not mine.model_copy(update={"created": mine.created - 3600}).owner_lives


def test_the_lock_goes_with_its_owner(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from infra.stack.stack_file import StackLock;"
        "lock = StackLock(Path(sys.argv[1])); assert lock.acquire();"
        "print('held', flush=True); time.sleep(300)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout.readline() == "held\n"
            assert is_held(tmp_path)
            assert not StackLock(tmp_path).acquire()
        finally:
            owner.kill()
    assert not is_held(tmp_path)


def test_only_one_of_many_gets_the_lock(tmp_path: Path):
    locks = [StackLock(tmp_path) for _ in range(8)]
    won: list[bool] = []
    threads = [threading.Thread(target=lambda lock=lock: won.append(lock.acquire())) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for lock in locks:
        lock.release()
    assert sorted(won) == [False] * 7 + [True]


def test_an_unknown_variable_is_refused(tmp_path: Path):
    with pytest.raises(
        StackError, match=r"unknown variable EDGELOOP_KAFKAPORT: known are .*EDGELOOP_KAFKA_PORT"
    ):
        load_settings({"EDGELOOP_KAFKAPORT": "9092"})


@pytest.mark.parametrize(
    ("given", "variable"),
    [
        ({"broker": "nowhere"}, "EDGELOOP_BROKER"),
        ({"kafka_port": 70000}, "EDGELOOP_KAFKA_PORT"),
        ({"namespace": "a.b"}, "EDGELOOP_NAMESPACE"),
    ],
)
def test_a_value_that_does_not_fit_names_its_variable(given: dict[str, object], variable: str):
    with pytest.raises(StackError, match=variable):
        load_settings({}, **given)
