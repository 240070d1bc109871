"""Edge processes of the local stack: their folders, registration, start and end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_producer.device_identity import load_or_create
from edge_producer.relearn_requests import RelearnRequests
from edge_producer.status_file import read_status
from feature_store.labels import ANY_PROFILE
from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from infra.process.child import ChildProcess
from model_service import Invitation, ModelSettings, Registry, invitation_of_gateway, invite
from schemas.boot_ids import GATEWAY
from schemas.durable import DISK
from schemas.errors import StackError
from schemas.profile import Profile
from schemas.profile_file import find_profile

STATUS_FILE = "status.json"
SPOOL_FILE = "spool.db"


def ask_to_relearn(state_dir: Path, device_ids: Sequence[str]) -> dict[str, str]:
    """Ask edge processes of this stack to learn devices anew.

    Returns:
        Name of the process by device id.

    Raises:
        StackError: No process of this stack has such a device; then none was asked.
    """
    homes = {}
    for folder in sorted((state_dir / "edge").glob("*")):
        status = read_status(folder / STATUS_FILE) if folder.is_dir() else None
        homes.update(dict.fromkeys((status or {}).get("decisions", {}), folder))
    if unknown := sorted(set(device_ids) - set(homes)):
        raise StackError(
            f"no edge process of this stack has {', '.join(unknown)}; "
            "in the field run `python -m edge_producer relearn DEVICE` on the device"
        )
    for device_id in device_ids:
        RelearnRequests(homes[device_id], [device_id]).ask(device_id)
    return {device_id: homes[device_id].name for device_id in device_ids}


@dataclass(frozen=True)
class EdgeSpec:
    """One edge process.

    Attributes:
        name: Name of the process and of its folder.
        profile: Name of a shipped profile, or path of a TOML file.
        devices: Ids of the devices that it runs.
        bootstrap_servers: Broker as this process reaches it.
        options: Further ``EdgeSettings`` fields.
        gateway: Id of the gateway that the process is; empty: each device sends for itself.
    """

    name: str
    profile: str
    devices: tuple[str, ...]
    bootstrap_servers: str
    namespace: str = ""
    site: str = "local"
    group: str = "default"
    hardware: str = "simulated"
    options: Mapping[str, str] = field(default_factory=dict)
    gateway: str = ""

    @property
    def settings(self) -> Mapping[str, str]:
        """``EdgeSettings`` fields of the process, except its folder."""
        return {
            "name": self.name,
            "profile": self.profile,
            "devices": json.dumps(self.devices),
            "bootstrap_servers": self.bootstrap_servers,
            "namespace": self.namespace,
            **({"gateway": self.gateway} if self.gateway else {}),
            **self.options,
        }


class EdgeProcess:
    """One running edge process; it ends when its owner does."""

    def __init__(self, spec: EdgeSpec, edge_root: Path, logs_dir: Path) -> None:
        self.spec = spec
        self.folder = edge_root / spec.name
        self._log_path = logs_dir / f"edge-{spec.name}.log"
        self._child: ChildProcess | None = None

    @property
    def spool(self) -> Path:
        """SQLite file of the process."""
        return self.folder / SPOOL_FILE

    @property
    def join_dir(self) -> Path:
        """Folder of the devices' join bundles; if it is absent, they have no model service."""
        return self.folder / "join"

    @property
    def child(self) -> ChildProcess:
        """The running process."""
        if self._child is None:
            raise ValueError(f"edge process {self.spec.name} was never started")
        return self._child

    def register(self, lake: Lake, profile: Profile) -> None:
        """Make keys where absent, and register profile, keys, site, group and gateway with the lake."""
        ProfileRegistry(lake).register(profile)
        records = [self._record(device, profile.name, self.spec.hardware) for device in self.spec.devices]
        if self.spec.gateway:
            behind = [replace(record, gateway=self.spec.gateway) for record in records]
            records = [self._record(self.spec.gateway, ANY_PROFILE, GATEWAY), *behind]
        DeviceRegistry(lake).register(records)

    def register_profile(self, lake: Lake, profile: Profile) -> None:
        """Register the profile alone: devices that enrol bring their own keys."""
        ProfileRegistry(lake).register(profile)

    def join(self, models: ModelSettings, delivery: str = "") -> None:
        """Write the join bundles of devices and gateway, so that they enrol when the process starts.

        Args:
            models: Settings of the model service.
            delivery: host:port of the delivery listener; empty: the model service's own.
        """
        self.join_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        profile, registry = find_profile(self.spec.profile), Registry(models.database_url)
        try:
            for invitation in self._invitations(profile):
                families = [] if invitation.hardware == GATEWAY else [profile.model.name]
                bundle = invite(models, registry, invitation, families)
                if delivery:
                    bundle = bundle.model_copy(update={"delivery": delivery})
                path = self.join_dir / f"{invitation.device_id}.json"
                DISK.write(path, bundle.model_dump_json().encode(), private=True)
        finally:
            registry.close()

    def _invitations(self, profile: Profile) -> list[Invitation]:
        """Who is to join: the gateway first, so that devices can be invited behind it."""
        spec = self.spec
        devices = [
            Invitation(device, profile.name, spec.site, spec.group, spec.hardware, spec.gateway)
            for device in spec.devices
        ]
        return [invitation_of_gateway(spec.gateway, spec.site), *devices] if spec.gateway else devices

    def _record(self, device_id: str, profile: str, hardware: str) -> DeviceRecord:
        identity = load_or_create(self.folder / "keys", device_id)
        return DeviceRecord(
            device_id=device_id,
            profile=profile,
            site=self.spec.site,
            group=self.spec.group,
            hardware=hardware,
            key_id=identity.key_id,
            public_key=identity.public_pem,
            gateway=None,
            active=True,
        )

    def start(self) -> None:
        """Start the process; `EDGE_*` variables carry its settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "edge_producer", "run"]
        self._child = ChildProcess(f"edge {self.spec.name}", command, self._log_path, self._environment())

    def update_once(self, timeout_s: float) -> int:
        """Have its devices check for an update once, without sensing; returns the exit code.

        Raises:
            StackError: It did not end in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "edge_producer", "update", "--once"]
        with ChildProcess(f"update {self.spec.name}", command, self._log_path, self._environment()) as child:
            if not child.wait(timeout_s):
                raise StackError(f"{self.spec.name} did not finish its update check within {timeout_s:.0f} s")
            return child.stop()

    def _environment(self) -> dict[str, str]:
        given = {**self.spec.settings, "state_dir": str(self.folder)}
        if self.join_dir.is_dir():
            given["join_dir"] = str(self.join_dir)
        inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith("EDGE_")}
        quiet = {"ORT_DISABLE_TELEMETRY": "1"}  # onnxruntime reads it when it is imported
        return inherited | quiet | {f"EDGE_{name.upper()}": value for name, value in given.items()}

    def stop(self, timeout_s: float = 20.0) -> None:
        """End the process; what it has not sent stays in its spool."""
        if self._child is not None:
            self._child.stop(timeout_s)

    def status(self) -> dict[str, Any]:
        """The process's newest status file; empty before the first one."""
        return read_status(self.folder / STATUS_FILE) or {}
