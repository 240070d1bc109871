"""The background process of `edgeloop up`: holds the stack until it gets SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from infra.process.child import guarded_command, same_process
from infra.process.child_log import LogPosition, log_end, read_since
from infra.settings import PREFIX, StackSettings, load_settings
from infra.stack.stack import Stack, unwritable
from infra.stack.stack_file import (
    FILE,
    LOCK,
    StackFile,
    is_held,
    read_stack,
    remove_stack,
    stack_troubles,
    unmark_demo,
)
from schemas.errors import PipelineError, StackError
from schemas.log_lines import log_to_stderr

log = logging.getLogger(__name__)

OWNER = "up"
START_TIMEOUT_S = 300.0  # Maven may have to fetch the broker first
STOP_TIMEOUT_S = 60.0
_POLL_S = 0.1
_REWRITTEN_S = 10.0


def main() -> int:
    """Run the supervisor in the foreground of its own process; exit code 0 done, 1 failed."""
    log_to_stderr()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        settings = load_settings(os.environ)
        stack = Stack(settings, OWNER, lambda line: log.info("%s", line), unmark_demo).start()
    except PipelineError as exc:
        log.critical("%s", exc)
        return 1
    ended.wait()
    stack.stop()
    return 0


def start_detached(settings: StackSettings, progress: Callable[[str], None]) -> StackFile:
    """Start the supervisor in the background and wait until its stack is ready.

    Raises:
        StackError: It could not start; the message is its own.
    """
    try:
        settings.logs_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise unwritable(settings.state_dir, exc) from exc
    log_path = settings.logs_dir / "supervisor.log"
    with log_path.open("ab") as output:
        begin = log_end(log_path)
        process = subprocess.Popen(  # noqa: S603 - our own command only
            guarded_command([sys.executable, "-m", "infra.stack.supervisor"], log_path),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **_as_environment(settings)},
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        begin = _forward_progress(log_path, begin, progress)
        found = read_stack(settings.state_dir)
        if found is not None and found.pid == process.pid and found.state == "ready":
            process.returncode = 0  # it outlives this command, which must not wait for it
            return found
        if process.poll() is not None:
            raise StackError(_start_error(found, process.pid) or f"the supervisor ended: see {log_path}")
        time.sleep(_POLL_S)
    process.terminate()
    why = "; ".join(stack_troubles(settings.state_dir)) or f"see {log_path}"
    raise StackError(f"the stack was not ready within {START_TIMEOUT_S:.0f} s: {why}")


def stop_detached(settings: StackSettings) -> bool:
    """End the stack that `edgeloop up` left running; False: there was none.

    Raises:
        StackError: The stack belongs to a command in another terminal, or ``stack.json`` is damaged.
    """
    if not is_held(settings.state_dir):
        remove_stack(settings.state_dir)
        return False
    found = _described(settings.state_dir)
    if found.owner != OWNER:
        raise StackError(
            f"the stack belongs to `edgeloop {found.owner}` (process {found.pid}): "
            "end that command with Ctrl-C"
        )
    supervisor = same_process(found.pid, found.created)
    if supervisor is not None:
        supervisor.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while is_held(settings.state_dir):
        if time.monotonic() > deadline and supervisor is not None:
            supervisor.kill()  # its guards then end the children
        time.sleep(_POLL_S)
    remove_stack(settings.state_dir)
    return True


def _described(state_dir: Path) -> StackFile:
    """What the stack that is up says of itself: its owner writes a damaged file anew within a second.

    Raises:
        StackError: It does not.
    """
    deadline = time.monotonic() + _REWRITTEN_S
    while time.monotonic() < deadline:
        found = read_stack(state_dir)
        if found is not None and (found.owner_lives or not is_held(state_dir)):
            return found
        time.sleep(_POLL_S)
    raise StackError(
        f"{state_dir / FILE} is missing or damaged, and the process that holds {LOCK} does not write it: "
        "end that process (`lsof` names it), then run the command again"
    )


def _as_environment(settings: StackSettings) -> dict[str, str]:
    values = settings.model_dump(exclude_none=True)
    return {PREFIX + name.upper(): str(value) for name, value in values.items()}


def _start_error(found: StackFile | None, pid: int) -> str | None:
    return found.error if found is not None and found.pid == pid else None


def _forward_progress(
    log_path: Path, begin: LogPosition | None, progress: Callable[[str], None]
) -> LogPosition | None:
    """Pass on the progress lines that the supervisor logged since ``begin``; returns the new end."""
    added, end = read_since(log_path, begin)
    for line in added.decode(errors="replace").splitlines():  # the guard writes whole lines
        _, found, text = line.partition(" INFO __main__: ")
        if found:
            progress(text)
    return end


if __name__ == "__main__":
    sys.exit(main())
