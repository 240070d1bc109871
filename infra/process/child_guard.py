"""Runs one command that ends when its owner does, even when the owner is killed with -9.

Started as a script: ``python -I -S child_guard.py PIPE_FD GRACE_S COMMAND...``. It forks a watcher and
becomes the command, so the command keeps the process id that the owner knows. The watcher holds the read end
of a pipe whose write end only the owner has: end of file means the owner is gone. A parent-death signal would
not do: Linux sends it when the *thread* that forked ends.
"""

import os
import select
import signal
import sys

POLL_MS = 500


def main() -> None:
    """Fork the watcher and become the command."""
    pipe_fd, grace_s, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    ward = os.getpid()
    if os.fork() == 0:
        _watch(ward, pipe_fd, grace_s)
        os._exit(0)
    os.close(pipe_fd)
    os.execvp(command[0], command)  # noqa: S606 - the point is to become the command


def _watch(ward: int, pipe_fd: int, grace_s: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the ward may take long to end in good order
    ended = _when_ended(ward)
    poll = select.poll()
    poll.register(pipe_fd, select.POLLIN | select.POLLHUP)
    if ended is not None:
        poll.register(ended, select.POLLIN)
    while os.getppid() == ward:
        events = dict(poll.poll(None if ended is not None else POLL_MS))
        if pipe_fd in events:
            _end(ward, ended, grace_s)
            return


def _when_ended(pid: int) -> "int | None":
    """A descriptor that becomes readable when the process ends; None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _end(ward: int, ended: "int | None", grace_s: float) -> None:
    """Send SIGTERM, wait, send SIGKILL. The ward's id cannot be reused while this watcher is its child."""
    if os.getppid() != ward:
        return
    os.kill(ward, signal.SIGTERM)
    steps = max(1, int(grace_s * 1000 / POLL_MS))
    for _ in range(steps):
        if select.select([ended] if ended is not None else [], [], [], POLL_MS / 1000)[0]:
            return
        if os.getppid() != ward:
            return
    if os.getppid() == ward:
        os.kill(ward, signal.SIGKILL)


if __name__ == "__main__":
    main()
