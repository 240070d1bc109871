"""Join tokens: for a single use, bound to one device id, stored as a hash, valid for a short time."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from feature_store.labels import ANY_PROFILE
from model_service.fleet.device_assignments import check_gateways
from model_service.holder import DEVICE_ID
from model_service.registry.database import note
from model_service.registry.registry_tables import devices, join_tokens
from schemas.boot_ids import GATEWAY
from schemas.errors import AccessError, RegistryError

TOKEN_BYTES = 32
GATEWAY_GROUP = "gateways"
"""Group of all gateways: nothing is ever rolled out to it."""


@dataclass(frozen=True)
class Invitation:
    """Identity of a device that has not joined yet.

    Attributes:
        gateway: That is to send for it; empty: it sends for itself, or goes on as it does.
    """

    device_id: str
    profile: str
    site: str
    group: str
    hardware: str
    gateway: str = ""


def invitation_of_gateway(name: str, site: str) -> Invitation:
    """Identity of a gateway: it runs no model of its own, and sends rows of any profile."""
    return Invitation(name, ANY_PROFILE, site, GATEWAY_GROUP, GATEWAY)


def create_token(
    connection: Connection, invitation: Invitation, valid_s: float, now: float, actor: str = "local"
) -> str:
    """A new token, to be carried to the device; the registry keeps its hash only.

    Args:
        connection: A transaction.
        invitation: Identity that the device gets by the token.
        valid_s: Lifetime of the token.
        now: UTC seconds.
        actor: Who invites, for the lifecycle event.

    Raises:
        RegistryError: The device id is not valid, the device was revoked, the gateway is none, or a gateway
            of this name cannot be told from another one.
    """
    device_id = invitation.device_id
    if not DEVICE_ID.fullmatch(device_id):
        raise RegistryError(f"{device_id!r} cannot be a device id: use letters, digits and _.:-, at most 64")
    known = connection.execute(select(devices.c.active).where(devices.c.device_id == device_id)).scalar()
    if known is False:
        raise RegistryError(f"{device_id} was revoked: give the device a new id")
    check_gateways(connection, device_id, invitation.hardware, invitation.gateway)
    token = secrets.token_urlsafe(TOKEN_BYTES)
    row: dict[str, Any] = {
        "token_hash": hash_of(token),
        "device_id": device_id,
        "profile": invitation.profile,
        "site": invitation.site,
        "grp": invitation.group,
        "hardware": invitation.hardware,
        "created_at": now,
        "expires_at": now + valid_s,
        "used_at": None,
        "gateway": invitation.gateway or None,
    }
    connection.execute(insert(join_tokens).values(**row))
    note(connection, f"invited/{row['token_hash'][:16]}", device_id, "device_invited", {"by": actor}, now)
    return token


def find_token(connection: Connection, token: str, device_id: str) -> RowMapping:
    """The token's row, used or not.

    Raises:
        AccessError: There is no such token, or it is for another device.
    """
    query = select(join_tokens).where(join_tokens.c.token_hash == hash_of(token))
    found = connection.execute(query).mappings().first()
    if found is None:
        raise AccessError(f"the join token for {device_id} is unknown: ask for an invitation")
    if found["device_id"] != device_id:
        raise AccessError(f"the join token is for another device than {device_id}")
    return found


def spend_token(connection: Connection, row: RowMapping, now: float) -> None:
    """Mark the token as used; call it in the transaction that stores what the token permits.

    Raises:
        AccessError: It has expired, or was used meanwhile.
    """
    device_id = row["device_id"]
    if now >= row["expires_at"]:
        raise AccessError(f"the join token for {device_id} has expired: ask for a new invitation")
    unused = (join_tokens.c.token_hash == row["token_hash"]) & join_tokens.c.used_at.is_(None)
    if connection.execute(update(join_tokens).where(unused).values(used_at=now)).rowcount != 1:
        raise AccessError(f"the join token for {device_id} was used already")


def tokens(connection: Connection, limit: int) -> list[RowMapping]:
    """Tokens, newest first, without the hash."""
    columns = [c for c in join_tokens.c if c.name != "token_hash"]
    query = select(*columns).order_by(join_tokens.c.created_at.desc()).limit(limit)
    return list(connection.execute(query).mappings())


def hash_of(token: str) -> str:
    """Hash of a token, which the registry stores instead of it."""
    return hashlib.sha256(token.encode()).hexdigest()
