"""The updaters of one process: a thread per device beside the sensing loop, and each device's models."""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from edge_producer.config_switch import ConfigSwitch
from edge_producer.deciding.decision_function import try_parameters
from edge_producer.device_identity import DeviceIdentity, DeviceKeys, load_or_create
from edge_producer.excerpts.excerpt_desk import ExcerptDesk
from edge_producer.model_switch import ActiveModels, ModelSwitch
from edge_producer.settings import EdgeSettings
from edge_producer.updates.agent import UpdateAgent
from edge_producer.updates.config_trial import DryCall
from edge_producer.updates.gateway_membership import GatewayMembership
from edge_producer.updates.profile_record import starting_profiles
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.service_access import UpdaterOptions, has_joined
from edge_producer.updates.slots import ModelSlots
from edge_producer.updates.standby_models import standby_model
from schemas.durable import DISK, Disk
from schemas.errors import OperatorError, PipelineError, SpoolError
from schemas.profile import Profile

log = logging.getLogger(__name__)

BUILD_TIME = datetime(2026, 1, 1, tzinfo=UTC)
"""No device believes a time before this release was built."""
END_S = 10.0
RETRY_S = 30.0
"""Time between two attempts to start an updater that could not start."""
_LEFT_BY_0_2 = ("*.new", ".part-*")
"""Names of temporary files and folders that a crash of release 0.2.0 left."""


class Updater:
    """Updates of all devices of one process.

    The constructor gives every device its models without a network: the set that was in force when the last
    process ended, or an earlier one if that is damaged or did not prove itself. ``start`` then begins to
    check for new ones.

    Args:
        settings: Devices, folders and the poll interval.
        profile: Profile of all devices.
        disk: Everything durable is written through it.
        resources: What the devices share; made here unless given.
        keys: The devices' keys; read here unless given.
        patient: A device whose updater cannot start now (a full, read-only or damaged disk) gets the models
            that can be had, and its updater later. Otherwise that is an error.
        dry_call: Calls a device's decision function with parameters, to try them; None: the one that its
            profile names.

    Attributes:
        agents: Updaters that have started, by device id.
        profiles: Which version of the profile each device runs; the sensing loop goes by it.
        configs: Which configuration each device decides by; the sensing loop takes them over.
        desk: Where excerpts are made of what the sensing loop brings.

    Raises:
        OperatorError: Another process updates these devices.
        SpoolError: No set of models of a device can be loaded.
        BundleError: The factory bundle is missing or altered.
        OSError: The disk does not take what must be written.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        profile: Profile,
        disk: Disk = DISK,
        resources: UpdaterResources | None = None,
        keys: DeviceKeys | None = None,
        *,
        patient: bool = False,
        dry_call: DryCall | None = None,
    ) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._joined: set[str] = set()
        self._keys_dir, self._keys, self._patient = settings.keys_dir, keys, patient
        self.profiles = starting_profiles(profile, settings.updates_dir, settings.devices, disk)
        shadows, running = settings.shadow_previous, self.profiles.process.profile
        resources = resources or UpdaterResources.of(running, shadow_previous=shadows)
        self.configs = ConfigSwitch()
        tried_by = dry_call or resources.dry_call or self._try_parameters
        profiles = self.profiles
        self.desk = ExcerptDesk(
            settings.state_dir, settings.devices, lambda name: profiles.running(name).profile, disk
        )
        self._resources = replace(
            resources, profiles=profiles, configs=self.configs, dry_call=tried_by, desk=self.desk
        )
        self._options = UpdaterOptions(
            folder=settings.updates_dir,
            join_dir=settings.join_dir,
            poll_s=settings.update_poll_s,
            offline=lambda: settings.network_off,
            build_time=BUILD_TIME,
            disk=disk,
        )
        self._lock: IO[bytes] | None = None
        with self._tolerated():
            disk.make_folder(settings.updates_dir, private=True)
            self._lock = _locked(settings.updates_dir / "lock")
        self._gateway = self._gateway_of(settings.gateway) if settings.gateway else None
        self.agents: dict[str, UpdateAgent] = {}
        self._standby: dict[str, ModelSwitch] = {}
        for name in settings.devices:
            self._begin(name)

    def _try_parameters(self, device_id: str, values: Mapping[str, Any]) -> None:
        """Ask the decision function of a device's profile, if it has one, whether it can go by parameters."""
        profile = self.profiles.running(device_id).profile
        if profile.decision.function is not None:
            try_parameters(profile, device_id, values)

    def _gateway_of(self, name: str) -> GatewayMembership:
        options = replace(self._options, folder=self._options.folder / name)

        def identity() -> DeviceIdentity | None:
            if self._keys is None:
                return load_or_create(self._keys_dir, name)
            if not self._keys.has_key(name):
                return None
            return replace(self._keys.identities[name], signer=self._keys.signers[name])

        return GatewayMembership(name, options, identity)

    def _begin(self, name: str) -> None:
        """Start a device's updater, or have it stand by."""
        folder, disk = self._options.folder / name, self._options.disk
        with self._tolerated():  # below the devices' folders alone: an id may end like a temporary name
            disk.sweep(folder, also=_LEFT_BY_0_2, deep=True)
        try:
            self.agents[name] = self._agent(name)
        except (OSError, PipelineError):
            if not self._patient:
                raise
            log.exception("the updater cannot start now", extra={"device_id": name})
            model = standby_model(folder, self._resources, disk)
            self._standby[name] = ModelSwitch(ActiveModels(model))

    def _agent(self, name: str, switch: ModelSwitch | None = None) -> UpdateAgent:
        options = replace(self._options, folder=self._options.folder / name)
        if self._keys is None:
            identity = load_or_create(self._keys_dir, name)
        elif name in self._keys.signers:
            identity = replace(self._keys.identities[name], signer=self._keys.signers[name])
        else:
            raise SpoolError(self._keys.problems.get(name, f"{name} has no key"))
        options.disk.make_folder(options.folder, private=True)
        slots = ModelSlots(options.folder, self._resources.profile, options.disk)
        return UpdateAgent(identity, options, self._resources, slots, switch=switch)

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        """What a process can do without if its disk does not allow it."""
        try:
            yield
        except OSError as exc:
            if not self._patient:
                raise
            log.warning("%s: %s", self._options.folder, exc)

    @property
    def switches(self) -> Mapping[str, ModelSwitch]:
        """The switch of each device, by device id."""
        return {**self._standby, **{name: agent.switch for name, agent in list(self.agents.items())}}

    def has_joined(self, device_id: str) -> bool:
        """Whether the cloud knows the device: it has had a certificate, or was never asked to join."""
        return device_id in self._joined or self._find_joined(device_id)

    def _find_joined(self, device_id: str) -> bool:
        if self._gateway is not None and device_id == self._gateway.gateway:
            if self._gateway.has_joined:
                self._joined.add(device_id)
            return device_id in self._joined
        options = replace(self._options, folder=self._options.folder / device_id)
        if has_joined(options, device_id):
            self._joined.add(device_id)
        return device_id in self._joined

    def start(self) -> None:
        """Start a thread per device, and one for the gateway."""
        if self._gateway is not None:
            thread = threading.Thread(
                target=self._gateway.run, args=(self._stop,), name="update-gateway", daemon=True
            )
            thread.start()
            self._threads.append(thread)
        for name in (*self.agents, *self._standby):
            thread = threading.Thread(target=self._run, args=(name,), name=f"update-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self, name: str) -> None:
        """One device's thread: its updater, as soon as that can start."""
        while name not in self.agents:
            if self._stop.wait(RETRY_S):
                return
            try:
                self.agents[name] = self._agent(name, self._standby[name])
                log.warning("the updater has started after all", extra={"device_id": name})
            except (OSError, PipelineError) as exc:
                log.info("the updater cannot start yet: %s", exc, extra={"device_id": name})
        self.agents[name].run(self._stop)

    def stop(self) -> None:
        """End the threads in order; a trial under way begins anew at the next start."""
        self._stop.set()
        for agent in list(self.agents.values()):
            agent.wake()
        for thread in self._threads:
            thread.join(END_S)
        if self._lock is not None:
            self._lock.close()

    @property
    def gateway_status(self) -> dict[str, Any] | None:
        """Whether the gateway has joined, for the status file; None: there is none. From any thread."""
        return None if self._gateway is None else self._gateway.status

    def status(self) -> dict[str, Any]:
        """State of each device's updates, for the status file. From any thread."""
        return {name: agent.status for name, agent in list(self.agents.items())}


def _locked(path: Path) -> IO[bytes]:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        file.close()
        raise OperatorError(f"{path.parent}: another process updates these devices; stop it first") from exc
    return file
