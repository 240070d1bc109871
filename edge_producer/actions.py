"""Runs local actions: a file on the device maps the names of actions to commands.

The profile names actions, but only that file defines what they run. A command never delays the sensing loop.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from schemas.errors import ProfileError
from schemas.section import Name

log = logging.getLogger(__name__)

_PASSED_ON = ("PATH", "HOME", "LANG", "TZ")


class ActionFile(BaseModel):
    """Contents of ``actions.toml``.

    Attributes:
        timeout_s: A command that runs longer is killed.
        actions: Argument list by action name; no shell is involved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_s: PositiveFloat = 10.0
    actions: dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]] = {}


def load_actions(path: Path | None) -> ActionFile:
    """The mapping in a file; empty without a path or a file.

    Raises:
        ProfileError: The file is not TOML, or not of this shape.
    """
    if path is None or not path.exists():
        return ActionFile()
    try:
        return ActionFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as exc:
        raise ProfileError(f"{path}: {exc}") from exc


@dataclass(frozen=True, slots=True)
class _Request:
    action: str
    score: float | None


class ActionRunner:
    """Runs the commands of actions that come into force, one at a time per device, newest wins.

    Attributes:
        counts: ``recorded`` (no command is mapped), ``started``, ``done``, ``failed``, ``timed_out``,
            ``superseded`` (another action came into force before the command began).
    """

    def __init__(self, file: ActionFile) -> None:
        self._file = file
        self._waiting: dict[str, _Request] = {}
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def start(self, device_id: str, action: str, score: float | None) -> None:
        """Carry out an action that came into force; returns at once."""
        if action not in self._file.actions:
            with self._lock:
                self.counts["recorded"] += 1
            return
        with self._lock:
            self.counts["superseded"] += device_id in self._waiting
            self._waiting[device_id] = _Request(action, score)
            if device_id in self._busy:
                return
            self._busy.add(device_id)
        name = f"action-{device_id}"
        threading.Thread(target=self._work, args=(device_id,), name=name, daemon=True).start()

    def totals(self) -> dict[str, int]:
        """Copy of the counts."""
        with self._lock:
            return dict(self.counts)

    def _work(self, device_id: str) -> None:
        while True:
            with self._lock:
                request = self._waiting.pop(device_id, None)
                if request is None:
                    self._busy.discard(device_id)
                    return
                self.counts["started"] += 1
            outcome = self._run(device_id, request)
            with self._lock:
                self.counts[outcome] += 1

    def _run(self, device_id: str, request: _Request) -> str:
        argv = self._file.actions[request.action]
        extra = {"device_id": device_id, "action": request.action}
        try:
            result = subprocess.run(  # noqa: S603  (the argument list is the device owner's own file)
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(device_id, request),
                timeout=self._file.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            log.warning("action %s killed after %s s", request.action, self._file.timeout_s, extra=extra)
            return "timed_out"
        except OSError as exc:
            log.warning("action %s cannot run: %s", request.action, exc, extra=extra)
            return "failed"
        if result.returncode != 0:
            tail = result.stderr[-200:].decode("utf-8", "replace")
            log.warning("action %s ended with %d: %s", request.action, result.returncode, tail, extra=extra)
            return "failed"
        log.info("action %s done", request.action, extra=extra)
        return "done"


def _environment(device_id: str, request: _Request) -> Mapping[str, str]:
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    score = "" if request.score is None else repr(request.score)
    return {
        **kept,
        "EDGELOOP_DEVICE_ID": device_id,
        "EDGELOOP_ACTION": request.action,
        "EDGELOOP_SCORE": score,
    }
