"""Runs one command that ends when its owner does, and writes the command's output to a bounded log.

Started as a script: ``python -I -S child_guard.py OWNER_FD DONE_FD GRACE_S LOG COMMAND...``. It forks a
watcher and becomes the command, so the command keeps the process id that the owner knows.

*The owner.* The watcher holds the read end of a pipe (``OWNER_FD``, -1: no owner) whose write end only the
owner has: end of file means the owner is gone, even if it was killed with -9. A parent-death signal would not
do: Linux sends it when the *thread* that forked ends.

*The log.* The command's standard output and error are a pipe to the watcher, which writes them to the file
``LOG`` (empty: they go where the guard's go) and turns it over when it is full. So the log is bounded
whatever writes it, a Java broker and C libraries included. ``DONE_FD`` (-1: none) closes once everything is
written.
"""

import importlib.util
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

POLL_MS = 500
MAX_BYTES = 4 * 1024 * 1024
"""Size at which a log is turned over."""
KEPT = 3
"""How many older files are kept: ``<log>.1`` is the newest of them. A log takes at most 16 MiB."""
LONGEST_LINE = 64 * 1024
_READ_BYTES = 64 * 1024
_ESCAPING = Path(__file__).resolve().parents[2] / "schemas" / "escaping.py"


def main() -> None:
    """Fork the watcher and become the command."""
    owner_fd, done_fd, grace_s, log = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    command = sys.argv[5:]
    ward = os.getpid()
    output, write_end = os.pipe() if log else (-1, -1)
    if os.fork() == 0:
        for ignored in (signal.SIGINT, signal.SIGTERM):  # the ward may take long to end in good order
            signal.signal(ignored, signal.SIG_IGN)
        _close(write_end)
        _Watcher(ward, owner_fd, grace_s, output, BoundedLog(Path(log)) if log else None).run()
        os._exit(0)
    for mine in (owner_fd, done_fd, output):
        _close(mine)
    if log:
        for standard in (1, 2):
            os.dup2(write_end, standard)
        os.close(write_end)
    os.execvp(command[0], command)  # noqa: S606 - the point is to become the command


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)


class BoundedLog:
    """A log file that is turned over when it is full. What cannot be written is counted, and said later.

    Args:
        path: The newest file; its folder exists.
        max_bytes: Size at which it is turned over.
        kept: How many older files are kept.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> None:
        self._path, self._max_bytes, self._kept = path, max_bytes, kept
        self._escaped = _escaping()
        self._file = -1
        self._partial = b""
        self._lost = 0

    def write(self, data: bytes) -> None:
        """Write the complete lines; the rest waits for its end, or until it is too long for a line."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        while len(self._partial) > LONGEST_LINE:
            lines.append(self._partial[:LONGEST_LINE])
            self._partial = self._partial[LONGEST_LINE:]
        if lines:
            self._write_lines(b"\n".join(lines) + b"\n")

    def end(self) -> None:
        """Write a last line that has no end."""
        if self._partial:
            self._partial, rest = b"", self._partial
            self._write_lines(rest + b"\n")

    def _write_lines(self, lines: bytes) -> None:
        # Bytes that are no UTF-8 become escapes too, so that a log is always text.
        safe = self._escaped(lines.decode("utf-8", "backslashreplace")).encode()
        try:
            if self._lost:
                note = f"[{self._lost} bytes of this log could not be written]\n".encode()
                self._append(note)
                self._lost = 0
            self._append(safe)
        except OSError:  # a full disk, or a person removed the folder: the command must go on
            self._lost += len(safe)
            self._drop_file()

    def _append(self, data: bytes) -> None:
        if self._file < 0:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if os.fstat(self._file).st_size + len(data) > self._max_bytes:
            self._turn_over()
        while data:
            data = data[os.write(self._file, data) :]

    def _turn_over(self) -> None:
        self._drop_file()
        older = [self._path.with_name(f"{self._path.name}.{n}") for n in range(self._kept, 0, -1)]
        for source, target in zip([*older[1:], self._path], older, strict=True):
            if source.exists():
                source.replace(target)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _drop_file(self) -> None:
        _close(self._file)
        self._file = -1


def _escaping() -> Callable[[str], str]:
    """``schemas.escaping.escaped_block``, loaded by its path: an isolated interpreter finds no packages."""
    spec = importlib.util.spec_from_file_location("escaping", _ESCAPING)
    if spec is None or spec.loader is None:
        raise ImportError(str(_ESCAPING))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    escaped: Callable[[str], str] = module.escaped_block
    return escaped


class _Watcher:
    """Ends the ward when its owner is gone, and writes the ward's output, until both are over."""

    def __init__(
        self, ward: int, owner_fd: int, grace_s: float, output: int, log: "BoundedLog | None"
    ) -> None:
        self._ward, self._grace_s, self._log = ward, grace_s, log
        self._owner, self._output = owner_fd, output
        self._kill_at: float | None = None

    def run(self) -> None:
        """Watch until the ward has ended and its output is written."""
        ended = _when_ended(self._ward)
        poll = select.poll()
        for descriptor in (self._owner, self._output, -1 if ended is None else ended):
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN | select.POLLHUP)
        while self._ward_lives() or self._output >= 0:
            forever = ended is not None and self._kill_at is None
            events = dict(poll.poll(None if forever else POLL_MS))
            if ended in events:
                poll.unregister(ended)
            if self._output in events and not self._pump():
                poll.unregister(self._output)
                self._output = -1
            if self._owner in events:
                poll.unregister(self._owner)
                self._owner = -1
                self._signal(signal.SIGTERM)
                self._kill_at = time.monotonic() + self._grace_s
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._signal(signal.SIGKILL)

    def _ward_lives(self) -> bool:
        return os.getppid() == self._ward

    def _signal(self, number: int) -> None:
        """Send a signal. The ward's id cannot be reused while this watcher is its child."""
        if self._ward_lives():
            os.kill(self._ward, number)

    def _pump(self) -> bool:
        """Write what came; False: the last process that could write has ended."""
        data = os.read(self._output, _READ_BYTES)
        if self._log is not None and data:
            self._log.write(data)
        elif self._log is not None:
            self._log.end()
        return bool(data)


def _when_ended(pid: int) -> "int | None":
    """A descriptor that becomes readable when the process ends; None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


if __name__ == "__main__":
    main()
