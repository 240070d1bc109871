"""Stops every process of a running stack for a moment, so that its files can be copied as of one instant."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from infra.process.child import same_process
from infra.stack.stack_file import is_held, read_stack
from schemas.errors import BackupError

RESUMER = Path(__file__).with_name("resumer.py")
BROKER = "kafka"
_STOPPED_S = 5.0


@contextmanager
def frozen(state_dir: Path) -> Iterator[bool]:
    """Freeze the folder's stack while the block runs; yields whether one was up.

    Clients stop before the broker and resume after it. If this process dies, a helper process resumes them.

    Raises:
        BackupError: The stack is starting or stopping, or a process did not stop.
    """
    processes = _processes(state_dir)
    if not processes:
        yield False
        return
    with _resumer(processes):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        _await_stopped(processes)
        yield True


def _processes(state_dir: Path) -> list[psutil.Process]:
    if not is_held(state_dir):
        return []
    stack = read_stack(state_dir)
    if stack is None or stack.state != "ready":
        raise BackupError("the stack is starting or stopping: wait until `edgeloop status` says it is ready")
    entries = sorted(stack.processes, key=lambda entry: entry.name == BROKER)
    found = (same_process(entry.pid, entry.created) for entry in entries)
    return [process for process in found if process is not None]


@contextmanager
def _resumer(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """A process that resumes the others when this one closes the pipe to it, or dies."""
    command = [sys.executable, "-I", "-S", str(RESUMER), *(str(p.pid) for p in reversed(processes))]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as helper:  # noqa: S603  (our own program)
        try:
            yield
        finally:
            assert helper.stdin is not None  # noqa: S101  (it was asked for)
            helper.stdin.close()
            helper.wait()


def _await_stopped(processes: Sequence[psutil.Process]) -> None:
    deadline = time.monotonic() + _STOPPED_S
    for process in processes:
        while True:
            try:
                status = process.status()
            except psutil.NoSuchProcess:
                break
            if status in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_TRACING_STOP):
                break
            if time.monotonic() > deadline:
                raise BackupError(f"process {process.pid} did not stop in {_STOPPED_S:.0f} s: try again")
            time.sleep(0.005)
