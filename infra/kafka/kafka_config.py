"""The local broker's configuration: pure values, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from infra.process.ports import LOOPBACK
from schemas.topics import MAX_MESSAGE_BYTES

BROKER_MAX_MESSAGE_BYTES = MAX_MESSAGE_BYTES * 104 // 100
DEFAULT_LISTENER = "PLAINTEXT"
CONTROLLER = "CONTROLLER"
DEVICE_LISTENER = "DEVICES"
"""Name of the listener for devices on other machines."""
DEVICE_PRINCIPAL = "device "
"""How names of those begin who come through it; behind it stands the certificate's common name."""
NODE_ID = "1"


class ExtraListener(NamedTuple):
    """One more address of the broker, reached through a proxy.

    Attributes:
        name: Upper-case name, for example ``SITE_A``.
        bind_port: Port on which the broker listens.
        advertised_port: Port that the broker advertises to this listener's clients: the proxy's. A client
            that connects through the proxy then stays on it.
    """

    name: str
    bind_port: int
    advertised_port: int


class TlsListener(NamedTuple):
    """The listener for devices on other machines: mutual TLS, and only what the access rules allow.

    Attributes:
        host: Name or address that it binds, and that clients are told.
        port: Likewise.
        keystore: PEM file of the server's key and certificate.
        truststore: PEM file of the authority that certifies devices.
    """

    host: str
    port: int
    keystore: Path
    truststore: Path

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"{self.host}:{self.port}"


def server_properties(
    data_dir: Path,
    port: int,
    controller_port: int,
    extra: Sequence[ExtraListener] = (),
    devices: TlsListener | None = None,
) -> str:
    """Properties file of one combined KRaft node, sized for one machine.

    Whoever reaches a loopback listener may do everything. Through the device listener nobody may do anything
    that ``device_acls.py`` does not allow.
    """
    names = [DEFAULT_LISTENER, *(e.name for e in extra)]
    binds = [f"{DEFAULT_LISTENER}://{LOOPBACK}:{port}"]
    binds += [f"{e.name}://{LOOPBACK}:{e.bind_port}" for e in extra]
    advertised = [f"{DEFAULT_LISTENER}://{LOOPBACK}:{port}"]
    advertised += [f"{e.name}://{LOOPBACK}:{e.advertised_port}" for e in extra]
    protocols = [f"{n}:PLAINTEXT" for n in [*names, CONTROLLER]]
    if devices is not None:
        binds.append(f"{DEVICE_LISTENER}://{devices.address}")
        advertised.append(f"{DEVICE_LISTENER}://{devices.address}")
        protocols.append(f"{DEVICE_LISTENER}:SSL")
    settings = {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        "controller.quorum.voters": f"{NODE_ID}@{LOOPBACK}:{controller_port}",
        "controller.listener.names": CONTROLLER,
        "inter.broker.listener.name": DEFAULT_LISTENER,
        "listeners": ",".join([*binds, f"{CONTROLLER}://{LOOPBACK}:{controller_port}"]),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": ",".join(protocols),
        "log.dirs": str(data_dir),
        **_FIXED,
        **({} if devices is None else _guarded(devices)),
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def store_locations(devices: TlsListener) -> dict[str, str]:
    """Where the listener's key and authority lie; the broker reads the files again when these are set."""
    prefix = f"listener.name.{DEVICE_LISTENER.lower()}.ssl."
    return {
        f"{prefix}keystore.location": str(devices.keystore),
        f"{prefix}truststore.location": str(devices.truststore),
    }


def _guarded(devices: TlsListener) -> dict[str, str]:
    prefix = f"listener.name.{DEVICE_LISTENER.lower()}.ssl."
    return {
        **store_locations(devices),
        f"{prefix}keystore.type": "PEM",
        f"{prefix}truststore.type": "PEM",
        f"{prefix}client.auth": "required",
        # The subject as Java writes it, last part first. A certificate of any other role gets no connection.
        f"{prefix}principal.mapping.rules": f"RULE:^OU=device,CN=([A-Za-z0-9_.:-]+)$/{DEVICE_PRINCIPAL}$1/",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # Those of the loopback listeners, the broker itself among them. No certificate maps to this name.
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "false",
    }


_FIXED = {
    # One node keeps one copy.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Small, so that a start takes seconds and a stack fits beside other work.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "2",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": str(4 * 1024**2),
    "log.index.size.max.bytes": str(1024**2),
    # A worker that joins or leaves causes a new assignment at once, not after three seconds.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # Topics are made by name with their settings; a typing error must not make one.
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(BROKER_MAX_MESSAGE_BYTES),
    "replica.fetch.max.bytes": str(BROKER_MAX_MESSAGE_BYTES),
    "log.retention.hours": str(7 * 24),
    "controlled.shutdown.enable": "false",
    # A broker that was killed may register again only when its old session ended: nine seconds by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "1000",
}
