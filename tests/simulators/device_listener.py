"""A real broker with its listener for devices at an address of this machine, and certificates."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_producer.certificate_files import CERTIFICATE_FILES, CertificateWatch
from edge_producer.settings import EdgeSettings
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_broker import KafkaBroker
from infra.settings import default_cache_dir
from infra.stack.device_access import DeviceAccess
from model_service import ModelSettings, authority
from schemas.envelope import MessageSigner
from schemas.join import JoinBundle
from schemas.updates import Role

LIFE = timedelta(hours=1)


def own_address() -> str | None:
    """An IPv4 address of this machine that is not loopback; None where it has none."""
    for of_card in psutil.net_if_addrs().values():
        for one in of_card:
            if one.family.name == "AF_INET" and not one.address.startswith("127."):
                return str(one.address)
    return None


class DeviceListener:
    """Broker and authority. Ends what it started.

    Attributes:
        revoked: Devices that are shut out at the next ``access.update``.
    """

    def __init__(self, folder: Path, address: str) -> None:
        names = ("localhost", "127.0.0.1", address)
        self.models = ModelSettings(
            root=folder / "models", lake_root=folder / "lake", listen=address, names=names
        )
        self.models.root.mkdir(parents=True)
        self.revoked: set[str] = set()
        self.access = DeviceAccess(folder, address, self.models, lambda: self.revoked)
        self.listener = self.access.prepare(set())
        self.address = self.listener.address
        self.broker = KafkaBroker(folder / "kafka", default_cache_dir(os.environ), extra=[self.listener])

    def __enter__(self) -> DeviceListener:
        self.broker.start()
        self.admin = KafkaAdmin(self.broker.bootstrap_servers)
        self.admin.create_topics()
        self.access.admit(self.broker.bootstrap_servers, "")
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.stop()

    def certify(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        role: Role = Role.DEVICE,
        *,
        ago: timedelta = timedelta(0),
        life: timedelta = LIFE,
    ) -> bytes:
        """A certificate, PEM, issued so long ago."""
        issued = datetime.now(UTC) - ago
        made = authority.Authority.load(self.models).certify_client(name, [role], key, issued, life)
        return made.public_bytes(serialization.Encoding.PEM)

    def client(self, name: str, role: Role = Role.DEVICE, **when: timedelta) -> dict[str, str]:
        """Settings of a Kafka client that comes with a certificate of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        return {
            "bootstrap.servers": self.address,
            "security.protocol": "ssl",
            "ssl.ca.pem": authority.read_ca(self.models).decode(),
            "ssl.certificate.pem": self.certify(name, key.public_key(), role, **when).decode(),
            "ssl.key.pem": MessageSigner(key).private_pem().decode(),
        }

    def device(self, folder: Path, name: str, ca_pem: bytes | None = None) -> JoinedDevice:
        """A device that has joined; with ``ca_pem`` it trusts another authority."""
        return JoinedDevice(self, folder, name, ca_pem or authority.read_ca(self.models))


class JoinedDevice:
    """Folder of a device that has a certificate, as its updater leaves it."""

    def __init__(self, listener: DeviceListener, folder: Path, name: str, ca_pem: bytes) -> None:
        self._listener, self.name = listener, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.signer = MessageSigner(self.key)
        self.settings = EdgeSettings(
            state_dir=folder, profile="machine", devices=(name,), bootstrap_servers=listener.address,
            broker_tls=True, join_dir=folder / "join",
        )  # fmt: skip
        bundle = JoinBundle(
            device_id=name, token="t", enrollment="127.0.0.1:1", delivery="127.0.0.1:2",
            ca_pem=ca_pem.decode(), root_json="{}", group="default", hardware="sim", families=("machine",),
            broker=listener.address, broker_tls=True,
        )  # fmt: skip
        (folder / "join").mkdir(parents=True)
        (folder / "join" / f"{name}.json").write_text(bundle.model_dump_json())

    def renew(self, **when: timedelta) -> bytes:
        """A new certificate for the same key, written as the updater does."""
        pem = self._listener.certify(self.name, self.key.public_key(), **when)
        folder = self.settings.updates_dir / self.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in reversed(CERTIFICATE_FILES):
            part = folder / f"{name}.part"
            part.write_bytes(pem)
            part.replace(folder / name)
        return pem

    def watch(self, clock) -> CertificateWatch:
        """What gives the sender its certificate."""
        return CertificateWatch(self.settings, {self.name: self.signer}, clock)
