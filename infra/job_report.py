"""How users' jobs stand, for `edgeloop status` and `edgeloop job status`; read from the lake alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from feature_store.commit_log import CommitLog
from feature_store.job_status import RUNNING, STARTING, STOPPED, WAITING, JobStatus, JobStatusFiles
from stream_processors.user_jobs.job_points import (
    UNKNOWN_PACKAGE,
    InstalledPackage,
    installed_package,
    user_points,
)

_WORST_FIRST = (STOPPED, WAITING, STARTING, RUNNING)
NOT_INSTALLED, DOWN = "not installed", "down"
_FRESH = timedelta(seconds=30)


def collect_jobs(lake_root: Path, *, up: bool) -> list[dict[str, Any]]:
    """Every user job that is installed or has a position, as JSON values, by name.

    Args:
        lake_root: The lake's folder.
        up: Whether workers run: without them no job does, whatever it wrote last.
    """
    installed = {point.name: installed_package(point) for point in user_points()}
    statuses = JobStatusFiles(lake_root).all() if lake_root.is_dir() else []
    found = [
        _job(job, list(own), CommitLog(lake_root), installed, up=up)
        for job, own in groupby(statuses, key=lambda s: s.job)
    ]
    known = {name for job in found for name in (job["job"], job["installed_as"])}
    new = [
        _job(name, [], CommitLog(lake_root), installed, up=up) for name in sorted(installed.keys() - known)
    ]
    return sorted([*found, *new], key=lambda job: str(job["job"]))


def job_problems(jobs: Iterable[dict[str, Any]]) -> list[str]:
    """One line for each job that does not go on, for ``problems`` of the status."""
    return [
        f"job {job['job']} has stopped ({job['error']}): `edgeloop job status {job['job']}`"
        for job in jobs
        if job["state"] == STOPPED
    ]


def commits_to_read(lake_root: Path, now: datetime) -> int:
    """Commits that running jobs have yet to read.

    A job that has stopped, or has not written its status for long, counts nothing: nobody should wait for it.
    """
    log, behind = CommitLog(lake_root), 0
    for status in JobStatusFiles(lake_root).all():
        fresh = status.updated and now - datetime.fromisoformat(status.updated) < _FRESH
        if fresh and status.state in (RUNNING, STARTING):
            behind += _task(status, log)["behind"]
    return behind


def _job(
    job: str,
    statuses: list[JobStatus],
    commits: CommitLog,
    installed: Mapping[str, InstalledPackage],
    *,
    up: bool,
) -> dict[str, Any]:
    tasks = [_task(status, commits) for status in statuses]
    states = {status.state for status in statuses}
    worst = next((state for state in _WORST_FIRST if state in states), STARTING)
    installed_as = next((s.installed_as for s in statuses if s.installed_as), job)
    package = installed.get(installed_as, UNKNOWN_PACKAGE)
    shown = NOT_INSTALLED if installed_as not in installed else worst if up or worst == STOPPED else DOWN
    failing = [s for s in statuses if s.state == worst and s.error]
    first = min(failing, key=lambda s: s.since or "", default=None)
    return {
        "job": job,
        "installed_as": installed_as,
        "state": shown,
        "behind": sum(task["behind"] for task in tasks),
        "error": first.error if first else None,
        "since": first.since if first else None,
        "tries": max((s.tries for s in statuses), default=0),
        "retry_at": min((s.retry_at for s in failing if s.retry_at), default=None),
        "tasks": tasks,
        "runs": [] if shown == DOWN else sorted({s.package for s in statuses if s.package}),
        "installed": package.name,
        "restart": up and _is_other(package, statuses),
    }


def _is_other(installed: InstalledPackage, statuses: list[JobStatus]) -> bool:
    """Whether what runs is another version or build than what is installed: a restart takes it."""
    return any(
        (s.package and installed.name and s.package != installed.name)
        or (s.build and installed.build and s.build != installed.build)
        for s in statuses
    )


def job_news(jobs: Iterable[dict[str, Any]]) -> list[str]:
    """One line for each job of which another version is installed than runs."""
    return [
        f"job {job['job']}: {' and '.join(job['runs'])} runs; {_which(job)} is installed: "
        "`edgeloop down` and `edgeloop up` take it"
        for job in jobs
        if job["restart"] and job["runs"]
    ]


def _which(job: dict[str, Any]) -> str:
    same = job["installed"] in job["runs"]
    return f"another build of {job['installed']}" if same else str(job["installed"])


def _task(status: JobStatus, commits: CommitLog) -> dict[str, Any]:
    newest = commits.latest(status.task)
    known = {key: value for key, value in asdict(status).items() if key not in ("job", "installed_as")}
    behind = 0 if newest is None else max(newest - status.position, 0)
    idle = behind == 0
    return {**known, "newest": -1 if newest is None else newest, "behind": behind, "idle": idle}
