"""The one place where tests wait."""

import time
from collections.abc import Callable
from threading import Event

_SHORTEST_S, _LONGEST_S = 0.02, 0.5


def wait_until(predicate: Callable[[], object], timeout_s: float = 30.0, what: str = "the condition") -> None:
    """Poll until the predicate is true; fail with ``what`` after ``timeout_s``.

    A predicate that is dear, such as a query or a command line, is asked less often: what it takes of the
    machine, what is waited for does not get.
    """
    deadline = time.monotonic() + timeout_s
    asked = time.monotonic()
    while not predicate():
        answered = time.monotonic()
        if answered > deadline:
            raise AssertionError(f"{what} did not come true in {timeout_s:.0f} s")
        Event().wait(min(max(_SHORTEST_S, 2 * (answered - asked)), _LONGEST_S))
        asked = time.monotonic()
