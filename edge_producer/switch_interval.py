"""The interpreter's switch interval, which follows what the deciding thread does where windows come fast.

In CPython a thread that wants the interpreter leaves it to its holder for the switch interval, and then has
it taken away. A short one gets the deciding thread going soon after a sample came. But the same interval
takes the interpreter from it many times within one decision, for any other thread that has work. So it is
short while the deciding thread waits or runs a model, which needs no interpreter, and longer than what is
left of a decision while it computes.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

log = logging.getLogger(__name__)

WAITING_S = 0.00005
COMPUTING_S = 0.0005
"""Another thread that asks while the deciding one computes waits so long; so does the deciding thread itself
where it has lost the interpreter in a call that is not known to do without it."""
REST_S = 0.0003
"""Several times what an actuator on this machine takes to be woken and to read a line."""
_PR_SET_TIMERSLACK = 29
_T = TypeVar("_T")


class SwitchInterval:
    """Set by one thread of the process, the deciding one; what other threads say changes nothing.

    Args:
        pause: Waits so many seconds, without the interpreter.
    """

    def __init__(self, pause: Callable[[float], None] = time.sleep) -> None:
        self._pause = pause
        self._thread = 0

    @contextmanager
    def led_here(self, *, wanted: bool) -> Iterator[None]:
        """Within it the calling thread decides; after it the interval is what it was.

        Args:
            wanted: Windows come fast; else nothing is changed.
        """
        if not wanted:
            yield
            return
        before = sys.getswitchinterval()
        self._thread = threading.get_ident()
        _wake_on_time()
        self.computes()
        try:
            yield
        finally:
            self._thread = 0
            sys.setswitchinterval(before)

    def waits(self) -> None:
        """From here on the deciding thread waits, or is in a call that needs no interpreter."""
        if self._thread == threading.get_ident():
            sys.setswitchinterval(WAITING_S)

    def computes(self) -> None:
        """From here on the deciding thread computes."""
        if self._thread == threading.get_ident():
            sys.setswitchinterval(COMPUTING_S)

    def rests(self) -> None:
        """Have the deciding thread leave processor and interpreter for a moment to whom it gave an order.

        The system wakes a reader where its writer runs, and has it wait there for as long as that computes.
        """
        if self._thread == threading.get_ident():
            self.during(self._pause, REST_S)

    def during(self, wait: Callable[[float], _T], *most_s: float) -> _T:
        """Wait as the deciding thread does, for at most the shortest of so many seconds."""
        self.waits()
        try:
            return wait(min(most_s))
        finally:
            self.computes()


SWITCH_INTERVAL = SwitchInterval()
"""The interpreter has one."""


def _wake_on_time() -> None:
    """Have this thread, and those that it starts, woken when their time is over: Linux adds 50 µs else."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    except (OSError, AttributeError) as exc:
        log.debug("timers stay as they are: %s", exc)
