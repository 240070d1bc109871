"""The updaters of one process: a thread per device beside the sensing loop, and each device's models."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from edge_producer.device_identity import load_or_create
from edge_producer.model_switch import ModelSwitch
from edge_producer.settings import EdgeSettings
from edge_producer.updates.agent import UpdateAgent
from edge_producer.updates.resources import UpdaterResources
from edge_producer.updates.service_access import UpdaterOptions
from edge_producer.updates.slots import ModelSlots
from schemas.durable import DISK, Disk
from schemas.errors import OperatorError
from schemas.profile import Profile

BUILD_TIME = datetime(2026, 1, 1, tzinfo=UTC)
"""No device believes a time before this release was built."""
END_S = 10.0
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

    Raises:
        OperatorError: Another process updates these devices.
        SpoolError: No set of models of a device can be loaded.
        BundleError: The factory bundle is missing or altered.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        profile: Profile,
        disk: Disk = DISK,
        resources: UpdaterResources | None = None,
    ) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._joined: set[str] = set()
        disk.make_folder(settings.updates_dir, private=True)
        self._lock = _locked(settings.updates_dir / "lock")
        for (
            device
        ) in settings.devices:  # below the devices' folders alone: an id may end like a temporary name
            disk.sweep(settings.updates_dir / device, also=_LEFT_BY_0_2, deep=True)
        resources = resources or UpdaterResources.of(profile, shadow_previous=settings.shadow_previous)
        options = UpdaterOptions(
            folder=settings.updates_dir,
            join_dir=settings.join_dir,
            poll_s=settings.update_poll_s,
            offline=lambda: settings.network_off,
            build_time=BUILD_TIME,
            disk=disk,
        )
        self.agents: dict[str, UpdateAgent] = {}
        for name in settings.devices:
            folder = settings.updates_dir / name
            disk.make_folder(folder, private=True)
            identity = load_or_create(settings.keys_dir, name)
            slots = ModelSlots(folder, profile, disk)
            self.agents[name] = UpdateAgent(identity, replace(options, folder=folder), resources, slots)

    @property
    def switches(self) -> Mapping[str, ModelSwitch]:
        """The switch of each device, by device id."""
        return {name: agent.switch for name, agent in self.agents.items()}

    def has_joined(self, device_id: str) -> bool:
        """Whether the cloud knows the device: it has had a certificate, or was never asked to join."""
        return device_id in self._joined or self._find_joined(device_id)

    def _find_joined(self, device_id: str) -> bool:
        if self.agents[device_id].has_joined:
            self._joined.add(device_id)
        return device_id in self._joined

    def start(self) -> None:
        """Start a thread per device."""
        for name, agent in self.agents.items():
            thread = threading.Thread(
                target=agent.run, args=(self._stop,), name=f"update-{name}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End the threads in order; a trial under way begins anew at the next start."""
        self._stop.set()
        for agent in self.agents.values():
            agent.wake()
        for thread in self._threads:
            thread.join(END_S)
        self._lock.close()

    def status(self) -> dict[str, Any]:
        """State of each device's updates, for the status file. From any thread."""
        return {name: agent.status for name, agent in self.agents.items()}


def has_models(settings: EdgeSettings) -> bool:
    """Whether the devices get their models from a service, or did so before."""
    return settings.join_dir is not None or settings.updates_dir.is_dir()


def _locked(path: Path) -> IO[bytes]:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        file.close()
        raise OperatorError(f"{path.parent}: another process updates these devices; stop it first") from exc
    return file
