"""The system's real-time class, for the threads that lie between a sample and its action.

There they go before all that computes in the usual class: a sender's turn, other programs. It is asked for
by a setting, since the system must permit it and a source that never rests would take what others need.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)


class RealtimeClass:
    """Of one process. Threads join it themselves; what they start is of the usual class."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._priority: int | None = None
        self._error = ""

    def ask(self, priority: int | None) -> None:
        """Have threads that join from here on run in it.

        Args:
            priority: Of SCHED_FIFO, from 1 to 99; None: threads stay in the usual class.
        """
        with self._lock:
            self._priority, self._error = priority, ""

    def join(self) -> bool:
        """Run the calling thread in it, where that was asked for and is permitted; whether it does now."""
        if self._priority is None:
            return False
        try:
            # What this thread starts, such as the command of an action, does not inherit it.
            policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(self._priority))
        except (OSError, AttributeError) as exc:
            self._refused(f"{type(exc).__name__}: {exc}")
            return False
        return True

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Within it the calling thread runs in the class, as by ``join``; after it in the usual one."""
        inside = self.join()
        try:
            yield
        finally:
            if inside:
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

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
