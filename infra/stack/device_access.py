"""The way in for devices on other machines: the broker's listener, its certificate, and who is shut out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from pathlib import Path

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from infra.kafka.client_quotas import DeviceQuota, limit_devices
from infra.kafka.device_acls import device_rules, revocation_rules
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_config import TlsListener, store_locations
from infra.process.ports import free_ports, is_free
from infra.settings import DEVICE_BYTES_PER_S
from infra.stack.stack_file import DeviceAddress
from model_service import ModelSettings, authority
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, PipelineError, StackError
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

ADDRESS_FILE = "kafka.devices.json"
"""Address of the listener, as devices know it."""
REQUEST_PERCENT = 50.0
"""Of one thread of the broker, that the requests of one device may keep busy."""
KEYSTORE, TRUSTSTORE = "devices-keystore.pem", "devices-truststore.pem"


class DeviceAccess:
    """Makes the listener's files, and keeps certificate and access list up to date while the broker runs.

    Args:
        state_dir: The stack's folder.
        host: Address of this machine that devices reach.
        models: Folder of the authority, and the names that the server's certificate must carry.
        revoked: Returns the devices that are shut out.
        bytes_per_s: How much each device may write.
    """

    def __init__(
        self,
        state_dir: Path,
        host: str,
        models: ModelSettings,
        revoked: Callable[[], Set[str]],
        bytes_per_s: int = DEVICE_BYTES_PER_S,
    ) -> None:
        self._quota = DeviceQuota(float(bytes_per_s), REQUEST_PERCENT)
        self._state_dir, self._host, self._models = state_dir, host, models
        self._revoked = revoked
        self._shut_out: set[str] = set()
        self._certificate = b""
        self._problem = ""
        folder = state_dir / "kafka"
        self._listener = TlsListener(host, 0, folder / KEYSTORE, folder / TRUSTSTORE)

    def prepare(self, besides: Set[int]) -> TlsListener:
        """Make authority and certificate where they are absent, write the broker's files, choose the port.

        Args:
            besides: Ports that are promised to others.

        Raises:
            StackError: The address is not this machine's.
            DamagedFileError: The authority cannot be used.
        """
        port = self._port(besides)
        authority.init_pki(self._models)
        self._certificate = self._write_stores()
        self._listener = self._listener._replace(port=port)
        at = DeviceAddress(host=self._host, port=port)
        DISK.write(self._state_dir / ADDRESS_FILE, with_digest(orjson.dumps(at.model_dump())))
        return self._listener

    def admit(self, servers: str, namespace: str) -> None:
        """Say on the broker what devices may do, and how much of it, and who may do nothing.

        Raises:
            PipelineError: The broker does not take it.
        """
        KafkaAdmin(servers).add_access(device_rules(namespace))
        limit_devices(servers, self._quota)
        self._shut_out.clear()
        self._shut_out_revoked(servers)

    def update(self, servers: str) -> None:
        """Pass on a renewed certificate and new revocations; what fails is tried again with the next call."""
        try:
            self._shut_out_revoked(servers)
            if self._server_certificate() != self._certificate:
                renewed = self._write_stores()
                KafkaAdmin(servers).set_broker(store_locations(self._listener))
                self._certificate = renewed
                log.info("the broker shows devices its renewed certificate from now on")
            self._problem = ""
        except (PipelineError, OSError) as exc:
            if str(exc) != self._problem:
                log.warning("devices' access to the broker cannot be brought up to date: %s", exc)
            self._problem = str(exc)

    def _shut_out_revoked(self, servers: str) -> None:
        added = set(self._revoked()) - self._shut_out
        if added:
            KafkaAdmin(servers).add_access([r for name in sorted(added) for r in revocation_rules(name)])
            self._shut_out |= added

    def _port(self, besides: Set[int]) -> int:
        """The port that devices know, if it is free; else another.

        Raises:
            StackError: The address is not this machine's.
        """
        kept = kept_address(self._state_dir)
        if kept is not None and kept.port not in besides and is_free(kept.port, self._host):
            return kept.port
        try:
            [port] = free_ports(1, besides, self._host)
        except OSError as exc:
            raise StackError(
                f"--listen {self._host}: cannot listen there ({exc.strerror or exc}): name an IPv4 address "
                "of this machine, or a name that leads to one"
            ) from exc
        if kept is not None:
            log.warning("port %d was taken: devices elsewhere must be told port %d", kept.port, port)
        return port

    def _server_certificate(self) -> bytes:
        return authority.server_paths(self._models)[1].read_bytes()

    def _write_stores(self) -> bytes:
        """Write key, certificate and authority as the broker reads them; returns the certificate's file."""
        key_pem, certificate = authority.read_pair(*authority.server_paths(self._models))
        ca_pem = authority.read_ca(self._models)
        chain = x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)
        self._listener.keystore.parent.mkdir(parents=True, exist_ok=True)
        DISK.write(self._listener.keystore, key_pem + chain + ca_pem, private=True)
        DISK.write(self._listener.truststore, ca_pem)
        return certificate


def kept_address(state_dir: Path) -> DeviceAddress | None:
    """Where devices on other machines found the broker; None where nobody ever listened for them."""
    path = state_dir / ADDRESS_FILE
    data = DISK.read(path)
    try:
        return None if data is None else DeviceAddress.model_validate(checked(data, str(path)))
    except (DamagedLakeError, ValueError):
        return None
