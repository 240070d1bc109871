"""How each user job stands: one small file per job and task, which `status`, vacuum and the job itself read.

``<lake>/_jobs/<job>/<task number>.json``. It describes; the job's commit records decide. A file that is lost
or damaged is made anew, and until then vacuum takes the job for one that has read nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path

import orjson

from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

JOBS_FOLDER = "_jobs"
STARTING, RUNNING, WAITING, STOPPED = "starting", "running", "waiting", "stopped"
"""States: not called yet; computing; kept back by broker, lake or disk; failed, to be tried again."""
DEFAULT_RETENTION_S = 7 * 86_400.0
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 600.0
_LONGEST_ERROR, _LONGEST_TRACEBACK = 500, 4000


@dataclass(frozen=True)
class JobStatus:
    """One job on one task.

    Attributes:
        job: The job's name.
        task: Task whose commits it reads, such as ``task-03``.
        state: One of the states above.
        position: Newest commit of the task that the job has taken into account; -1: none.
        error: What stopped it or keeps it back, in one line.
        traceback: The end of the traceback, where there is one.
        since: When it stopped or was kept back, ISO 8601 UTC.
        tries: Failures since it last succeeded.
        retry_at: When it is tried again, ISO 8601 UTC; None in state ``stopped``: at once.
        reads: What it reads; empty: not known, so vacuum keeps every table's files for it.
        retention_s: How long input that it has not read is kept for it, seconds.
        updated: When this was written, ISO 8601 UTC.
        installed_as: Name of the job's entry point; empty: not loaded yet.
        package: Name and version of the package whose code runs; empty: not known.
        build: Digest of that package's list of files; empty: not known.
    """

    job: str
    task: str
    state: str = STARTING
    position: int = -1
    error: str | None = None
    traceback: str | None = None
    since: str | None = None
    tries: int = 0
    retry_at: str | None = None
    reads: tuple[str, ...] = ()
    retention_s: float = DEFAULT_RETENTION_S
    updated: str = ""
    installed_as: str = ""
    package: str = ""
    build: str = ""

    def failed(self, error: str, traceback: str, now: datetime) -> JobStatus:
        """The status after one more failure; each wait is twice the one before, up to ten minutes."""
        tries = self.tries + 1
        pause = timedelta(seconds=retry_pause_s(tries))
        return replace(
            self,
            state=STOPPED,
            error=_printable(error.replace("\n", " "))[:_LONGEST_ERROR],
            traceback=_printable(traceback)[-_LONGEST_TRACEBACK:] or None,
            since=(self.since if self.tries else None) or now.isoformat(),
            tries=tries,
            retry_at=(now + pause).isoformat(),
        )

    def kept_back(self, reason: str, now: datetime) -> JobStatus:
        """The status while broker, lake or disk do not let the job go on; the job is not at fault."""
        since = (self.since if self.tries or self.state == WAITING else None) or now.isoformat()
        reason = _printable(reason.replace("\n", " "))[:_LONGEST_ERROR]
        return replace(self, state=WAITING, error=reason, traceback=None, since=since)

    def works(self, position: int) -> JobStatus:
        """The status after a success."""
        return replace(
            self,
            state=RUNNING,
            position=position,
            error=None,
            traceback=None,
            since=None,
            tries=0,
            retry_at=None,
        )

    def is_due(self, now: datetime) -> bool:
        """Whether the job may be called: it has not stopped, or its wait is over."""
        if self.state != STOPPED or self.retry_at is None:
            return True
        wait_s = (datetime.fromisoformat(self.retry_at) - now).total_seconds()
        return wait_s <= 0 or wait_s > LONGEST_RETRY_S  # no wait is that long: the clock was set back


class JobStatusFiles:
    """The status files of one lake.

    Args:
        root: The lake's folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / JOBS_FOLDER

    def read(self, job: str, task: str) -> JobStatus | None:
        """The status; None: there is none, or the file cannot be read."""
        return _load(self._path(job, task))

    def write(self, status: JobStatus, now: datetime, *, durable: bool = False) -> None:
        """Replace the status; ``durable`` where a failure must survive a power cut."""
        payload = orjson.dumps(asdict(replace(status, updated=now.isoformat())), option=orjson.OPT_INDENT_2)
        DISK.write(self._path(status.job, status.task), with_digest(payload), sync=durable)

    def retry(self, job: str, now: datetime) -> int:
        """Let the job be tried again now wherever it has stopped.

        Returns:
            On how many tasks it had.
        """
        stopped = [s for s in self.all() if s.job == job and s.state == STOPPED]
        for status in stopped:
            self.write(replace(status, retry_at=None), now, durable=True)
        return len(stopped)

    def forget(self, job: str) -> int:
        """Remove the status of a job that is gone for good, so that no input is kept for it.

        Returns:
            On how many tasks it had one.
        """
        paths = sorted((self._folder / job).glob("[0-9]*.json"))
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    def of_task(self, task: str) -> list[JobStatus]:
        """Every job's status on this task, by name."""
        return [s for s in self.all() if s.task == task]

    def all(self) -> list[JobStatus]:
        """Every status, by job and task."""
        return list(self._all())

    def _all(self) -> Iterator[JobStatus]:
        for folder in sorted(self._folder.glob("[!_.]*")):
            for path in sorted(folder.glob("[0-9]*.json")):
                if (status := _load(path)) is not None:
                    yield status

    def _path(self, job: str, task: str) -> Path:
        return self._folder / job / f"{task.rpartition('-')[2]}.json"


def retry_pause_s(tries: int) -> float:
    """Seconds between a failure and the next try."""
    return float(min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(tries - 1, 20)))


def _load(path: Path) -> JobStatus | None:
    try:
        raw = checked(path.read_bytes(), str(path))
        known = {f.name: raw[f.name] for f in fields(JobStatus) if f.name in raw}
        return JobStatus(**{**known, "reads": tuple(known.get("reads", ()))})
    except FileNotFoundError:
        return None
    except (DamagedLakeError, OSError, TypeError, ValueError):
        log.warning("%s is damaged; the job writes it anew", path)
        return None


def _printable(text: str) -> str:
    """The text without control characters: an exception may quote what a device sent."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
