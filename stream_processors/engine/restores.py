"""What a person asks to have back of what was set aside: state keys and derived messages.

``edgeloop job set-aside restore`` leaves a request beside the entry's file; the task's owner makes a commit
of it. The request is removed before that commit: a crash between the two loses the request, and a message is
never sent twice.
"""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.durable import DISK
from schemas.errors import DamagedLakeError, RejectedError
from stream_processors.engine.pipeline import CommitOutput
from stream_processors.engine.poison_store import DERIVED, FOLDER, read_set_aside
from stream_processors.engine.records import TaskState
from stream_processors.job import Derived

log = logging.getLogger(__name__)

REQUEST = ".restore"
RESTORABLE = ("state", "derived")


@dataclass
class GivenBack:
    """What a commit gives back.

    Attributes:
        left: State keys that hold a newer value, and stay as they are.
    """

    state: dict[str, Any] = field(default_factory=dict)
    messages: list[Derived] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def take(self, entry: Mapping[str, Any], state: TaskState) -> None:
        """Give one entry back, unless its key exists again."""
        if entry["kind"] == "state":
            key = f"{entry['job']}/{entry['what']}"
            if key in state.state:
                self.left.append(key)
            else:
                self.state[key] = entry["detail"]["value"]
        elif entry["kind"] == "derived":
            self.messages.append(_derived(entry["detail"]))

    def output(self) -> CommitOutput:
        """As the output of a commit."""
        counters = Counter(f"{key.partition('/')[0]}/restored_keys" for key in self.state)
        if self.messages:
            counters[f"{DERIVED}/restored_messages"] = len(self.messages)
        return CommitOutput({}, self.state, tuple(self.messages), dict(counters))


class RestoreRequests:
    """Requests in one lake.

    Args:
        root: The lake's folder.
    """

    def __init__(self, root: Path) -> None:
        self._lake, self._root = root, root / FOLDER

    def ask(self, entry_id: str) -> None:
        """Ask for an entry, by its id.

        Raises:
            RejectedError: There is none, or it is of a kind that is not kept here.
        """
        task, n, number = _parts(entry_id)
        path = self._root / task / f"{n:012d}.json"
        try:
            entry = read_set_aside(self._lake, path)["entries"][number]
        except (FileNotFoundError, IndexError) as exc:
            raise RejectedError(f"nothing set aside has the id {entry_id}") from exc
        except DamagedLakeError as exc:
            raise RejectedError(f"{exc}: nothing of it can be given back; restore it") from exc
        if entry["kind"] not in RESTORABLE:
            raise RejectedError(f"{entry_id} is of kind {entry['kind']}: it is nothing to give back")
        DISK.write(path.with_suffix(f".{number}{REQUEST}"), b"")

    def take(self, state: TaskState) -> GivenBack | None:
        """What is asked for of a task, once; None: nothing."""
        try:
            asked = sorted(p for p in (self._root / state.task).iterdir() if p.suffix == REQUEST)
        except FileNotFoundError:
            return None
        if not asked:
            return None
        restored = GivenBack()
        for path in asked:
            n, number = path.name.split(".")[:2]
            path.unlink()
            try:
                entries = read_set_aside(self._lake, path.with_name(f"{n}.json"))["entries"]
                restored.take(entries[int(number)], state)
            except (OSError, DamagedLakeError, ValueError, LookupError, TypeError) as exc:
                log.error("%s names nothing that can be restored: %s", path, exc)  # noqa: TRY400
        if restored.left:
            log.warning("not restored, as they hold a newer value: %s", restored.left)
        return restored


def _parts(entry_id: str) -> tuple[str, int, int]:
    task, *numbers = entry_id.rsplit("/", 2)
    if len(numbers) != 2 or not all(n.isascii() and n.isdigit() for n in numbers) or "/" in task:
        raise RejectedError(f"'{entry_id}' is no id: `edgeloop job set-aside list` names them")
    return task, int(numbers[0]), int(numbers[1])


def _derived(detail: Mapping[str, Any]) -> Derived:
    place = detail["copy_of"]
    return Derived(
        detail["topic"],
        detail["key"],
        base64.b64decode(detail["value"]),
        tuple((k, base64.b64decode(v)) for k, v in detail["headers"]),
        (place[0], place[1], place[2]) if place else None,
    )
