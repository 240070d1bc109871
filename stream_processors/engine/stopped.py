"""Which jobs and tasks are stopped, for whoever looks from outside: ``<lake>/_stopped/<task>.json``.

A job that stopped alone stands in the task's commit record, of which the file is a copy. A task whose landing
job fails cannot commit anything, so the file is all there is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from schemas.durable import DISK
from stream_processors.engine.records import TaskState

FORMAT = 1


class StoppedFiles:
    """Files of one lake.

    Args:
        root: The lake's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / "_stopped"
        self._written: dict[str, list[dict[str, Any]]] = {}

    def note(self, state: TaskState, whole_task: tuple[str, datetime] | None = None) -> None:
        """Show what is stopped in a task, and take away what is not; writes only where that changed.

        Args:
            state: The task as it is.
            whole_task: Why the whole task is stopped, and since when; None: it is not.
        """
        found: list[dict[str, Any]] = [
            {"job": name, **stop.to_json()} for name, stop in state.stopped.items()
        ]
        if whole_task is not None:
            before = self._written.get(state.task, [])
            since = next((s["since"] for s in before if not s["job"]), whole_task[1].isoformat())
            found.append({"job": "", "error": "", "reason": whole_task[0], "since": since, "how": "raised"})
        if found == self._written.get(state.task):
            return
        self._written[state.task] = found
        path = self._root / f"{state.task}.json"
        if found:
            content = {"format": FORMAT, "task": state.task, "n": state.n, "stopped": found}
            DISK.write(path, json.dumps(content).encode(), sync=False)
        else:
            path.unlink(missing_ok=True)


def stopped_in(root: Path) -> list[dict[str, Any]]:
    """Everything that is stopped in a lake, by task; an entry without ``job`` is about the whole task."""
    found = []
    for path in sorted((root / "_stopped").glob("*.json")):
        with suppress(OSError, ValueError, KeyError):
            content = json.loads(path.read_bytes())
            found += [{"task": content["task"], **entry} for entry in content["stopped"]]
    return found


def in_words(stopped: Iterable[dict[str, Any]]) -> list[str]:
    """One line each, for people."""
    return [
        f"job {s['job']} of {s['task']} is stopped since {s['since']}: {s['error']}: {s['reason']}"
        if s["job"]
        else f"{s['task']} is stopped since {s['since']}: {s['reason']}"
        for s in stopped
    ]
