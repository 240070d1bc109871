"""The one place where tests wait."""

import time
from collections.abc import Callable
from threading import Event


def wait_until(predicate: Callable[[], object], timeout_s: float = 30.0, what: str = "the condition") -> None:
    """Poll until the predicate is true; fail with ``what`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true in {timeout_s:.0f} s")
        Event().wait(0.02)
