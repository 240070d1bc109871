"""Runs many devices from one source, in real time or flat out, until it ends or is stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edge_producer.actions import ActionRunner, load_actions
from edge_producer.clock import Clock, SteadyClock
from edge_producer.device import Device, Host
from edge_producer.device_identity import DeviceIdentity, load_or_create
from edge_producer.fail_safe import FailSafe
from edge_producer.metering import Meters
from edge_producer.model_switch import ModelSwitch
from edge_producer.sending.outbox import Outbox
from edge_producer.sending.reporter import Reporter
from edge_producer.sending.sealing import Sealer
from edge_producer.sending.sender import Sender
from edge_producer.sending.writer import Writer
from edge_producer.settings import EdgeSettings
from edge_producer.spool.eviction import Eviction
from edge_producer.spool.spool import DeviceBooks, Spool
from edge_producer.updates.updater import Updater
from edge_producer.window import Predictor, SourcePause, Window, WindowSource
from schemas.durable import ABANDONED_S, DISK
from schemas.profile import Profile

log = logging.getLogger(__name__)

CROWDED_WAIT_S = 0.05
_STATUS_LEFT_BY_0_2 = "status.json.part"
"""Temporary file that a crash of release 0.2.0 left in the state folder; beside keys: ``<id>.pem.part``."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        drained: Everything sensed was acknowledged, and the books were stated.
        books: Each device's totals.
    """

    drained: bool
    books: Mapping[str, DeviceBooks]


class Runner:
    """One edge process.

    Args:
        settings: Everything an operator can set.
        profile: Profile of all devices.
        source: Gives the windows of all devices.
        predictor: Scores the windows of every device; only needed without an updater.
        clock: Steady seconds.
        updater: Gives each device its models and changes them between windows.
        fail_safe: Commands the fail-safe when sensing ends, and runs the actions; made here unless given.

    Raises:
        SpoolError: The spool or a key cannot be used.
        ProfileError: The file of actions is malformed.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        profile: Profile,
        source: WindowSource,
        predictor: Predictor | None,
        clock: Clock | None = None,
        updater: Updater | None = None,
        fail_safe: FailSafe | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._updater = updater
        self._clock = clock or SteadyClock()
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        self._fail_safe = fail_safe or FailSafe(
            ActionRunner(load_actions(settings.actions_file)),
            settings.devices,
            profile.decision.fail_safe,
            settings.state_dir,
        )
        self._actions = self._fail_safe.actions
        identities = {d: load_or_create(settings.keys_dir, d) for d in settings.devices}
        self._meters = Meters(profile, settings.message_rows)
        self._spool = Spool.open(settings.spool_path, settings.devices, profile, self._clock())
        _sweep(settings)
        self._writer = self._make_writer(identities, profile)
        host = Host(self._actions.start, self._meters, self._clock)
        models = _models(settings.devices, predictor, updater)
        self._devices = {
            name: Device(identity, profile, models[name], host, self._spool.state(name))
            for name, identity in identities.items()
        }
        self._to_export: deque[Device] = deque()
        self._next_export_s = 0.0
        self._started_s = 0.0
        self._first_event: datetime | None = None

    def run(self, stop: threading.Event) -> RunResult:
        """Sense until the source ends, its time is up or ``stop`` is set; then drain.

        Raises:
            SpoolError: The spool cannot be written.
            SourceError: The source cannot be read.
        """
        self._fail_safe.start()
        self._writer.start()
        if self._updater is not None:
            self._updater.start()
        try:
            try:
                self._sense(stop)
            finally:
                # First of all: the rest may take a minute, and nobody decides any more.
                self._fail_safe.end()
            self._stop_updates()
            drained = self._drain(stop)
        finally:
            self._stop_updates()
            self._writer.stop()
            self._writer.report_stopped()
            books = self._spool.totals()
            self._spool.close()
        log.info("stopped, %s", "drained" if drained else "not drained: the rest stays in the spool")
        return RunResult(drained, books)

    def _make_writer(self, identities: Mapping[str, DeviceIdentity], profile: Profile) -> Writer:
        settings, spool = self._settings, self._spool
        sender = Sender(settings.bootstrap_servers, settings.namespace, f"edge-{settings.name}", self._clock)
        admitted = (lambda _: True) if self._updater is None else self._updater.has_joined
        outbox = Outbox(spool, Sealer(spool, identities, profile), sender, settings, admitted)
        eviction = Eviction(spool, profile, settings.spool_max_bytes)
        reporter = Reporter(spool, sender, self._meters, profile, settings, self._extras)
        return Writer(spool, outbox, sender, eviction, reporter, settings, self._clock)

    def _extras(self) -> dict[str, Any]:
        models = {} if self._updater is None else {"models": self._updater.status()}
        return {
            "source": dict(self._source.counts),
            "actions": self._actions.totals(),
            "watchdog": {"pid": self._fail_safe.watchdog_pid, "restarts": self._fail_safe.restarts},
            **models,
        }

    def _stop_updates(self) -> None:
        if self._updater is not None:
            self._updater.stop()

    def _sense(self, stop: threading.Event) -> None:
        flat_out = self._settings.pace == "flat_out"
        self._started_s = time.monotonic()
        self._next_export_s = self._started_s + self._settings.commit_interval_s
        for item in self._source.windows():
            self._beat()
            if not flat_out and not self._wait_until_due(item.due_s, stop):
                return
            if stop.is_set() or self._over(item):
                return
            if isinstance(item, Window):
                self._process(item, flat_out=flat_out)
            self._export_if_due(everything=flat_out)
            while flat_out and self._writer.crowded and not stop.wait(CROWDED_WAIT_S):
                self._beat()

    def _beat(self) -> None:
        """Give the heartbeat; if it is late, the watchdog may have acted: command what is in force again."""
        if not self._fail_safe.beat():
            for device in self._devices.values():
                device.command_again()

    def _process(self, window: Window, *, flat_out: bool) -> None:
        if not flat_out:
            due = self._started_s + window.due_s / self._settings.speed
            self._meters.picked_up((time.monotonic() - due) * 1e3)
        device = self._devices[window.device_id]
        if device.process(window).alert:
            self._writer.submit([device.take_update()])

    def _over(self, item: Window | SourcePause) -> bool:
        limit = self._settings.duration_s
        if limit is None:
            return False
        if isinstance(item, Window) and not item.due_s:
            self._first_event = self._first_event or item.end
            return (item.end - self._first_event).total_seconds() > limit
        return item.due_s > limit

    def _wait_until_due(self, due_s: float, stop: threading.Event) -> bool:
        due = self._started_s + due_s / self._settings.speed
        while (left := due - time.monotonic()) > 0:
            if self._export_if_due(everything=False):
                continue
            until_export = max(self._next_export_s - time.monotonic(), 0.0)
            longest = min(left, until_export, self._fail_safe.interval_s)
            if stop.wait(longest if not self._to_export else 0.0):
                return False
            self._beat()
        return not stop.is_set()

    def _export_if_due(self, *, everything: bool) -> bool:
        """Hand devices' updates to the writer: one per call while windows are paced, so that none is delayed.

        Returns:
            Whether there was something to hand over.
        """
        now = time.monotonic()
        if now >= self._next_export_s:
            self._next_export_s = now + self._settings.commit_interval_s
            everything = everything or bool(self._to_export)
            self._to_export = deque(d for d in self._devices.values() if d.dirty)
        if not self._to_export:
            return False
        count = len(self._to_export) if everything else 1
        updates = [self._to_export.popleft().take_update() for _ in range(count)]
        self._writer.submit(updates, commit=not self._to_export)
        return True

    def _drain(self, stop: threading.Event) -> bool:
        for device in self._devices.values():
            device.flush()
        self._writer.submit([d.take_update() for d in self._devices.values()])
        stopped = stop.is_set()
        if not stopped and self._writer.drain(self._settings.drain_timeout_s, stop.is_set):
            return True
        return self._writer.drain(self._settings.stop_timeout_s) if stop.is_set() else False


def _sweep(settings: EdgeSettings) -> None:
    """Remove what crashed writers left. Only names of ours: a user's file may end in ``.part`` too."""
    before = time.time() - ABANDONED_S
    keys = [f"{device}.{kind}.part" for device in settings.devices for kind in ("pem", "secret")]
    DISK.sweep(settings.state_dir, before, (_STATUS_LEFT_BY_0_2,))
    DISK.sweep(settings.keys_dir, before, keys)


def _models(
    devices: Sequence[str], predictor: Predictor | None, updater: Updater | None
) -> Mapping[str, Predictor | ModelSwitch]:
    if updater is not None:
        return updater.switches
    if predictor is None:
        raise ValueError("a runner needs a predictor or an updater")
    return dict.fromkeys(devices, predictor)
