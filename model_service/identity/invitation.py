"""Makes join bundles: the file that a person carries to a new device of this deployment."""

from __future__ import annotations

import time
from collections.abc import Sequence

from model_service.address import Address, read_address
from model_service.identity.authority import read_ca
from model_service.identity.tokens import Invitation, create_token
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from model_service.trust.published_files import PublishedFiles
from schemas.errors import OperatorError, ServiceUnavailableError
from schemas.join import JoinBundle


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
) -> JoinBundle:
    """A join bundle around a token.

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
