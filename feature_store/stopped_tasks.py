"""Tasks that are stopped because a part of the lake that they need is damaged; what `edgeloop status` shows.

``_stopped/<task>.json``: written by the worker that cannot open the task, removed by the one that can.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import orjson

from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.instants import utc_now
from schemas.self_digest import checked, with_digest

FOLDER = "_stopped"


class StoppedTasks:
    """The stopped tasks of one lake.

    Args:
        root: The lake's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / FOLDER

    def add(self, task: str, reason: str) -> None:
        """Record that a task is stopped, and why; a disk that refuses it changes nothing else."""
        entry = {"task": task, "reason": reason, "since": utc_now().isoformat()}
        if self._read(self._path(task)) != reason:
            with contextlib.suppress(OSError):
                DISK.write(self._path(task), with_digest(orjson.dumps(entry)), sync=False)

    def remove(self, task: str) -> None:
        """Record that a task goes on."""
        with contextlib.suppress(OSError):
            self._path(task).unlink(missing_ok=True)

    def all(self) -> dict[str, str]:
        """Reason by task."""
        return {p.stem: self._read(p) or "see the worker's log" for p in sorted(self._root.glob("*.json"))}

    def _read(self, path: Path) -> str | None:
        try:
            return str(checked(path.read_bytes(), str(path)).get("reason"))
        except (OSError, DamagedLakeError):
            return None

    def _path(self, task: str) -> Path:
        return self._root / f"{task}.json"
