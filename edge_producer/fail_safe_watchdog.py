"""The watchdog: a small process that commands the fail-safe when the heartbeat of an edge process stops.

Run as a script, with the standard library alone: it must be small, and start where nothing else does. It
reads its stdin: one line of JSON (``WatchOrder``), then one byte for each heartbeat. ``q`` ends it in order.

Without a heartbeat for ``hold_s`` it runs the commands of the order. Once the edge process is dead (its end
of the pipe is closed), it first takes the lock on the state folder: where another process holds that lock,
that one decides now, and the watchdog ends without a command.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

BEAT, QUIT = b".", b"q"
STDERR_TAIL = 200
TRIES = 3
"""Times that a command is tried which fails or cannot be started."""
AT_ONCE = 8
"""Commands that run at the same time."""
_POLL_S = 0.5


@dataclass(frozen=True)
class CommandResult:
    """What became of a command.

    Attributes:
        outcome: ``done``, ``failed`` or ``timed_out``.
        detail: Why it failed; empty otherwise.
    """

    outcome: str
    detail: str = ""


def run_command(argv: Sequence[str], environment: Mapping[str, str], timeout_s: float) -> CommandResult:
    """Run one command of the device's owner to its end; it and what it started are killed at the timeout."""
    try:
        process = subprocess.Popen(  # noqa: S603  (the argument list is the device owner's own file)
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        return CommandResult("failed", f"cannot run: {exc}")
    deadline = time.monotonic() + timeout_s
    try:
        tail = _read_tail(process, deadline)
        process.wait(max(deadline - time.monotonic(), 0.0))
    except subprocess.TimeoutExpired:
        return CommandResult("timed_out", f"killed after {timeout_s} s")
    finally:
        _kill_group(process)
    if process.returncode != 0:
        return CommandResult("failed", f"ended with {process.returncode}: {tail.decode('utf-8', 'replace')}")
    return CommandResult("done")


def _read_tail(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """The end of the command's stderr, without keeping more; returns when the command has ended."""
    assert process.stderr is not None  # noqa: S101  (it is a pipe)
    tail, handle = b"", process.stderr.fileno()
    while process.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise subprocess.TimeoutExpired(process.args, 0.0)
        if select.select([handle], [], [], min(left, 0.02 if not tail else _POLL_S))[0]:
            read = os.read(handle, 65536)
            if not read:  # the command has closed its stderr: only its end is left to wait for
                process.wait(left)
            tail = (tail + read)[-STDERR_TAIL:]
    while select.select([handle], [], [], 0.0)[0] and (read := os.read(handle, 65536)):
        tail = (tail + read)[-STDERR_TAIL:]
    return tail


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what a command that has timed out, or was left, may still have running; reap the command."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stderr is not None:
        process.stderr.close()


@dataclass(frozen=True)
class WatchOrder:
    """What the watchdog is to do, and when.

    Attributes:
        hold_s: Seconds without a heartbeat after which the commands run.
        timeout_s: A command that runs longer is killed.
        lock: Folder whose lock the deciding process holds.
        commands: Argument list and environment of each device's fail-safe command, by device id.
        actuator_commands: Likewise, of what tells an actuator that is code of a user.
        socket: Path of an actuator's Unix socket; empty: there is none.
        lines: What the socket is told, by device id; each is answered by one line.
        answer_s: Seconds within which it is to answer.
    """

    hold_s: float
    timeout_s: float
    lock: str
    commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]]
    actuator_commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]] = field(default_factory=dict)
    socket: str = ""
    lines: Mapping[str, str] = field(default_factory=dict)
    answer_s: float = 0.0

    def to_line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> WatchOrder:
        """The order from ``to_line``."""
        given: dict[str, Any] = json.loads(line)
        return cls(**given)


class Vigil:
    """Decides from heartbeats and their end whether the commands are due. Pure.

    Args:
        hold_s: Seconds without a heartbeat after which they are.
        now_s: Steady clock.
    """

    def __init__(self, hold_s: float, now_s: float) -> None:
        self._hold_s = hold_s
        self._last_s = now_s
        self._commanded = False
        self.parent_is_dead = False
        self._may_not_wait = False

    def beat(self, now_s: float) -> None:
        """Take note of a heartbeat: the process lives, and commands its own actions again."""
        self._last_s = now_s
        self._commanded = False

    def parent_died(self) -> None:
        """Take note that no heartbeat can come any more."""
        self.parent_is_dead = True

    def end_at_once(self) -> None:
        """Take note that the watchdog itself is about to be ended: once the process is dead, do not wait."""
        self._may_not_wait = True

    def commanded(self) -> None:
        """Take note that the commands ran."""
        self._commanded = True

    @property
    def over(self) -> bool:
        """Whether nothing is left to watch for: the process is dead, and its fail-safe is commanded."""
        return self.parent_is_dead and self._commanded

    def due(self, now_s: float) -> bool:
        """Whether the commands are to run now."""
        if self._commanded:
            return False
        return (self.parent_is_dead and self._may_not_wait) or now_s - self._last_s >= self._hold_s

    def wait_s(self, now_s: float) -> float:
        """Longest time until ``due`` has to be asked again."""
        if self._commanded:
            return _POLL_S
        return min(max(self._last_s + self._hold_s - now_s, 0.0), _POLL_S)


def tell_actuator(path: str, line: str, answer_s: float) -> CommandResult:
    """Tell an actuator behind a Unix socket, over a connection of its own, and read its answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(answer_s)
            link.connect(path)
            link.sendall(line.encode())
            answer = json.loads(_answer(link, time.monotonic() + answer_s))
    except TimeoutError:
        return CommandResult("timed_out", f"no answer within {answer_s} s")
    except (OSError, ValueError, RecursionError) as exc:
        return CommandResult("failed", f"{path}: {exc}")
    if isinstance(answer, dict) and answer.get("ok") is True:
        return CommandResult("done")
    return CommandResult("failed", f"{path}: {answer!r}"[:STDERR_TAIL])


def _answer(link: socket.socket, deadline: float) -> bytes:
    answer = b""
    while not answer.endswith(b"\n"):
        link.settimeout(max(deadline - time.monotonic(), 0.001))
        read = link.recv(4096)
        if not read or len(answer) > STDERR_TAIL * 20:
            raise OSError("it gave no answer")
        answer += read
    return answer


def command_all(order: WatchOrder, report: Callable[[str], object]) -> bool:
    """Command the fail-safe of every device, by each way that there is; whether all succeeded."""
    tries = [
        (name, partial(run_command, argv, environment, order.timeout_s))
        for ways in (order.commands, order.actuator_commands)
        for name, (argv, environment) in ways.items()
    ]
    if order.socket:
        told = partial(tell_actuator, order.socket, answer_s=order.answer_s)
        tries += [(name, partial(told, line)) for name, line in order.lines.items()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda given: _command(given[0], given[1], report), tries))
    return all(results)


def _command(device_id: str, command: Callable[[], CommandResult], report: Callable[[str], object]) -> bool:
    for attempt in range(TRIES):
        result = command()
        report(f"fail-safe of {device_id}: {result.outcome} {result.detail}".rstrip())
        if result.outcome == "done":
            return True
        time.sleep(float(attempt))
    return False


def take_lock(folder: Path) -> int | None:
    """A handle that holds the lock of the deciding process; None where another process holds it.

    Raises:
        OSError: The folder cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def main() -> int:
    """Watch until the process that started it says ``q``, or is dead and its fail-safe is commanded."""
    line, rest = _first_line()
    order = WatchOrder.from_line(line)
    vigil = Vigil(order.hold_s, time.monotonic())
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda _number, _frame: vigil.end_at_once())
    if QUIT in rest:
        return 0
    while not vigil.over:
        if vigil.due(time.monotonic()):
            if vigil.parent_is_dead:
                return _take_over(order)
            _report(f"no heartbeat for {order.hold_s} s: commanding the fail-safe")
            command_all(order, _report)
            vigil.commanded()
        elif vigil.parent_is_dead:
            time.sleep(vigil.wait_s(time.monotonic()))
        elif not _listen(vigil):
            return 0
    return 0


def _listen(vigil: Vigil) -> bool:
    """Wait for heartbeats; False once the process has said that it ends in order."""
    if not select.select([0], [], [], vigil.wait_s(time.monotonic()))[0]:
        return True
    read = os.read(0, 4096)
    if not read:
        vigil.parent_died()
    elif QUIT not in read:
        vigil.beat(time.monotonic())
    return QUIT not in read


def _take_over(order: WatchOrder) -> int:
    """Command the fail-safe for a dead process, unless another one decides already."""
    try:
        lock = take_lock(Path(order.lock))
    except OSError:
        lock = -1  # the folder is gone: nobody can decide from it
    if lock is None:
        _report("another process decides: no fail-safe is commanded")
        return 0
    _report(f"the edge process is dead, no heartbeat for {order.hold_s} s: commanding the fail-safe")
    return 0 if command_all(order, _report) else 1


def _first_line() -> tuple[bytes, bytes]:
    """The line with the order, and what has come behind it already."""
    line = b""
    while b"\n" not in line:
        read = os.read(0, 65536)
        if not read:
            raise SystemExit(2)  # the process died before it could say what to do
        line += read
    order, _, rest = line.partition(b"\n")
    return order, rest


def _report(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%Y-%m-%d %H:%M:%S')} WARNING watchdog: {text}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
