"""Runs many devices from one source, in real time or flat out, until it ends or is stopped."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edge_producer.calm_time import CalmTime
from edge_producer.certificate_files import CertificateWatch
from edge_producer.clock import Clock, SteadyClock
from edge_producer.config_switch import ConfigSwitch, DeviceConfigs
from edge_producer.device import Device
from edge_producer.device_host import Host
from edge_producer.device_update import DeviceUpdate
from edge_producer.hand_over import HandOver
from edge_producer.held_rows import release_held
from edge_producer.metering import Meters
from edge_producer.process_parts import (
    ProcessParts,
    make_fail_safe,
    make_state_dir,
    models_of,
    read_keys,
    require_function,
    sweep,
)
from edge_producer.profile_switch import ProfileSwitch, RunningProfile
from edge_producer.realtime_class import REALTIME
from edge_producer.relearn_requests import RelearnRequests
from edge_producer.sending.outbox import Outbox
from edge_producer.sending.reporter import Reporter
from edge_producer.sending.sealing import Sealer
from edge_producer.sending.sender import Sender
from edge_producer.sending.writer import OpenSpool, Writer
from edge_producer.settings import EdgeSettings
from edge_producer.spool.eviction import Eviction
from edge_producer.spool.spool import SPOOLS_SET_ASIDE, DeviceBooks, Spool
from edge_producer.spool.spool_housekeeping import SpoolHousekeeping
from edge_producer.spool.spool_keeper import SpoolKeeper, SpoolPlace
from edge_producer.spool.spool_messages import BlockedCount
from edge_producer.spool.spool_set_aside import copies
from edge_producer.switch_interval import SWITCH_INTERVAL
from edge_producer.window import Predictor, ReportsState, SourcePause, SourceWait, Window, WindowSource
from schemas.boot_ids import gateway_boot_ids, random_boot_id
from schemas.durable import Disk
from schemas.errors import SpoolError
from schemas.profile import Profile
from schemas.profile_versions import ProfileVersion

if TYPE_CHECKING:  # heavy (grpc, tuf), and only for devices that get their models from a service
    from edge_producer.updates.updater import Updater

log = logging.getLogger(__name__)

CROWDED_WAIT_S = 0.05
STOP_WITHIN_S = 0.2
"""Longest wait for a live source before the signal to stop is looked for."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        drained: Everything sensed was acknowledged, and the books were stated.
        books: Each device's totals; empty where there is no spool to read them from.
        blocked: Messages that the broker does not take as they are; kept in the spool.
        unkept: Rows that no spool took before the end.
    """

    drained: bool
    books: Mapping[str, DeviceBooks]
    blocked: BlockedCount
    unkept: int


class Runner:
    """One edge process. Without a usable disk it senses, decides and acts all the same.

    Args:
        settings: Everything an operator can set.
        profile: Profile of all devices.
        source: Gives the windows of all devices.
        predictor: Scores the windows of every device; only needed without an updater.
        clock: Steady seconds.
        updater: Gives each device its models and changes them between windows.
        parts: What the process has already.

    Raises:
        SpoolInUseError: Another process has the spool.
        SpoolOwnerError: The spool is of other devices, or holds what another profile has to send.
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
        parts: ProcessParts | None = None,
    ) -> None:
        parts = parts or ProcessParts()
        self._settings = settings
        self._profiles = ProfileSwitch(RunningProfile(profile)) if updater is None else updater.profiles
        self._profile = self._profiles.process.profile
        self._source = source
        self._updater, self._desk = updater, None if updater is None else updater.desk
        self._clock = clock or SteadyClock()
        make_state_dir(settings)
        self._fail_safe = parts.fail_safe or make_fail_safe(settings, self._profile)
        self._actions = self._fail_safe.actions
        self._keys = parts.keys or read_keys(settings)
        self._meters = Meters(self._profile, settings.message_rows)
        self._keeper = self._make_keeper(parts)
        spool = self._keeper.open_first()
        sweep(settings, parts.disk)
        self._allow_keys(spool)
        self._writer = self._make_writer(parts.disk)
        new_boot_id = gateway_boot_ids(settings.gateway) if settings.gateway else random_boot_id
        configs = ConfigSwitch() if updater is None else updater.configs
        held = {n: parts.parameters.get(n) or DeviceConfigs(configs, n) for n in settings.devices}
        self._host = Host(self._actions.start, self._meters, self._clock, new_boot_id, held)
        self._models = models_of(settings.devices, predictor, updater)
        self._devices = {
            name: self._make_device(name, self._profiles.running(name), self._keeper.state(name))
            for name in settings.devices
        }
        self._lose_states(spool)
        self._relearn = RelearnRequests(settings.state_dir, settings.devices, parts.disk)
        self._hand_over = HandOver(self._devices, settings.commit_interval_s, settings.row_wait_s)
        self._calm = CalmTime(self._profile.sampling, len(settings.devices))
        self._started_s = 0.0
        self._first_event: datetime | None = None

    def run(self, stop: threading.Event) -> RunResult:
        """Sense until the source ends, its time is up or ``stop`` is set; then drain.

        Raises:
            SpoolInUseError: Another process decides for these devices.
            SourceError: The source cannot be read.
        """
        self._fail_safe.start()
        self._writer.start()
        if self._updater is not None:
            self._updater.start()
        drained = False
        items = self._source.windows()
        try:
            try:
                with SWITCH_INTERVAL.led_here(wanted=self._calm.known), REALTIME.decides():
                    self._sense(items, stop)
            finally:
                # First of all: the rest may take a minute, and nobody decides any more.
                self._fail_safe.end()
                if isinstance(items, Generator):
                    items.close()  # ends the thread of a live source, which may hang
            self._stop_updates()
            drained = self._drain(stop)
        finally:
            self._stop_updates()
            result = self._end(drained)
        log.info("stopped, %s", "drained" if drained else "not drained: the rest stays in the spool")
        return result

    def _end(self, drained: bool) -> RunResult:
        """End the writer and close the spool, whatever state they are in."""
        if not self._writer.stop():
            return RunResult(drained, {}, BlockedCount(), self._writer.unkept)
        self._writer.report_stopped()
        books, blocked = dict[str, DeviceBooks](), BlockedCount()
        with suppress(SpoolError):
            if self._keeper.spool is not None:
                books, blocked = self._keeper.spool.totals(), self._keeper.spool.messages.blocked()
        self._keeper.close()
        if self._writer.unkept:
            log.error("%d rows are lost: no spool took them", self._writer.unkept)
        return RunResult(drained, books, blocked, self._writer.unkept)

    def _make_keeper(self, parts: ProcessParts) -> SpoolKeeper:
        settings = self._settings
        place = SpoolPlace(
            path=settings.spool_path,
            devices=settings.devices,
            profile=self._profile,
            max_bytes=settings.spool_max_bytes,
            reserve_bytes=settings.disk_reserve_bytes,
            disk=parts.disk,
            connect=parts.connect,
            gateway=settings.gateway,
        )
        return SpoolKeeper(place, self._keys.verifiers, self._clock)

    def _make_writer(self, disk: Disk) -> Writer:
        settings = self._settings
        keys = self._keys.signers
        shown = CertificateWatch(settings, keys, self._clock, disk) if settings.broker_tls else None
        client_id = f"edge-{settings.name}"
        sender = Sender(settings.bootstrap_servers, settings.namespace, client_id, self._clock, shown)

        def make(spool: Spool) -> OpenSpool:
            limit, profile = sender.limits.limit, self._profile  # of now: it may be another version
            sealer = Sealer(spool, self._keys.signers, profile, limit, settings.gateway)
            outbox = Outbox(spool, sealer, sender, settings, self._may_send, self._desk)
            eviction = Eviction(spool, profile, settings.spool_max_bytes)
            return OpenSpool(spool, outbox, SpoolHousekeeping(spool, self._keeper.room, eviction))

        reporter = Reporter(sender, self._meters, self._profile, settings, self._extras, disk)
        return Writer(self._keeper, make, sender, reporter, settings, self._clock, self._release_left)

    def _make_device(self, name: str, runs: RunningProfile, state: str | None) -> Device:
        """A device under a profile, with a new boot."""
        identity, model = self._keys.identities[name], self._models[name]
        return Device(identity, runs.profile, model, self._host, state, runs.header)

    def _follow_profiles(self, wanted: Mapping[str, ProfileVersion]) -> None:
        """Between two windows: end boots, and begin new ones under other versions of the profile.

        What a boot has sensed goes to the spool as it is, and is sealed as of that boot, whenever that is.
        """
        for name, version in wanted.items():
            self._devices[name].flush()
            update = self._devices[name].take_update()
            self._writer.submit([update])
            runs = RunningProfile(version.profile, version.number)
            try:
                require_function(name, version.profile)
                self._devices[name] = self._make_device(name, runs, update.state)
            except Exception as exc:
                log.exception("goes on as before, without %s", version.name, extra={"device_id": name})
                self._profiles.failed(name, version, f"{type(exc).__name__}: {exc}")
            else:
                log.info("runs %s from here on", version.name, extra={"device_id": name})
                self._profiles.taken_over(name, runs)
        self._profile = self._profiles.process.profile
        self._writer.follow(self._profile)

    def _may_send(self, device_id: str) -> bool:
        """Whether the device, and the gateway if there is one, has its key, and the cloud knows it."""
        needed = {device_id, self._settings.gateway or device_id}
        joined = self._updater is None or all(map(self._updater.has_joined, needed))
        return joined and all(map(self._keys.has_key, needed))

    def _allow_keys(self, spool: Spool | None) -> None:
        """Make the keys of devices that have never sealed anything."""
        # A spool that others were taken over into does not know what those have sealed.
        if spool is None or spool.counters().get(SPOOLS_SET_ASIDE) or copies(self._settings.state_dir):
            return
        unused = [d for d in self._settings.producers if not spool.has_sealed(d)]
        if any(d not in self._keys.signers for d in unused):
            self._keys.retry(may_create=unused)

    def _lose_states(self, spool: Spool | None) -> None:
        """Count what devices held back as lost where their state cannot be read."""
        for name in [d.device_id for d in self._devices.values() if d.state_lost]:
            with suppress(SpoolError):
                if spool is not None:
                    spool.lose_held(name)

    def _release_left(self, spool: Spool) -> list[DeviceUpdate]:
        """What devices of an earlier process held back, where the spool was opened after the start."""
        released = []
        for name, state in self._keeper.states_left().items():
            try:
                released.append(release_held(self._keys.identities[name], self._profile, state))
            except ValueError:
                log.exception("held rows are lost", extra={"device_id": name})
                spool.lose_held(name)
        return released

    def _extras(self) -> dict[str, Any]:
        functions = {n: s for n, d in self._devices.items() if (s := d.function_status) is not None}
        models = {} if self._updater is None else {"models": self._updater.status()}
        if self._settings.gateway:
            known = None if self._updater is None else self._updater.gateway_status
            models["gateway"] = known or {"name": self._settings.gateway, "joined": True, "error": ""}
        return {
            "profile_version": self._profiles.status(),
            "source": dict(self._source.counts),
            **({"source_state": dict(self._source.state)} if isinstance(self._source, ReportsState) else {}),
            **self._actions.status(),
            "watchdog": {"pid": self._fail_safe.watchdog_pid, "restarts": self._fail_safe.restarts},
            "spool": self._keeper.to_status(),
            "keys": dict(self._keys.problems),
            "references": {
                n: {"frozen": frozen, "features": of}
                for n, d in self._devices.items()
                for frozen, of in [d.frozen]
                if of
            },
            "absurd_shares": {n: s for n, d in self._devices.items() if (s := dict(d.absurd_shares))},
            **({"decision_functions": functions} if functions else {}),
            **REALTIME.status(),
            **models,
        }

    def _stop_updates(self) -> None:
        if self._updater is not None:
            self._updater.stop()

    def _sense(self, items: Iterable[Window | SourcePause | SourceWait], stop: threading.Event) -> None:
        flat_out = self._settings.pace == "flat_out"
        self._started_s = time.monotonic()
        self._hand_over.begin(self._started_s)
        for item in items:
            if not (self._calm.known and isinstance(item, Window) and item.arrived_ns):
                self._beat()  # behind a live window comes a pause, which is early enough
            due = flat_out or self._wait_until_due(item.due_s, stop)
            if not due or stop.is_set() or self._over(item):
                return
            if wanted := self._profiles.wanted:
                self._follow_profiles(wanted)
            if isinstance(item, Window):
                self._process(item, flat_out=flat_out)
            calm_s = self._calm.wait_s(time.monotonic(), window=isinstance(item, Window))
            if (calm_s or not self._export_if_due(everything=flat_out)) and isinstance(item, SourceWait):
                if item.preview and self._calm.rehearses():
                    self._calm.rehearsed(self._devices[self._settings.devices[0]].rehearse(item.preview))
                until_export = max(self._hand_over.wait_s(time.monotonic()), calm_s)
                beat_s = min(self._fail_safe.interval_s, STOP_WITHIN_S)
                SWITCH_INTERVAL.during(item.wait, item.most_s, until_export, beat_s)
            while flat_out and self._writer.crowded and not stop.is_set():
                self._writer.wait_for_room(CROWDED_WAIT_S)
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
            if not window.arrived_ns:
                window = replace(window, arrived_ns=round(due * 1e9))
        device = self._devices[window.device_id]
        if device.process(window).alert:
            self._writer.submit([device.take_update()])
        elif not flat_out:
            self._hand_over.sensed(window.device_id, time.monotonic())
        if self._desk is not None:
            self._desk.add(window, device.boot_id)

    def _over(self, item: Window | SourcePause | SourceWait) -> bool:
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
            until_export = self._hand_over.wait_s(time.monotonic())
            if SWITCH_INTERVAL.during(stop.wait, left, until_export, self._fail_safe.interval_s):
                return False
            self._beat()
        return not stop.is_set()

    def _export_if_due(self, *, everything: bool) -> bool:
        """Hand over what is due: one update per call while windows are paced, so that none is delayed.

        Returns:
            Whether there was something to hand over.
        """
        now_s, late = time.monotonic(), self._hand_over.in_round
        if self._hand_over.begins_round(now_s):
            for name in self._relearn.take():
                self._devices[name].relearn()
            everything = everything or late
        updates, commit = self._hand_over.take(now_s, everything=everything)
        if updates:
            self._writer.submit(updates, commit=commit)
        return bool(updates)

    def _drain(self, stop: threading.Event) -> bool:
        for device in self._devices.values():
            device.flush()
        self._writer.submit([d.take_update() for d in self._devices.values()])
        if not stop.is_set() and self._writer.drain(self._settings.drain_timeout_s, stop.is_set):
            return True
        return self._writer.drain(self._settings.stop_timeout_s) if stop.is_set() else False
