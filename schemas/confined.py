"""Ties a child process to its parent's life, and bounds what it takes from the others."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_MEBIBYTE = 1024**2


def confine(parent: int, memory_mb: int, niceness: int) -> None:
    """Confine this process; call it once, at the start.

    The kernel kills it with the thread of the parent that started it. When memory runs out it is the first of
    ours to go, and it leaves no core file.

    Args:
        parent: Process id of the parent.
        memory_mb: Most memory, MiB; an allocation beyond it fails.
        niceness: How far it stands back when others want the CPU, 0 to 19.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
    os.nice(niceness)
    limit, (_, hard) = memory_mb * _MEBIBYTE, resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
