"""One user job's process as its worker sees it: started, watched, ended, and started again."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

from feature_store.job_status import STOPPED, JobStatus, JobStatusFiles, retry_pause_s
from schemas.instants import has_passed
from stream_processors.engine.task_loading import task_name
from stream_processors.settings import StreamSettings
from stream_processors.user_jobs.child_report import CALLING, LOADED, LOADING, REFUSED, report_of
from stream_processors.user_jobs.job_child import EXIT_AGAIN

log = logging.getLogger(__name__)

_READ_BYTES, _LONGEST_LINE = 1 << 20, 1 << 21
_SHOWN = 60
LONGEST_PAUSE_S = 60.0
"""Longest wait before a process that ended between two calls is started again."""


@dataclass
class _Running:
    """A process that runs.

    Attributes:
        phase: What it reported last that it is doing.
        detail: The rest of that report.
        silent_ticks: Looks since then.
        ticks: Looks since its start.
    """

    process: subprocess.Popen[bytes]
    control: int
    report: int
    phase: str = LOADING
    detail: dict[str, Any] | None = None
    silent_ticks: int = 0
    ticks: int = 0
    unread: bytes = b""
    owned: frozenset[int] | None = None


class JobProcess:
    """Keeps one job's process running while its worker owns tasks. Used from one thread, which must live on.

    Args:
        name: Name of the job's entry point; ``job`` is the job's own once it has been loaded.
        settings: Of the worker.
        statuses: Where failures are written that the process cannot write itself.
        tick_s: Time between two calls of ``check``, seconds.

    Attributes:
        strange_lines: Lines that its processes wrote to our pipe and that are no reports.
    """

    def __init__(self, name: str, settings: StreamSettings, statuses: JobStatusFiles, tick_s: float) -> None:
        self.name = name
        self._settings, self._statuses, self._tick_s = settings, statuses, tick_s
        self.job = name
        self._running: _Running | None = None
        self._ends = self.strange_lines = 0
        self._paused_at: datetime | None = None
        self._pause = timedelta(0)

    def check(self, owned: Collection[int], now: datetime) -> None:
        """Look once: start it, tell it its tasks, end it when it hangs, note how it ended.

        Args:
            owned: Numbers of the tasks that the worker owns.
            now: UTC.
        """
        if self._running is None:
            if self._may_start(owned, now):
                try:
                    self._running = self._start()
                except OSError as exc:  # no memory, no descriptors
                    log.warning("job %s cannot be started: %s", self.name, exc)
                    self._paused_at, self._pause = now, timedelta(seconds=LONGEST_PAUSE_S)
            return
        running = self._running
        self._listen(running)
        self._hand_over(running, frozenset(owned))
        running.silent_ticks += 1
        running.ticks += 1
        limit_s = self._limit_s(running)
        hangs = running.silent_ticks * self._tick_s > limit_s
        if hangs:
            _kill(running.process)
        if running.process.poll() is not None:
            self._listen(running)
            self._ended(running, f"no answer within {limit_s:.0f} s" if hangs else None, owned, now)

    def _may_start(self, owned: Collection[int], now: datetime) -> bool:
        paused = self._paused_at is not None and not has_passed(self._pause, self._paused_at, now)
        if not owned or paused:
            return False
        found = [self._statuses.read(self.job, task_name(task)) for task in owned]
        return any(status is None or status.is_due(now) for status in found)

    def _start(self) -> _Running:
        control_read, control = os.pipe()
        report, report_write = os.pipe()
        os.set_blocking(report, False)
        os.set_blocking(control, False)
        passed = (control_read, report_write)
        command = [
            sys.executable,
            "-m",
            "stream_processors",
            "job",
            self.name,
            *map(str, passed),
            str(os.getpid()),
        ]
        # Without an arena of its own Arrow's memory counts as it is used, and the bound on it is exact.
        env = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
        try:
            process = subprocess.Popen(  # noqa: S603  (our own command; the name is an argument)
                command, stdin=subprocess.DEVNULL, pass_fds=passed, env=env, start_new_session=True
            )
        except OSError:
            os.close(control)
            os.close(report)
            raise
        finally:
            for end in passed:
                os.close(end)
        log.info("job %s runs in process %d", self.name, process.pid)
        return _Running(process, control, report)

    def _listen(self, running: _Running) -> None:
        """Take in what the process has reported."""
        with suppress(BlockingIOError):
            running.unread = (running.unread + os.read(running.report, _READ_BYTES))[-_LONGEST_LINE:]
        *lines, running.unread = running.unread.split(b"\n")
        for line in lines:
            report = report_of(line)
            if report is None:
                self._note_strange(line)
                continue
            running.detail, running.phase, running.silent_ticks = report, report["phase"], 0
            if running.phase == LOADED:
                self._is_called(report["job"])

    def _note_strange(self, line: bytes) -> None:
        """Count a line that is no report; say so at the first, and whenever their number has doubled."""
        self.strange_lines += 1
        if self.strange_lines & (self.strange_lines - 1) == 0:
            said = "job %s: %d lines in its worker's pipe are no reports and are ignored; the last: %r"
            log.warning(said, self.job, self.strange_lines, line[:_SHOWN])

    def _is_called(self, job: str) -> None:
        if job != self.job:
            self._statuses.forget(self.job)  # written while only the entry point's name was known
            self.job = job

    def _hand_over(self, running: _Running, owned: frozenset[int]) -> None:
        if running.owned != owned:
            with suppress(OSError):  # full or closed: it hangs or has ended, and the next look tells
                os.write(running.control, orjson.dumps({"tasks": sorted(owned)}) + b"\n")
                running.owned = owned

    def _limit_s(self, running: _Running) -> float:
        users = running.phase in (CALLING, LOADING)
        return self._settings.job_timeout_s if users else self._settings.stall_timeout_s

    def _ended(self, running: _Running, hung: str | None, owned: Collection[int], now: datetime) -> None:
        """Note whose fault the end was, and when the process may start again."""
        code = running.process.returncode
        self._release(running)
        self._running = None
        detail = running.detail or {}
        how = hung or _described(code)
        if running.phase == REFUSED:
            self._fail(owned, detail["error"], detail["traceback"], now)
        elif running.phase == LOADING:
            self._fail(owned, f"its process ended while it was loaded: {how}", "", now)
        elif running.phase == CALLING:
            where = f"process() on {task_name(detail['task'])}, up to commit {detail['upto']}"
            self._fail([detail["task"]], f"its process ended within {where}: {how}", "", now)
        elif code != EXIT_AGAIN:
            self._wait(running, f"its process ended between two calls: {how}", owned, now)
            return
        self._ends, self._paused_at = 0, None

    def _wait(self, running: _Running, why: str, owned: Collection[int], now: datetime) -> None:
        """The job is not to blame; its process starts again after a pause that grows with quick ends."""
        self._ends = 1 if running.ticks * self._tick_s > LONGEST_PAUSE_S else self._ends + 1
        pause_s = min(LONGEST_PAUSE_S, retry_pause_s(self._ends))
        self._paused_at, self._pause = now, timedelta(seconds=pause_s)
        log.warning("job %s: %s; next start in %.0f s", self.job, why, pause_s)
        for task in owned:
            status = self._statuses.read(self.job, task_name(task))
            if status is not None and status.state != STOPPED:
                self._statuses.write(status.kept_back(why, now), now)

    def _fail(self, tasks: Iterable[int], error: str, traceback: str, now: datetime) -> None:
        log.error("job %s has stopped: %s", self.job, error)
        for task in tasks:
            status = self._statuses.read(self.job, task_name(task))
            known = status or JobStatus(self.job, task_name(task))
            self._statuses.write(known.failed(error, traceback, now), now, durable=True)

    def _release(self, running: _Running) -> None:
        running.process.wait()
        os.close(running.control)
        os.close(running.report)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it started; nothing happens where it has ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _described(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    hint = " (out of memory, or killed by hand)" if -code == signal.SIGKILL else ""
    return f"signal {name}{hint}"
