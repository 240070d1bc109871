"""Lets a process of its own compact the lake beside a worker: no commit ever waits for it.

The worker only asks. A thread starts the process with the first request, hears how it goes, and ends it
where it says nothing for too long; after a while without requests the process ends. Whatever ends it, the
lake is whole, and the next request starts it again. How it went is in ``_compaction.json``, for
`edgeloop status`.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from feature_store import compactor
from feature_store.compaction_state import CompactionState, read_state, write_state
from schemas.instants import utc_now

log = logging.getLogger(__name__)

TICK_S = 0.5
IDLE_S = 120.0
"""Time without a request after which the process ends: it holds some 100 MB."""
PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Least time between two compactions; after failures it doubles up to the longest."""


class CompactionProcess:
    """A lake's compactor as its worker sees it. Nothing here raises: a worker lands rows without it, too.

    Args:
        root: The lake's folder.
        memory_mb: Most memory of the process, MiB.
        silent_s: Time without a word from the process after which it is ended.
    """

    def __init__(self, root: Path, memory_mb: int, silent_s: float) -> None:
        self._root, self._memory_mb, self._silent_s = root, memory_mb, silent_s
        self._asked = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._pause_s = PAUSE_S
        self._error = ""
        # The kernel ends the process with the thread that started it: this one lives as long as the worker.
        self._thread = threading.Thread(target=self._run, name="compaction", daemon=True)

    def ask(self) -> None:
        """Ask for a compaction; requests that come while one runs are one."""
        if self._thread.ident is None:
            self._thread.start()
        self._asked.set()

    def _run(self) -> None:
        wait = threading.Event().wait
        while True:
            if not self._asked.wait(IDLE_S if self._process else None):
                self._end()
                continue
            self._asked.clear()
            try:
                self._note(self._compact())
            except Exception:
                log.exception("unexpected error with the process that compacts; retrying")
            wait(self._pause_s)

    def _compact(self) -> dict[str, Any]:
        """Have it compact once; the process's last report, or one of ours where it has none."""
        try:
            process = self._started()
            assert process.stdin is not None  # noqa: S101  (asked for)
            process.stdin.write(b"\n")
            process.stdin.flush()
        except OSError as exc:
            self._end()
            return {"error": f"no process can be had: {exc.strerror or exc}"}
        silent_ticks = 0
        while True:
            for report in self._heard(process):
                silent_ticks = 0
                if "replaced" in report:
                    return report
            if process.poll() is not None:
                code = process.returncode
                self._end()
                return {"error": f"its process ended ({_described(code)})"}
            silent_ticks += 1
            if silent_ticks * TICK_S > self._silent_s:
                process.kill()
                self._end()
                return {"error": f"its process was ended: no progress for {self._silent_s:.0f} s"}

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            command = [sys.executable, "-m", compactor.__name__, str(self._root), str(self._memory_mb)]
            self._process = subprocess.Popen(  # noqa: S603  (a module of ours)
                [*command, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **compactor.ENVIRONMENT},
                start_new_session=True,
            )
            log.info("process %d compacts the lake", self._process.pid)
        return self._process

    def _heard(self, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
        """Reports that came within a tick."""
        assert process.stdout is not None  # noqa: S101  (asked for)
        ready, _, _ = select.select([process.stdout], [], [], TICK_S)
        if not ready:
            return []
        *lines, self._unread = (self._unread + os.read(process.stdout.fileno(), 1 << 16)).split(b"\n")
        found = []
        for line in lines:
            with suppress(orjson.JSONDecodeError):
                found.append(orjson.loads(line))
        return found

    def _end(self) -> None:
        """Close the pipes, upon which it ends, and wait for that."""
        process, self._process, self._unread = self._process, None, b""
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait()

    def _note(self, report: dict[str, Any]) -> None:
        error = report.get("error", "")
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s) if error else PAUSE_S
        if error and error != self._error:
            log.warning("small files are not merged, and rows land all the same: %s", error)
        self._error = error
        before = read_state(self._root)
        since = before.at if before and before.error and error else utc_now().isoformat()
        facts = {key: report[key] for key in ("replaced", "seconds", "peak_mb") if key in report}
        with suppress(OSError):
            write_state(self._root, CompactionState(since, error=error, **facts))


def _described(code: int) -> str:
    hint = ": out of memory, or killed by hand" if code == -9 else ""
    return f"signal {-code}{hint}" if code < 0 else f"exit code {code}"
