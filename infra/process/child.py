"""Child processes that never outlive the process that owns them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

import psutil

from infra.process.child_log import log_tail
from schemas.errors import StackError

GUARD = Path(__file__).with_name("child_guard.py")
_LOG_S = 2.0
"""Longest wait for the last lines of a process that has ended; its own children may still hold the log."""
_NOBODY = -1


class ChildProcess:
    """One running command, in its own session, ended when the owner ends (see ``infra.process.child_guard``).

    Its own session, so that Ctrl-C in a terminal reaches the owner only, which then stops its children
    in the right order.

    Args:
        name: Its name in messages.
        command: Program and arguments.
        log_path: Standard output and error are appended here, within a bound (``infra.process.child_guard``);
            None: they go where the owner's go.
        env: The whole environment; None: the owner's.
        grace_s: Time between SIGTERM and SIGKILL when the owner is gone.

    Raises:
        StackError: The program does not exist.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log_path: Path | None,
        env: Mapping[str, str] | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self.name = name
        self.log_path = log_path
        read_end, self._owner_fd = os.pipe()
        self._done_fd, done_end = os.pipe()
        guarded = guarded_command(command, log_path, (read_end, done_end), grace_s)
        try:
            with _appending(log_path) as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own commands only
                    guarded,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=None if env is None else dict(env),
                    pass_fds=[read_end, done_end],
                    start_new_session=True,
                )
        except OSError as exc:
            self._close()
            raise StackError(f"cannot start {name}: {exc}") from exc
        finally:
            os.close(read_end)
            os.close(done_end)
        self.pid = self._process.pid
        self.created = created_at(self.pid)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> bool:
        """True once it has ended, False if it still runs after ``timeout_s``."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM and return without waiting."""
        self.signal(signal.SIGTERM)

    def stop(self, timeout_s: float = 15.0) -> int:
        """End it: SIGTERM, then SIGKILL after ``timeout_s``. Returns its exit code."""
        self.terminate()
        if not self.wait(timeout_s):
            self.kill()
        return self._reap()

    def kill(self) -> int:
        """End it at once with SIGKILL. Returns its exit code."""
        self.signal(signal.SIGKILL)
        return self._reap()

    def log_tail(self, lines: int = 12) -> list[str]:
        """The last lines of its log; empty without a log."""
        if self.log_path is None:
            return []
        self.await_log()
        return log_tail(self.log_path, lines)

    def await_log(self) -> None:
        """Return once the log holds all that the process printed; at once while it runs."""
        if self.log_path is not None and self._done_fd >= 0 and self.exit_code is not None:
            select.select([self._done_fd], [], [], _LOG_S)

    def _reap(self) -> int:
        code = self._process.wait()
        self.await_log()
        self._close()
        return code

    def _close(self) -> None:
        for descriptor in (self._owner_fd, self._done_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._owner_fd = self._done_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def guarded_command(
    command: Sequence[str],
    log_path: Path | None,
    owner: tuple[int, int] = (_NOBODY, _NOBODY),
    grace_s: float = 0.0,
) -> list[str]:
    """The command behind its guard, which keeps its log and ends it with its owner.

    Args:
        command: Program and arguments.
        log_path: Its log.
        owner: The pipe ends that the guard reads from and keeps open; without an owner the command lives on.
        grace_s: Time between SIGTERM and SIGKILL when the owner is gone.
    """
    log = "" if log_path is None else str(log_path)
    return [sys.executable, "-I", "-S", str(GUARD), *map(str, owner), str(grace_s), log, *command]


@contextlib.contextmanager
def _appending(path: Path | None) -> Iterator[IO[bytes] | None]:
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        yield log


def created_at(pid: int) -> float:
    """Start time of a living process, UTC seconds."""
    return float(psutil.Process(pid).create_time())


def same_process(pid: int, created: float) -> psutil.Process | None:
    """The process, if it is still the one started at ``created`` (UTC seconds), else None."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) < 1.0 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.Error:
        return None
    return None
