"""Which jobs are stopped, for whoever looks from outside: ``<lake>/_stopped_jobs/<task>.json``.

A job that stopped alone stands in the task's commit record, of which the file is a copy. Tasks that are
stopped as a whole stand in ``_stopped`` (``feature_store/stopped_tasks.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest
from stream_processors.engine.records import TaskState

FORMAT = 1
FOLDER = "_stopped_jobs"


class StoppedFiles:
    """Files of one lake.

    Args:
        root: The lake's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / FOLDER
        self._written: dict[str, tuple[list[dict[str, Any]], bytes]] = {}

    def note(self, state: TaskState) -> None:
        """Show what is stopped in a task, and take away what is not; writes only where that changed."""
        found: list[dict[str, Any]] = [
            {"job": name, **stop.to_json()} for name, stop in state.stopped.items()
        ]
        path = self._root / f"{state.task}.json"
        if found != self._written.get(state.task, ([], b""))[0] or state.task not in self._written:
            content = {"format": FORMAT, "task": state.task, "n": state.n, "stopped": found}
            self._written[state.task] = found, with_digest(json.dumps(content).encode())
        if not found:
            path.unlink(missing_ok=True)
        elif DISK.read(path) != self._written[state.task][1]:  # new, or damaged since
            DISK.write(path, self._written[state.task][1], sync=False)


def stopped_in(root: Path) -> list[dict[str, Any]]:
    """Every job that is stopped in a lake, by task."""
    found = []
    for path in sorted((root / FOLDER).glob("*.json")):
        try:
            content = checked(path.read_bytes(), str(path))
            found += [{"task": content["task"], **entry} for entry in content["stopped"]]
        except FileNotFoundError:  # it goes on since
            continue
        except (OSError, DamagedLakeError, KeyError, TypeError) as exc:
            lost = {"job": "(unknown)", "since": "(unknown)", "error": type(exc).__name__}
            found.append({"task": path.stem, **lost, "reason": f"{exc}; see the worker's log"})
    return found


def in_words(stopped: Iterable[dict[str, Any]]) -> list[str]:
    """One line each, for people."""
    return [
        f"job {s['job']} of {s['task']} is stopped since {s['since']}: {s['error']}: {s['reason']}"
        for s in stopped
    ]
