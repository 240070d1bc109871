"""Calls code of users and waits for it no longer than told: what hangs keeps its thread, and nobody waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from edge_producer.realtime_class import REALTIME

T = TypeVar("T")


class TimedCall(Generic[T]):
    """One call on its way.

    Attributes:
        late: Whoever made it does not wait for it any more.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._over = threading.Lock()
        self._over.acquire()
        self._error: BaseException | None = None
        self._result: list[T] = []
        self.late = False

    @property
    def running(self) -> bool:
        """Whether it has not come to an end."""
        return self._over.locked()

    def run(self) -> None:
        """Make the call, in a thread of ``TimedCalls``; never raises."""
        try:
            self._result.append(self._work())
        except BaseException as exc:  # noqa: BLE001  (SystemExit too: the thread goes on to other calls)
            self._error = exc

    def end(self) -> None:
        """Let go of whoever waits."""
        self._over.release()

    def result(self, timeout_s: float) -> T:
        """What the call returned.

        Raises:
            TimeoutError: It has not come to an end within that time.
            Exception: Whatever it raised.
        """
        if not self._over.acquire(timeout=timeout_s):
            self.late = True
            raise TimeoutError(f"no answer within {timeout_s} s")
        self._over.release()
        if isinstance(self._error, Exception):
            raise self._error
        if self._error is not None:  # SystemExit: of the user's code, not of this process
            raise RuntimeError(type(self._error).__name__) from self._error
        return self._result[0]


class TimedCalls:
    """Threads that make calls. They live on: a call waits for no start of one, unless all others hang.

    Used by one thread.
    """

    def __init__(self) -> None:
        self._idle: deque[SimpleQueue[TimedCall[Any]]] = deque()

    def begin(self, call: TimedCall[T]) -> TimedCall[T]:
        """Have a call made.

        Raises:
            RuntimeError: The system gives no more threads.
        """
        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = SimpleQueue()
            threading.Thread(target=self._work, args=(inbox,), name="decision", daemon=True).start()
        inbox.put(call)
        return call

    def _work(self, inbox: SimpleQueue[TimedCall[Any]]) -> None:
        REALTIME.join()
        while True:
            call = inbox.get()
            call.run()
            self._idle.append(inbox)  # first: whoever waits may call again at once
            call.end()
            del call
