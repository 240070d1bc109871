"""CPU, memory and end of a process with everything that it started."""

from __future__ import annotations

import subprocess
from contextlib import suppress

import psutil


def cpu_s(root: psutil.Process) -> float:
    """CPU seconds of all threads of a process and of what it started, those included that have ended."""
    used = 0.0
    for process in _tree(root):
        with suppress(psutil.NoSuchProcess):
            used += sum(process.cpu_times()[:4])
    return used


def own_cpu_s(root: psutil.Process) -> float:
    """CPU seconds of all threads of a process, without what it started."""
    return sum(root.cpu_times()[:2])


def rss_mb(root: psutil.Process) -> float:
    """Resident memory of a process and of what it started, MiB."""
    used = 0.0
    for process in _tree(root):
        with suppress(psutil.NoSuchProcess):
            used += process.memory_info().rss / 1024**2
    return used


def end(process: subprocess.Popen[bytes], wait_s: float = 30.0) -> None:
    """End a process that we started and what it started: politely, then not."""
    with suppress(psutil.NoSuchProcess):
        tree = _tree(psutil.Process(process.pid))
        for one in tree:
            with suppress(psutil.NoSuchProcess):
                one.terminate()
        _, left = psutil.wait_procs([p for p in tree if p.pid != process.pid], wait_s)
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
        for one in (*left, tree[0]):
            with suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return [root]
