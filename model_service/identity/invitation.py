"""Makes join bundles: the file that a person carries to a new device of this deployment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from model_service.address import Address, read_address
from model_service.identity.authority import read_ca
from model_service.identity.tokens import Invitation, create_token
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from model_service.trust.published_files import PublishedFiles
from schemas.errors import OperatorError, ServiceUnavailableError
from schemas.join import JoinBundle


@dataclass(frozen=True)
class DeviceNeeds:
    """What a device needs beside its model service to begin with nothing but its bundle.

    Attributes:
        broker: host:port of Kafka, as the device reaches it.
        broker_tls: Kafka wants mutual TLS there.
        namespace: Prefix of topics.
        profile: The profile as an object; None: a gateway, which has none.
    """

    broker: str = ""
    broker_tls: bool = False
    namespace: str = ""
    profile: dict[str, Any] | None = None


def invite(
    settings: ModelSettings,
    registry: Registry,
    invitation: Invitation,
    families: Sequence[str],
    address: Address | None = None,
) -> JoinBundle:
    """A join bundle with a new token, made in this process.

    Args:
        settings: Settings of the deployment; ``token_s`` is the lifetime of the token.
        registry: Stores the token.
        invitation: Identity of the device.
        families: Model families that it runs.
        address: Where the device will find the service; None: the address that the serving process wrote.

    Raises:
        RegistryError: The device id is not valid, or the device was revoked.
        ServiceUnavailableError: No serving process has ever written its address.
        OperatorError: Authority or trust root do not exist yet.
    """
    with registry.transaction() as connection:
        token = create_token(connection, invitation, settings.token_s, time.time())
    return join_bundle(settings, invitation, families, token, address)


def join_bundle(
    settings: ModelSettings,
    invitation: Invitation,
    families: Sequence[str],
    token: str,
    address: Address | None = None,
    needs: DeviceNeeds | None = None,
) -> JoinBundle:
    """A join bundle around a token.

    Args:
        settings: Settings of the deployment.
        invitation: Identity of the device.
        families: Model families that it runs.
        token: Single use.
        address: Where the device will find the service; None: the address that the serving process wrote.
        needs: Broker and profile; None: the device is told of them in another way.

    Raises:
        ServiceUnavailableError: No serving process has ever written its address.
        OperatorError: Authority or trust root do not exist yet.
    """
    at = address or read_address(settings)
    if at is None:
        raise ServiceUnavailableError(f"no model service has started in {settings.root}: `edgeloop up`")
    try:
        ca_pem = read_ca(settings).decode()
        root_json = newest_root(settings).decode()
    except OSError as exc:
        raise OperatorError(f"nobody can be invited yet: {exc}") from exc
    return JoinBundle(
        device_id=invitation.device_id,
        token=token,
        enrollment=f"{at.host}:{at.enrollment_port}",
        delivery=f"{at.host}:{at.delivery_port}",
        server_name=settings.names[0],
        ca_pem=ca_pem,
        root_json=root_json,
        group=invitation.group,
        hardware=invitation.hardware,
        families=tuple(families),
        **({} if needs is None else asdict(needs)),
    )


def newest_root(settings: ModelSettings) -> bytes:
    """The newest trusted root metadata.

    Raises:
        OSError: There is none.
        DamagedFileError: One is damaged, and so is its copy.
    """
    files = PublishedFiles(settings.repository)
    roots = list(files.roots())
    if not roots:
        raise FileNotFoundError(f"no root metadata in {files.metadata}: `edgeloop trust init`")
    return roots[-1]
