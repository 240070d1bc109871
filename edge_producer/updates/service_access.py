"""How one device reaches the model service: its join bundle, and the link and verifier made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_producer.certificate_files import CERTIFICATE_FILES
from edge_producer.device_identity import DeviceIdentity
from edge_producer.join_files import load_join
from edge_producer.trust import TrustedTime, TrustVerifier
from edge_producer.updates.link import ServiceLink
from edge_producer.updates.membership import Membership
from edge_producer.updates.service_client import DeliveryClient
from schemas.durable import Disk
from schemas.errors import AccessError
from schemas.join import JoinBundle


@dataclass(frozen=True)
class UpdaterOptions:
    """What one device's updater is given: folders, poll interval, network, disk.

    Attributes:
        folder: The device's own.
        join_dir: Folder of join bundles; None where the device is not to join.
        poll_s: Mean seconds between two checks.
        offline: Returns whether the network must not be used now.
        build_time: The device believes no time before this; aware.
        disk: Everything durable is written through it.
    """

    folder: Path
    join_dir: Path | None
    poll_s: float
    offline: Callable[[], bool]
    build_time: datetime
    disk: Disk


@dataclass(frozen=True)
class JoinedService:
    """A join bundle, and the verifier that its root metadata make possible."""

    join: JoinBundle
    verifier: TrustVerifier


def has_joined(options: UpdaterOptions, device_id: str) -> bool:
    """Whether the device has had a certificate, or was never asked to join."""
    bundles = [options.folder / "joined.json"]
    bundles += [options.join_dir / f"{device_id}.json"] if options.join_dir is not None else []
    return not any(b.exists() for b in bundles) or any(
        (options.folder / name).exists() for name in CERTIFICATE_FILES
    )


class ServiceAccess:
    """One device's way to the service. Any thread may read ``has_joined``; one thread uses the rest.

    Args:
        device: Id and key.
        options: Folders and disk.
        time: The device's trusted time.
        hinted: Called by a listening thread when something may have changed; must not block.

    Attributes:
        joined: From the join bundle that was read last; None before the first contact.
    """

    def __init__(
        self,
        device: DeviceIdentity,
        options: UpdaterOptions,
        time: TrustedTime,
        hinted: Callable[[int], None],
    ) -> None:
        self.device_id = device.device_id
        self.time = time
        self.joined: JoinedService | None = None
        self._device = device
        self._options = options
        self._hinted = hinted
        self._link: ServiceLink | None = None

    @property
    def is_managed(self) -> bool:
        """Whether the device has, or is to join, a service that instructs it and takes its reports."""
        return self._options.join_dir is not None or self.joined is not None

    @property
    def has_joined(self) -> bool:
        """Whether the device has had a certificate, or was never asked to join. From any thread."""
        return has_joined(self._options, self.device_id)

    def delivery(self, *, renew: bool = False) -> DeliveryClient:
        """The connection, made where there is none.

        Args:
            renew: Get a new certificate first: the present one may be why the service does not answer.

        Raises:
            AccessError: There is no join bundle that can be read, or no certificate can be had.
            ServiceUnavailableError: No answer in time.
        """
        return self._connected().delivery(renew=renew)

    def drop(self) -> None:
        """Disconnect; the next contact reads the join bundle again, because it may be a new one."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _connected(self) -> ServiceLink:
        if self._link is not None:
            return self._link
        options = self._options
        join = load_join(options.join_dir or options.folder, options.folder, self.device_id, options.disk)
        if join is None:
            wanted = (options.join_dir or options.folder) / f"{self.device_id}.json"
            raise AccessError(f"{self.device_id} has no join bundle: {wanted} is not there")
        membership = Membership(options.folder, join, self._device, self.time, options.disk)
        root, store = join.root_json.encode(), options.folder / "metadata"
        verifier = TrustVerifier(store, root, self.time, group=join.group, disk=options.disk)
        self.joined = JoinedService(join, verifier)
        self._link = ServiceLink(join, membership, self._hinted)
        return self._link
