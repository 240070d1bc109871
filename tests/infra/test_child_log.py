"""A child's log: bounded whatever writes it, complete up to its bound, and safe to show."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.process.child import ChildProcess, guarded_command
from infra.process.child_guard import KEPT, LONGEST_LINE, MAX_BYTES, BoundedLog
from infra.process.child_log import LogPosition, log_end, log_tail, read_since
from tests.waiting import wait_until

LINES = "import sys\nfor n in range({n}): sys.{stream}.write(f'{{n:09d}} ' + 'x' * 89 + '\\n')\n"


def files(log: Path) -> list[Path]:
    """The files of a log, oldest first."""
    older = [log.with_name(f"{log.name}.{n}") for n in range(KEPT + 5, 0, -1)]
    return [p for p in (*older, log) if p.exists()]


def python(program: str, log: Path) -> ChildProcess:
    return ChildProcess("child", [sys.executable, "-c", program], log)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_log_of_a_child_that_prints_without_end_is_bounded_and_holds_the_newest(stream, tmp_path):
    log = tmp_path / "child.log"
    with python(LINES.format(n=250_000, stream=stream), log) as child:
        assert child.wait(60)
        assert child.log_tail(1)[0].startswith("000249999 ")
    assert len(files(log)) == 1 + KEPT
    assert max(p.stat().st_size for p in files(log)) <= MAX_BYTES
    numbers = [int(line[:9]) for p in files(log) for line in p.read_text().splitlines()]
    assert numbers == list(range(numbers[0], 250_000))  # nothing is missing between the files


def test_a_reader_goes_on_across_a_turn_over(tmp_path):
    path = tmp_path / "child.log"
    log = BoundedLog(path, max_bytes=1000, kept=KEPT)
    position, seen = log_end(path), b""
    for n in range(500):
        log.write(b"line %04d\n" % n)
        if n % 60 == 7:
            added, position = read_since(path, position)
            seen += added
    seen += read_since(path, position)[0]
    assert [int(line[5:]) for line in seen.splitlines()] == list(range(500))


def test_a_reader_that_comes_too_late_gets_all_that_is_kept(tmp_path):
    path = tmp_path / "child.log"
    log = BoundedLog(path, max_bytes=1000, kept=KEPT)
    log.write(b"line 0000\n")
    start = log_end(path)
    for n in range(1, 3000):
        log.write(b"line %04d\n" % n)
    added, _ = read_since(path, start)
    assert added == b"".join(p.read_bytes() for p in files(path))
    assert read_since(path, LogPosition(1, 0, b""))[0] == added


def test_the_tail_of_a_log_that_was_just_turned_over_reaches_into_the_older_file(tmp_path):
    path = tmp_path / "child.log"
    log = BoundedLog(path, max_bytes=100, kept=KEPT)
    for n in range(12):
        log.write(b"line %04d\n" % n)
    assert len(path.read_text().splitlines()) == 2
    assert log_tail(path, 5) == [f"line {n:04d}" for n in range(7, 12)]
    assert log_tail(tmp_path / "none.log", 5) == []


def test_an_ended_child_has_its_last_words_in_its_log(tmp_path):
    for n in range(8):
        child = python(f"import os; os.write(2, b'last words {n}'); os._exit(7)", tmp_path / "log")
        assert child.wait(20)
        assert child.log_tail(1) == [f"last words {n}"]
        child.stop()


def test_a_program_that_does_not_exist_is_named_in_the_log(tmp_path):
    child = ChildProcess("none", ["/no/such/program"], tmp_path / "log")
    assert child.wait(20)
    assert "/no/such/program" in " ".join(child.log_tail(40)) or "No such file" in " ".join(
        child.log_tail(40)
    )
    child.stop()


def test_a_log_is_text_without_control_characters_whatever_the_child_writes(tmp_path):
    hostile = bytes(range(256)) * 20 + "\u202e\u2028 ordinary: 水\n".encode()
    with python(f"import os; os.write(1, {hostile!r})", tmp_path / "log") as child:
        assert child.wait(20)
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert "ordinary: 水" in text
    assert all(c.isprintable() or c in "\n\t" for c in text)


def test_a_line_without_an_end_takes_no_more_memory_than_a_line(tmp_path):
    log = BoundedLog(tmp_path / "log")
    for _ in range(100):
        log.write(b"x" * LONGEST_LINE)
    assert len((tmp_path / "log").read_text()) >= 98 * LONGEST_LINE - MAX_BYTES
    log.end()


class FullLog(BoundedLog):
    """A log on a disk that is full for a while."""

    full = True

    def _append(self, data: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super()._append(data)


def test_a_full_disk_costs_lines_which_are_counted_and_never_the_child(tmp_path):
    log = FullLog(tmp_path / "log")
    log.write(b"lost one\nlost two\n")
    log.full = False
    log.write(b"kept\n")
    assert (tmp_path / "log").read_text() == "[18 bytes of this log could not be written]\nkept\n"


def test_a_child_outlives_the_folder_of_its_log(tmp_path):
    (tmp_path / "logs").mkdir()
    program = "import sys\nfor line in iter(lambda: sys.stdout.write('x' * 99 + '\\n'), None): pass"
    child = python(program, tmp_path / "logs" / "log")
    wait_until(lambda: files(tmp_path / "logs" / "log")[1:], 30, "a turn over")
    for path in files(tmp_path / "logs" / "log"):
        path.unlink()
    (tmp_path / "logs").rmdir()
    before = cpu_s(child)
    wait_until(lambda: cpu_s(child) > before + 0.2, 30, "the child to go on")
    assert child.exit_code is None
    child.kill()


def cpu_s(child: ChildProcess) -> float:
    return psutil.Process(child.pid).cpu_times().user


def test_a_command_without_an_owner_lives_on_and_its_log_is_kept(tmp_path):
    log = tmp_path / "log"
    program = "import time, os; print(os.getpid(), flush=True); [print('x' * 99) for _ in range(99999)]"
    starter = (
        "import subprocess, sys; p = subprocess.Popen(sys.argv[1:], start_new_session=True); print(p.pid)"
    )
    command = guarded_command([sys.executable, "-c", program], log)
    done = subprocess.run(
        [sys.executable, "-c", starter, *command], capture_output=True, text=True, check=True
    )
    wait_until(lambda: not psutil.pid_exists(int(done.stdout)), 60, "its end")
    wait_until(lambda: sum(p.stat().st_size for p in files(log)) >= 99999 * 100, 20, "its output")
    assert files(log)[0].read_text().splitlines()[0] == done.stdout.strip()


def test_an_owner_that_is_killed_takes_the_child_along_and_its_last_words_are_kept(tmp_path):
    log = tmp_path / "log"
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('ending in good order', flush=True), sys.exit()))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.05); print('x' * 200, flush=True)\n"
    )
    owner = (
        "import sys, time; from pathlib import Path; from infra.process.child import ChildProcess\n"
        "c = ChildProcess('c', [sys.executable, '-c', sys.argv[1]], Path(sys.argv[2]))\n"
        "print(c.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", owner, program, str(log)], stdout=subprocess.PIPE
    ) as process:
        pid = int(process.stdout.readline())
        wait_until(lambda: "ready" in log.read_text(), 20, "the child")
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), 20, "its end")
    wait_until(lambda: log_tail(log, 1) == ["ending in good order"], 20, "its last words")


def test_a_child_that_does_not_end_with_its_owner_is_killed_though_it_goes_on_printing(tmp_path):
    command = ["sh", "-c", "trap '' TERM; while :; do echo deaf; done"]
    owner = (
        "import sys, time; from pathlib import Path; from infra.process.child import ChildProcess\n"
        f"c = ChildProcess('c', {command!r}, Path(sys.argv[1]), grace_s=0.5)\n"
        "print(c.pid, flush=True); time.sleep(600)\n"
    )
    log = tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", owner, str(log)], stdout=subprocess.PIPE) as process:
        pid = int(process.stdout.readline())
        wait_until(lambda: log_tail(log, 1) == ["deaf"], 20, "the child")
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(pid), 20, "its end")
