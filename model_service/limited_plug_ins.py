"""Runs a user's functions in a child process with bounds of memory, CPU and time.

What a package does under ``edgeloop.gates``, ``.configs``, ``.config_gates`` and ``.config_judges`` must not
hold up or take down the process that asks it. So it runs in a process of its own, which is killed where it
takes too long, and whose answer comes back as JSON: nothing of the package is loaded here.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple, Self, cast

from model_service.detectors.trainer_child import LENGTH, write_message
from schemas.errors import DatasetError

CHILD = "model_service.plug_in_child"


class PlugInLimits(NamedTuple):
    """What one call may take.

    Attributes:
        memory_mb: Of the process, MiB.
        cpu_s: CPU time.
        wall_s: Time until the answer.
    """

    memory_mb: int = 4096
    cpu_s: int = 600
    wall_s: float = 900.0


class PlugInEndedError(DatasetError):
    """The process of a plug-in ended, or was ended, without an answer."""


class LimitedPlugIns:
    """A child process for plug-ins, started with the first call; use it in a ``with``, or close it.

    Args:
        limits: Of each call.
    """

    def __init__(self, limits: PlugInLimits | None = None) -> None:
        self._limits = limits or PlugInLimits()
        self._child: subprocess.Popen[bytes] | None = None
        self._path: list[str] = []
        self._end: weakref.finalize[..., LimitedPlugIns] | None = None

    def call(
        self, group: str, name: str, what: str, gives: type, *given: object, method: str = ""
    ) -> dict[str, Any]:
        """What a function answers: the fields of a dataclass, as JSON values; instants as ISO 8601.

        Args:
            group: Of entry points.
            name: Of the entry point.
            what: Who names it, for messages, such as "profile pump".
            gives: Dataclass of its answer.
            given: Its arguments; they are pickled.
            method: Of the object that the entry point's class makes without arguments; empty: the entry point
                is the function.

        Raises:
            PlugInEndedError: It took too much memory, CPU or time, or ended its process.
            DatasetError: It is not installed, raised, or answered with something else.
        """
        try:
            request = pickle.dumps((group, name, what, gives, given, method))
        except (pickle.PicklingError, TypeError, AttributeError) as exc:
            raise DatasetError(f"its arguments cannot be sent to its process: {exc}") from exc
        child = self._started()
        try:
            write_message(cast("BinaryIO", child.stdin), request)
            answer = json.loads(self._answer(child))
        except (OSError, EOFError) as exc:
            why = self._why(child, exc)
            self.close()
            raise PlugInEndedError(f"its process ended: {why}") from exc
        if "error" in answer:
            raise DatasetError(answer["error"])
        found: dict[str, Any] = answer["fields"]
        return found

    def close(self) -> None:
        """End the child."""
        if self._end is not None:
            self._end()
        self._child = self._end = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        # What was installed since the child began, it could not see.
        if self._child is not None and (self._child.poll() is not None or self._path != sys.path):
            self.close()
        if self._child is None:
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self._child = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-m", CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **threads},
                start_new_session=True,
            )
            self._end, self._path = weakref.finalize(self, _kill, self._child), list(sys.path)
            head = {
                "path": sys.path, "parent": os.getpid(),
                "memory_mb": self._limits.memory_mb, "cpu_s": self._limits.cpu_s,
            }  # fmt: skip
            write_message(cast("BinaryIO", self._child.stdin), json.dumps(head).encode())
        return self._child

    def _answer(self, child: subprocess.Popen[bytes]) -> bytes:
        pipe, until = cast("BinaryIO", child.stdout), time.monotonic() + self._limits.wall_s
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise EOFError(f"no answer within {self._limits.wall_s:g} s")
        head = pipe.read(LENGTH.size)
        if len(head) < LENGTH.size:
            raise EOFError
        return pipe.read(LENGTH.unpack(head)[0])

    def _why(self, child: subprocess.Popen[bytes], exc: Exception) -> str:
        if str(exc) and not isinstance(exc, OSError):
            return str(exc)
        code = child.wait()
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"it used {self._limits.cpu_s} s of CPU, or the system's memory ran out"
        return f"exit code {code}"


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End a child and what it has started. Its output is not read to its end: a fork may hold it open."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):
            cast("BinaryIO", pipe).close()
