"""What the drift watch compares and what it leaves out, for `edgeloop drift list`; read from the lake."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from feature_store.commit_log import CommitLog
from schemas.errors import OperatorError
from stream_processors.drift.drift_job import DriftWatch
from stream_processors.drift.watched_feature import WatchedFeature
from stream_processors.engine.task_loading import load_task

_SEP = "\x1f"
COUNTED = ("windows", "partial_windows", "late_partials", "suspect_partials", "verdicts")


class WatchReport(NamedTuple):
    """Cohorts that are watched, as JSON values, and what was counted since the lake began.

    Attributes:
        unread: Tasks whose state could not be read just now: a worker prunes it, or it is damaged.
    """

    cohorts: list[dict[str, Any]]
    counters: dict[str, int]
    unread: list[str]


def watch_report(lake_root: Path) -> WatchReport:
    """How far each cohort is watched, by profile and cohort.

    Args:
        lake_root: The lake's folder; nothing is written to it.
    """
    commits, totals = CommitLog(lake_root), Counter[str]()
    watches: dict[tuple[str, str], list[WatchedFeature]] = defaultdict(list)
    unread = []
    for task in (t for t in commits.tasks() if t.startswith("task-")):
        try:
            state = load_task(commits, task).state
        except (OSError, OperatorError):
            unread.append(task)
            continue
        for name in COUNTED:
            totals[name] += state.counters.get(f"{DriftWatch.name}/{name}", 0)
        for key, value in state.of_job(DriftWatch.name).items():
            what, *rest = key.split(_SEP)
            if what == "watch":
                watches[rest[0], rest[1]].append(WatchedFeature.from_state(value))
    return WatchReport([_cohort(*scope, watches[scope]) for scope in sorted(watches)], dict(totals), unread)


def _cohort(profile: str, cohort: str, watches: list[WatchedFeature]) -> dict[str, Any]:
    baselines = [w.series["level"].baseline for w in watches]
    return {
        "profile": profile,
        "cohort": cohort,
        "watched": len(watches),
        "warming_up": sum(b is None for b in baselines),
        "baseline_devices": max((b.devices for b in baselines if b), default=None),
        "not_compared": sum(w.resized > 0 for w in watches),
        "not_compared_windows": max(w.resized for w in watches),
    }
