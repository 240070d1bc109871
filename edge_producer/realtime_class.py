"""The system's real-time class, for the threads that lie between a sample and its action.

There they go before all that computes in the usual class: a sender's turn, other programs. It is asked for
by a setting, since the system must permit it and a source that never rests would take what others need.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

log = logging.getLogger(__name__)


class RealtimeClass:
    """Of one process. Threads join it themselves; what they start is of the usual class.

    The deciding thread has the priority that was asked for, all others one less: in this class nobody gives
    way to an equal, and a source or a decision function that computes for long must not keep it waiting.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._priority: int | None = None
        self._error = ""

    def ask(self, priority: int | None) -> None:
        """Have threads that join from here on run in it.

        Args:
            priority: Of the deciding thread, from 2 to 99; None: threads stay in the usual class.
        """
        with self._lock:
            self._priority, self._error = priority, ""

    def join(self, *, below: int = 1) -> bool:
        """Run the calling thread in it, where that was asked for and is permitted; whether it does now.

        Args:
            below: By how much its priority is less than what was asked for.
        """
        if self._priority is None:
            return False
        try:
            # What this thread starts, such as the command of an action, does not inherit it.
            policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(self._priority - below))
        except (OSError, AttributeError) as exc:
            self._refused(f"{type(exc).__name__}: {exc}")
            return False
        return True

    @contextmanager
    def decides(self) -> Iterator[None]:
        """Within it the calling thread, which decides, runs in the class; after it in the usual one."""
        inside = self.join(below=0)
        try:
            yield
        finally:
            if inside:
                # Who has no permission of its own must leave the flag; the process ends in any case.
                with suppress(OSError):
                    os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))

    def status(self) -> dict[str, Any]:
        """For the status file; empty where it was not asked for."""
        with self._lock:
            if self._priority is None:
                return {}
            return {"realtime": {"priority": self._priority, "error": self._error}}

    def _refused(self, error: str) -> None:
        with self._lock:
            known, self._error = self._error, error
        if error != known:
            log.warning(
                "decisions are not made in real-time class: %s; permit it (LimitRTPRIO of the systemd unit, "
                "or CAP_SYS_NICE), or leave realtime_priority out",
                error,
            )


REALTIME = RealtimeClass()
"""Threads belong to the process; so does this."""
