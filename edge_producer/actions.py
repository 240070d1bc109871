"""Runs local actions: a file on the device maps the names of actions to commands.

The profile names actions, but only that file defines what they run. A command never delays the sensing loop,
and whatever goes wrong with one is counted and logged: nothing of it reaches the loop.

A command holds for ``hold_s`` where the file says so. It is handed to the command, and the command is run
again (renewed) three times within it as long as the process lives: an actuator that is not told again may
take its own safe state. The watchdog commands the fail-safe if the process cannot.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from edge_producer.fail_safe_watchdog import CommandResult, run_command
from schemas.errors import ProfileError
from schemas.section import Name

log = logging.getLogger(__name__)

Cause = Literal["decision", "renewal", "stop", "watchdog"]
"""Why a command runs: the action came into force (or the process has just started), it is renewed, the
process ends, or it ended without a word."""
WATCH_HOLD_S = 30.0
"""Seconds without a heartbeat after which the watchdog acts, where the file does not say."""
RENEWALS = 3.0
"""Times that an action in force is renewed within ``hold_s``."""
_PASSED_ON = ("PATH", "HOME", "LANG", "TZ")


class ActionFile(BaseModel):
    """Contents of ``actions.toml``.

    Attributes:
        timeout_s: A command that runs longer is killed.
        hold_s: How long a command holds without being run again, seconds; None: until another one, and
            commands run only when an action comes into force. The watchdog waits so long for a heartbeat.
        actions: Argument list by action name; no shell is involved.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_s: PositiveFloat = 10.0
    hold_s: PositiveFloat | None = None
    actions: dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]] = {}

    @property
    def watch_hold_s(self) -> float:
        """Seconds without a heartbeat after which the watchdog commands the fail-safe."""
        return WATCH_HOLD_S if self.hold_s is None else self.hold_s


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


def command_environment(
    file: ActionFile, device_id: str, action: str, score: float | None, cause: Cause
) -> dict[str, str]:
    """What a command is told: variables ``EDGELOOP_*``, and a few of this process's own."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **kept,
        "EDGELOOP_DEVICE_ID": device_id,
        "EDGELOOP_ACTION": action,
        "EDGELOOP_SCORE": "" if score is None else repr(score),
        "EDGELOOP_HOLD_S": "" if file.hold_s is None else repr(file.hold_s),
        "EDGELOOP_CAUSE": cause,
    }


@dataclass(frozen=True, slots=True)
class _Request:
    action: str
    score: float | None
    cause: Cause


class ActionRunner:
    """Runs the commands of actions that come into force, one at a time per device, newest wins.

    Args:
        file: Maps actions to commands.
        monotonic: Steady seconds, for renewals.

    Attributes:
        file: As given.
        counts: ``recorded`` (no command is mapped), ``started``, ``done``, ``failed``, ``timed_out``,
            ``superseded`` (another action came into force before the command began), ``renewed``.
    """

    def __init__(self, file: ActionFile, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.file = file
        self._monotonic = monotonic
        self._waiting: dict[str, _Request] = {}
        self._busy: set[str] = set()
        self._failed: set[str] = set()
        self._in_force: dict[str, tuple[_Request, float]] = {}
        self._changed = threading.Condition()
        self.counts: Counter[str] = Counter()

    def start(
        self, device_id: str, action: str, score: float | None = None, cause: Cause = "decision"
    ) -> None:
        """Carry out an action that came into force; returns at once, and never raises."""
        request = _Request(action, score, cause)
        self._in_force[device_id] = (request, self._monotonic())
        with self._changed:
            if action not in self.file.actions:
                self.counts["recorded"] += 1
                return
            self.counts["superseded"] += device_id in self._waiting
            self._waiting[device_id] = request
            if device_id in self._busy:
                return
            self._busy.add(device_id)
        try:
            name = f"action-{device_id}"
            threading.Thread(target=self._work, args=(device_id,), name=name, daemon=True).start()
        except RuntimeError as exc:  # no more threads: the next action, or the next renewal, tries again
            self._give_up(device_id, exc)

    def renew(self) -> None:
        """Run the commands of the actions in force again where their hold is about to end."""
        if self.file.hold_s is None:
            return
        now_s = self._monotonic()
        for device_id, (request, at_s) in list(self._in_force.items()):
            if now_s - at_s >= self.file.hold_s / RENEWALS and request.action in self.file.actions:
                with self._changed:
                    self.counts["renewed"] += 1
                self.start(device_id, request.action, request.score, "renewal")

    def command(self, devices: Iterable[str], action: str, cause: Cause) -> bool:
        """Carry out an action on all devices, and wait until that is done; whether it succeeded on all.

        What runs there already is waited for: at most ``timeout_s`` twice in all.
        """
        names = list(devices)
        for device_id in names:
            self.start(device_id, action, None, cause)
        if action not in self.file.actions:
            return True
        with self._changed:
            self._changed.wait_for(lambda: not self._busy.intersection(names), 2 * self.file.timeout_s + 1.0)
            return not (self._failed | self._busy).intersection(names)

    def totals(self) -> dict[str, int]:
        """Copy of the counts."""
        with self._changed:
            return dict(self.counts)

    def _give_up(self, device_id: str, error: Exception) -> None:
        log.error("an action cannot be started: %s", error, extra={"device_id": device_id})
        with self._changed:
            self.counts["failed"] += 1
            self._failed.add(device_id)
            self._waiting.pop(device_id, None)
            self._busy.discard(device_id)
            self._changed.notify_all()

    def _work(self, device_id: str) -> None:
        while True:
            with self._changed:
                request = self._waiting.pop(device_id, None)
                if request is None:
                    self._busy.discard(device_id)
                    self._changed.notify_all()
                    return
                self.counts["started"] += 1
            result = self._run(device_id, request)
            with self._changed:
                self.counts[result.outcome] += 1
                if result.outcome == "done":
                    self._failed.discard(device_id)
                else:
                    self._failed.add(device_id)

    def _run(self, device_id: str, request: _Request) -> CommandResult:
        environment = command_environment(self.file, device_id, request.action, request.score, request.cause)
        extra = {"device_id": device_id, "action": request.action}
        try:
            result = run_command(self.file.actions[request.action], environment, self.file.timeout_s)
        except Exception as exc:  # noqa: BLE001  (the thread must live: it would stay the device's only one)
            result = CommandResult("failed", f"{type(exc).__name__}: {exc}")
        if result.outcome != "done":
            log.warning("action %s %s", request.action, result.detail, extra=extra)
        elif request.cause != "renewal":
            log.info("action %s done", request.action, extra=extra)
        return result
