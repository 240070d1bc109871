"""The child in which trials run: ``python -m stream_processors.engine.trial_child FD``.

It is two processes. The first imports what the jobs need, which takes seconds, and then only waits. For the
trials it forks the second, which builds the jobs, limits its own memory and runs them. When that one ends,
for whatever reason, the first says so and forks another in no time. It forks before anything has opened a
lake or started a thread of its own.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import pickle
import resource
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from stream_processors.engine.job_trials import TrialLimits, TrialPlan, TrialRun
from stream_processors.engine.poison import JobFailure
from stream_processors.job import Job

log = logging.getLogger(__name__)

KILL = b"kill"
"""Request to end the second process at once."""
READY = b"ready"
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_MEBIBYTE = 1024**2
FAILED_TO_BEGIN = 3
"""Exit code of a second process that could not build the jobs."""


class _AnnouncedRun(TrialRun):
    """A trial that names each job over the pipe before it begins."""

    def __init__(self, jobs: Sequence[Job], plan: TrialPlan, pipe: Connection) -> None:
        super().__init__(jobs, plan.now, landed=lambda _: self.given)
        self._pipe = pipe
        self.given: Mapping[str, pa.Table] = {}

    def before(self, job: Job) -> None:
        """Name the job."""
        super().before(job)
        self._pipe.send_bytes(orjson.dumps({"job": job.name}))


def serve(parent: Connection) -> None:
    """The first process: pass on requests and answers until the parent closes the pipe."""
    _die_with_parent()
    plan: TrialPlan = parent.recv()
    for name in plan.modules:
        importlib.import_module(name)
    parent.send_bytes(READY)
    pid, pipe = 0, parent
    with suppress(EOFError):
        while True:
            request = parent.recv_bytes()
            if request == KILL:  # it came after the answer
                continue
            if not pid:
                pid, pipe = _fork(plan, parent)
            if not _relay(request, pid, pipe, parent):
                pipe.close()
                _, status = os.waitpid(pid, 0)
                pid = 0
                parent.send_bytes(orjson.dumps({"ended": os.waitstatus_to_exitcode(status)}))


def _relay(request: bytes, pid: int, pipe: Connection, parent: Connection) -> bool:
    """Answer one request; False: the second process ended instead."""
    try:
        pipe.send_bytes(request)
    except OSError:
        return False
    while True:
        if parent in wait([pipe, parent]):
            if parent.recv_bytes() == KILL:
                os.kill(pid, signal.SIGKILL)
            continue
        try:
            answer = pipe.recv_bytes()
        except (EOFError, OSError):
            return False
        parent.send_bytes(answer)
        if not answer.startswith(b'{"job"'):
            return True


def _fork(plan: TrialPlan, parent: Connection) -> tuple[int, Connection]:
    """Start the second process; returns its id and the pipe to it."""
    mine, its = Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns because BLAS has threads
        pid = os.fork()
    if pid:
        its.close()
        return pid, mine
    try:
        mine.close()
        parent.close()
        _run_trials(plan, its)
    except BaseException:  # nothing of the first process must go on in this one
        log.exception("a trial could not begin")
        os._exit(FAILED_TO_BEGIN)
    os._exit(0)


def _run_trials(plan: TrialPlan, pipe: Connection) -> None:
    """The second process: build the jobs, take the limits, and answer until the first closes the pipe."""
    _die_with_parent()
    jobs = [job for job in plan.factory() if job.name in plan.names]
    trial = _AnnouncedRun(jobs, plan, pipe)
    _limit(plan.limits)
    with suppress(EOFError):
        while True:
            messages, state, trial.given = pickle.loads(pipe.recv_bytes())  # noqa: S301  (from our own parent)
            try:
                result = trial(messages, state)
            except MemoryError as exc:
                result = JobFailure.of(trial.running, exc)
            except Exception as exc:  # noqa: BLE001  (of the surroundings: the parent raises it as such)
                pipe.send_bytes(orjson.dumps({"trouble": f"{type(exc).__name__}: {exc}"}))
                continue
            pipe.send_bytes(orjson.dumps(_answer(result)))


def _answer(result: Any) -> dict[str, Any]:
    return {"failure": list(result)} if isinstance(result, JobFailure) else {"passed": result.changes}


def _limit(limits: TrialLimits) -> None:
    """Bound the memory that this process may take from now on, and be the first to go when it is short."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    most = int(fields["VmData"].split()[0]) * 1024 + limits.memory_mb * _MEBIBYTE
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
