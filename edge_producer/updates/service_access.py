"""How one device reaches the model service: its join bundle, and the link and verifier made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_producer.device_identity import DeviceIdentity
from edge_producer.trust import TrustedTime, TrustVerifier
from edge_producer.updates.link import ServiceLink
from edge_producer.updates.membership import Membership, load_join
from edge_producer.updates.service_client import DeliveryClient
from schemas.durable import Disk
from schemas.errors import AccessError
from schemas.join import JoinBundle


@dataclass(frozen=True)
class DevicePaths:
    """Where a device keeps what, and how it reaches the service.

    Attributes:
        folder: The device's own.
        join_dir: Folder of join bundles; None: it asks nobody.
        poll_s: Mean time between two looks.
        offline: Whether there is no network now.
        build_time: Nothing before it is believed.
    """

    folder: Path
    join_dir: Path | None
    poll_s: float
    offline: Callable[[], bool]
    build_time: datetime
    disk: Disk


@dataclass(frozen=True)
class JoinedService:
    """What a join bundle makes possible: the bundle, and the judge of what the service sends."""

    join: JoinBundle
    verifier: TrustVerifier


class ServiceAccess:
    """One device's way to the service. ``has_joined`` may be asked by any thread, everything else by one.

    Args:
        device: Its id and key.
        place: Its folder, and where join bundles lie.
        time: What it knows of the time.
        hinted: Called by a listening thread when something may have changed; must not block.

    Attributes:
        joined: By the bundle read last; None: it has not tried to reach the service yet.
    """

    def __init__(
        self, device: DeviceIdentity, place: DevicePaths, time: TrustedTime, hinted: Callable[[int], None]
    ) -> None:
        self.device_id = device.device_id
        self.time = time
        self.joined: JoinedService | None = None
        self._device = device
        self._place = place
        self._hinted = hinted
        self._link: ServiceLink | None = None

    @property
    def is_asked(self) -> bool:
        """Whether anybody asks the device to join, or has asked before."""
        return self._place.join_dir is not None or self.joined is not None

    @property
    def has_joined(self) -> bool:
        """Whether the device has had a certificate, or nobody asked it to join. From any thread."""
        place = self._place
        bundles = [place.folder / "joined.json"]
        bundles += [place.join_dir / f"{self.device_id}.json"] if place.join_dir is not None else []
        return not any(b.exists() for b in bundles) or (place.folder / "certificate.pem").exists()

    def delivery(self, *, renew: bool = False) -> DeliveryClient:
        """The connection, made where there is none.

        Args:
            renew: Get a new certificate first: the one at hand may be why nobody answers.

        Raises:
            AccessError: There is no join bundle that can be read, or no certificate can be had.
            ServiceUnavailableError: No answer in time.
        """
        return self._connected().delivery(renew=renew)

    def drop(self) -> None:
        """Hang up; the next visit reads the join bundle anew: it may be a new one."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _connected(self) -> ServiceLink:
        if self._link is not None:
            return self._link
        place = self._place
        join = load_join(place.join_dir or place.folder, place.folder, self.device_id, place.disk)
        if join is None:
            wanted = (place.join_dir or place.folder) / f"{self.device_id}.json"
            raise AccessError(f"{self.device_id} has no join bundle: {wanted} is not there")
        membership = Membership(place.folder, join, self._device, self.time, place.disk)
        root, store = join.root_json.encode(), place.folder / "metadata"
        verifier = TrustVerifier(store, root, self.time, group=join.group, disk=place.disk)
        self.joined = JoinedService(join, verifier)
        self._link = ServiceLink(join, membership, self._hinted)
        return self._link
