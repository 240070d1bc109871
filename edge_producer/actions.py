"""Runs local actions: a file on the device maps their names to commands, and names a resident actuator.

The profile names actions, but only that file defines what they run. The actuator gets every action, a command
those of its name. A command never delays the sensing loop,
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
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from edge_producer.acting.action_order import ActionOrder
from edge_producer.acting.actuator_place import ActuatorPlace
from edge_producer.fail_safe_watchdog import CommandResult, run_command
from schemas.errors import ProfileError
from schemas.section import Name

log = logging.getLogger(__name__)

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
        actuator: Where the resident actuator is; None: there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_s: PositiveFloat = 10.0
    hold_s: PositiveFloat | None = None
    actions: dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    actuator: ActuatorPlace | None = None

    def reaches(self, action: str) -> bool:
        """Whether anything is told of an action."""
        return self.actuator is not None or action in self.actions

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


def passed_on() -> dict[str, str]:
    """Variables of this process that commands get."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def command_environment(file: ActionFile, order: ActionOrder) -> dict[str, str]:
    """What a command is told: variables ``EDGELOOP_*``, and a few of this process's own."""
    return {
        **passed_on(),
        "EDGELOOP_DEVICE_ID": order.device_id,
        "EDGELOOP_ACTION": order.action,
        "EDGELOOP_SCORE": "" if order.score is None else repr(order.score),
        "EDGELOOP_HOLD_S": "" if file.hold_s is None else repr(file.hold_s),
        "EDGELOOP_CAUSE": order.cause,
        **{f"EDGELOOP_NUMBER_{name.upper()}": repr(value) for name, value in order.numbers.items()},
    }


class ActionRunner:
    """Tells commands and the resident actuator of actions that come into force; newest wins.

    Args:
        file: Maps actions to commands, and says where the actuator is.
        monotonic: Steady seconds, for renewals.

    Attributes:
        file: As given.
        actuator: What gets every action at once; None: there is none.
        counts: Of commands: ``recorded`` (none is mapped, and there is no actuator), ``started``, ``done``,
            ``failed``, ``timed_out``, ``superseded`` (another action came into force before the command
            began); ``renewed``, of both.
    """

    def __init__(self, file: ActionFile, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.file = file
        self.actuator = None if file.actuator is None else file.actuator.make(file.hold_s)
        self._monotonic = monotonic
        self._waiting: dict[str, ActionOrder] = {}
        self._busy: set[str] = set()
        self._failed: set[str] = set()
        self._in_force: dict[str, tuple[ActionOrder, float]] = {}
        self._changed = threading.Condition()
        self.counts: Counter[str] = Counter()

    def open(self) -> None:
        """Reach for the actuator, if there is one."""
        if self.actuator is not None:
            try:
                self.actuator.open()
            except RuntimeError as exc:  # no more threads; commands may do without
                log.error("the actuator cannot be reached: %s", exc)  # noqa: TRY400  (the message says it)

    def close(self) -> None:
        """Let go of the actuator."""
        if self.actuator is not None:
            self.actuator.close()

    def start(self, order: ActionOrder) -> None:
        """Carry out an action that came into force; returns at once, and never raises."""
        if self.actuator is not None:
            try:
                self.actuator.hand_over(order)
            except Exception:  # whatever it is: sensing goes on
                log.exception("an action is not handed over", extra={"device_id": order.device_id})
        device_id = order.device_id
        self._in_force[device_id] = (order, self._monotonic())
        with self._changed:
            if order.action not in self.file.actions:
                self.counts["recorded"] += self.actuator is None
                return
            self.counts["superseded"] += device_id in self._waiting
            self._waiting[device_id] = order
            if device_id in self._busy:
                return
            self._busy.add(device_id)
        try:
            name = f"action-{device_id}"
            threading.Thread(target=self._work, args=(device_id,), name=name, daemon=True).start()
        except RuntimeError as exc:  # no more threads: the next action, or the next renewal, tries again
            self._give_up(device_id, exc)

    def renew(self) -> None:
        """Order the actions in force again where their hold is about to end."""
        if self.file.hold_s is None:
            return
        now_s = self._monotonic()
        for order, at_s in list(self._in_force.values()):
            if now_s - at_s >= self.file.hold_s / RENEWALS and self.file.reaches(order.action):
                with self._changed:
                    self.counts["renewed"] += 1
                self.start(replace(order, cause="renewal", arrived_ns=0, decided_ns=0))

    def command(self, orders: Iterable[ActionOrder]) -> bool:
        """Carry out an action on several devices, and wait until that is done; whether it succeeded on all.

        What runs there already is waited for: at most ``timeout_s`` twice in all, and the actuator's.
        """
        given = list(orders)
        for order in given:
            self.start(order)
        names = [order.device_id for order in given]
        running = [order.device_id for order in given if order.action in self.file.actions]
        with self._changed:
            self._changed.wait_for(
                lambda: not self._busy.intersection(running), 2 * self.file.timeout_s + 1.0
            )
            succeeded = not (self._failed | self._busy).intersection(running)
        if self.file.actuator is None or self.actuator is None:
            return succeeded
        return self.actuator.wait_until_settled(names, 2 * self.file.actuator.timeout_s + 1.0) and succeeded

    def status(self) -> dict[str, Any]:
        """For the status file."""
        actuator = {} if self.actuator is None else {"actuator": self.actuator.status()}
        return {"actions": self.totals(), **actuator}

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
                order = self._waiting.pop(device_id, None)
                if order is None:
                    self._busy.discard(device_id)
                    self._changed.notify_all()
                    return
                self.counts["started"] += 1
            result = self._run(order)
            with self._changed:
                self.counts[result.outcome] += 1
                if result.outcome == "done":
                    self._failed.discard(device_id)
                else:
                    self._failed.add(device_id)

    def _run(self, order: ActionOrder) -> CommandResult:
        environment = command_environment(self.file, order)
        extra = {"device_id": order.device_id, "action": order.action}
        try:
            result = run_command(self.file.actions[order.action], environment, self.file.timeout_s)
        except Exception as exc:  # noqa: BLE001  (the thread must live: it would stay the device's only one)
            result = CommandResult("failed", f"{type(exc).__name__}: {exc}")
        if result.outcome != "done":
            log.warning("action %s %s", order.action, result.detail, extra=extra)
        elif order.cause != "renewal":
            log.info("action %s done", order.action, extra=extra)
        return result
