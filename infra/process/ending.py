"""Ends a command's process with its exit code, whatever threads of libraries are left."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from typing import NoReturn

BROKEN_STREAM = 120
"""Python's own exit code where what was printed could not be written."""


def end_process(code: int) -> NoReturn:
    """End the process; what was registered to run at its end runs, and what was printed is passed on.

    The interpreter is not taken down: where a thread of DuckDB, Arrow or Delta comes back from its work just
    then, it would be ended inside C++, which aborts the process with another exit code than the command's.
    """
    with contextlib.suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001  (waits for threads that are no daemons)
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()  # noqa: SLF001  (the one way to run them without what comes after)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads any more
            code = code or BROKEN_STREAM
    os._exit(code)
