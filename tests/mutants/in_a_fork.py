"""Does work in a forked process: that needs no new interpreter, and imports nothing a second time."""

import contextlib
import math
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY = 6 << 30
"""Bytes of address space beyond the parent's: a mutant that never stops collecting must not take them all."""
FOLDERS = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where tests write: in memory, if possible, so that a sync costs nothing."""
ASLEEP_S, UNBOUNDED_S = 60.0, 86400.0
"""How long a process with a limit may use no processor at all: it waits for something that never comes."""


def fork(work: Callable[[], Any], cpu_s: float = 0.0) -> tuple[int | None, Any, str]:
    """Does the work in a process of its own.

    Args:
        work: Its answer must be possible to pickle.
        cpu_s: Processor time after which the process ends; 0: no limit. Processor time is the same on a
            machine that does much else.

    Returns:
        Its exit status (None: it was ended after ``ASLEEP_S``), what the work returned, what it printed.
    """
    folder = Path(tempfile.mkdtemp(prefix="mutants-", dir=FOLDERS))
    try:
        sys.stdout.flush()
        with warnings.catch_warnings():
            # From Python 3.12 on it warns where a library has started threads: none of them is used here.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _child(work, folder, cpu_s)
        status = _wait(pid, ASLEEP_S if cpu_s else UNBOUNDED_S)
        answer = folder / "answer"
        printed = (folder / "output").read_text(errors="replace") if (folder / "output").exists() else ""
        return status, pickle.loads(answer.read_bytes()) if answer.exists() else None, printed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _child(work: Callable[[], Any], folder: Path, cpu_s: float) -> None:
    """Never returns: the parent's clean-up is not the child's to do."""
    code = 1
    try:
        os.setsid()
        out = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        if cpu_s:
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(cpu_s), resource.RLIM_INFINITY))
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
        answer = work()
        (folder / "answer").write_bytes(pickle.dumps(answer))
        code = 0
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, asleep_s: float) -> int | None:
    """The exit status once it has ended; None: it used no processor time for so long, and was ended."""
    used, since, ended = -1.0, time.monotonic(), None
    while ended is None and time.monotonic() - since < asleep_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            ended = os.waitstatus_to_exitcode(status)
            break
        if (now := _processor_s(pid)) > used:
            used, since = now, time.monotonic()
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # the child and what it started
    if ended is None:
        os.waitpid(pid, 0)
    return ended


def _processor_s(pid: int) -> float:
    """Processor time of a process and of its children that have ended, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
