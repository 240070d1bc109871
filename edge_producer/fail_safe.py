"""The end of deciding: commands the fail-safe when the process ends, and has a watchdog for when it cannot.

The sensing loop gives the heartbeat. It stops with the loop, whatever the reason: an exit, a kill, a hang.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edge_producer import fail_safe_watchdog
from edge_producer.acting.action_order import ActionOrder, Cause, order_line
from edge_producer.actions import ActionRunner, command_environment, passed_on
from edge_producer.decider import NO_NUMBERS
from schemas.errors import SpoolInUseError

log = logging.getLogger(__name__)

BEATS = 8.0
"""Heartbeats within ``hold_s``, but at most one a second is needed."""
LOCK_WAIT_S = 15.0
"""Longest wait for the watchdog of an earlier process that is commanding; a command's timeout is added."""
_RESTART_S = 5.0
_END_S = 2.0


class FailSafe:
    """Commands the fail-safe of all devices of one process, once, at its end.

    Used by one thread. Without a command for the action or an actuator there is nothing to run or watch.

    Args:
        actions: Runs the commands.
        devices: Ids of the devices.
        action: Name of the profile's fail-safe action.
        folder: State folder; its lock says which process decides.
        monotonic: Steady seconds.
        numbers: What the action carries.

    Attributes:
        actions: As given.
        restarts: How often the watchdog had to be started again.
    """

    def __init__(
        self,
        actions: ActionRunner,
        devices: Sequence[str],
        action: str,
        folder: Path,
        monotonic: Callable[[], float] = time.monotonic,
        numbers: Mapping[str, float] = NO_NUMBERS,
    ) -> None:
        self.actions = actions
        self._devices = tuple(devices)
        self._action = action
        self._numbers = numbers
        self._folder = folder
        self._monotonic = monotonic
        self._lock: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._unwritten = b""
        self._beat_s = self._tried_s = float("-inf")
        self._watched = actions.file.reaches(action)
        self._started = self._ended = self._quit = False
        self.restarts = 0

    @property
    def interval_s(self) -> float:
        """Longest time that the sensing loop may take between two heartbeats."""
        return min(1.0, self.actions.file.watch_hold_s / BEATS)

    @property
    def watchdog_pid(self) -> int | None:
        """Process id of the watchdog; None where there is none."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Take over the devices: from here on this process decides, or its fail-safe is commanded.

        Raises:
            SpoolInUseError: Another process decides for them.
        """
        if self._started:
            return
        if self._watched:
            self._take_lock()
            self._start_watchdog()
        self.actions.open()
        self._started = True

    def beat(self) -> bool:
        """The heartbeat of the sensing loop; also renews the actions in force.

        Returns:
            False: the beat came so late that the watchdog may have commanded the fail-safe. Command the
            actions in force again.
        """
        now_s = self._monotonic()
        late = self._beat_s != float("-inf") and now_s - self._beat_s >= self.actions.file.watch_hold_s
        if now_s - self._beat_s < self.interval_s / 2:
            return True
        self._beat_s = now_s
        self.actions.renew()
        if self._watched:
            self._write(fail_safe_watchdog.BEAT)
        return not late

    def end(self) -> None:
        """Command the fail-safe, once, and wait for it; the watchdog repeats it if it fails."""
        if self._ended or not self._started:
            return
        self._ended = True
        succeeded = self.actions.command(self._orders("stop"))
        log.info("fail-safe %s commanded: %s", self._action, "done" if succeeded else "FAILED")
        if succeeded:
            self._quit = True
            self._write(fail_safe_watchdog.QUIT)
        self._let_go()

    def abandon(self) -> None:
        """End without a command: another process decides for these devices."""
        self._ended = self._quit = True
        self._write(fail_safe_watchdog.QUIT)
        self._let_go()

    def _orders(self, cause: Cause) -> list[ActionOrder]:
        return [ActionOrder(d, self._action, None, cause, self._numbers) for d in self._devices]

    def _let_go(self) -> None:
        self.actions.close()
        # The lock first: a watchdog that is to act needs it.
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._drop_watchdog()

    def _take_lock(self) -> None:
        deadline = self._monotonic() + LOCK_WAIT_S + self.actions.file.timeout_s
        while self._lock is None:
            try:
                self._lock = fail_safe_watchdog.take_lock(self._folder)
            except OSError as exc:
                log.warning("%s cannot be locked, going on without: %s", self._folder, exc)
                return
            if self._lock is None:
                if self._monotonic() >= deadline:
                    raise SpoolInUseError(f"{self._folder} is in use by another process")
                time.sleep(0.05)

    def _start_watchdog(self) -> None:
        order = self._watch_order()
        self._tried_s = self._monotonic()
        try:
            self._child = subprocess.Popen(  # noqa: S603  (our own module)
                [sys.executable, "-I", "-S", fail_safe_watchdog.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except (OSError, RuntimeError) as exc:
            log.error("the watchdog cannot be started: %s", exc)  # noqa: TRY400  (the message says it)
            return
        assert self._child.stdin is not None  # noqa: S101  (it is a pipe)
        os.set_blocking(self._child.stdin.fileno(), False)
        self._unwritten = order.to_line()
        self._write(b"")

    def _watch_order(self) -> fail_safe_watchdog.WatchOrder:
        file, orders = self.actions.file, self._orders("watchdog")
        argv, place = file.actions.get(self._action), file.actuator
        own = [] if place is None or place.entry_point is None else [(o, *place.command(o)) for o in orders]
        return fail_safe_watchdog.WatchOrder(
            hold_s=file.watch_hold_s,
            timeout_s=file.timeout_s,
            lock=str(self._folder.absolute()),
            commands={}
            if argv is None
            else {o.device_id: (argv, command_environment(file, o)) for o in orders},
            actuator_commands={o.device_id: (argv, {**passed_on(), **more}) for o, argv, more in own},
            socket="" if place is None or place.socket is None else place.socket,
            lines={o.device_id: order_line(o, n, file.hold_s).decode() for n, o in enumerate(orders, 1)},
            answer_s=0.0 if place is None else place.timeout_s,
        )

    def _write(self, data: bytes) -> None:
        """Write to the watchdog without ever waiting; start another one where it is gone."""
        child = self._child
        if child is None or child.stdin is None:
            self._replace_watchdog()
            return
        if not self._unwritten.endswith(data):  # one heartbeat that waits is as good as many
            self._unwritten += data
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(child.stdin.fileno(), self._unwritten) :]
        except BlockingIOError:
            return
        except OSError:
            self._drop_watchdog()
            self._replace_watchdog()

    def _replace_watchdog(self) -> None:
        if not self._ended and self._monotonic() - self._tried_s >= _RESTART_S:
            log.warning("the watchdog is gone; starting another")
            self.restarts += 1
            self._start_watchdog()

    def _drop_watchdog(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.stdin is not None:
            with contextlib.suppress(OSError):
                child.stdin.close()
            try:
                child.wait(_END_S if self._quit else 0.0)
            except subprocess.TimeoutExpired:
                child.returncode = 0  # it outlives this process, as it must: nobody is to wait for it
