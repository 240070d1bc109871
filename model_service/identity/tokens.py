"""Join tokens: single use, bound to one device id, hashed at rest, short of life."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from model_service.holder import DEVICE_ID
from model_service.registry.database import note
from model_service.registry.registry_tables import devices, join_tokens
from schemas.errors import AccessError, RegistryError

TOKEN_BYTES = 32


@dataclass(frozen=True)
class Invitation:
    """What a device will be once it joined."""

    device_id: str
    profile: str
    site: str
    group: str
    hardware: str


def create_token(
    connection: Connection, invitation: Invitation, valid_s: float, now: float, actor: str = "local"
) -> str:
    """A new token, to be carried to the device; the registry keeps its hash only.

    Args:
        connection: A transaction.
        invitation: What the token makes of the device.
        valid_s: Lifetime.
        now: UTC seconds.
        actor: Who invites, for the record.

    Raises:
        RegistryError: The device id cannot be one, or the device was revoked.
    """
    device_id = invitation.device_id
    if not DEVICE_ID.fullmatch(device_id):
        raise RegistryError(f"{device_id!r} cannot be a device id: letters, digits and _.:-, at most 64")
    known = connection.execute(select(devices.c.active).where(devices.c.device_id == device_id)).scalar()
    if known is False:
        raise RegistryError(f"{device_id} was revoked: give the device a new id")
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
    }
    connection.execute(insert(join_tokens).values(**row))
    note(connection, f"invited/{row['token_hash'][:16]}", device_id, "device_invited", {"by": actor}, now)
    return token


def find_token(connection: Connection, token: str, device_id: str) -> RowMapping:
    """The token's row, used or not.

    Raises:
        AccessError: There is no such token, or it is another device's.
    """
    query = select(join_tokens).where(join_tokens.c.token_hash == hash_of(token))
    found = connection.execute(query).mappings().first()
    if found is None:
        raise AccessError(f"the join token for {device_id} is unknown: ask for an invitation")
    if found["device_id"] != device_id:
        raise AccessError(f"the join token belongs to another device than {device_id}")
    return found


def spend_token(connection: Connection, row: RowMapping, now: float) -> None:
    """Mark the token used; whatever it pays for goes into the same transaction.

    Raises:
        AccessError: It expired, or somebody was quicker.
    """
    device_id = row["device_id"]
    if now >= row["expires_at"]:
        raise AccessError(f"the join token for {device_id} has expired: ask for a new invitation")
    unused = (join_tokens.c.token_hash == row["token_hash"]) & join_tokens.c.used_at.is_(None)
    if connection.execute(update(join_tokens).where(unused).values(used_at=now)).rowcount != 1:
        raise AccessError(f"the join token for {device_id} was used already")


def tokens(connection: Connection, limit: int) -> list[RowMapping]:
    """Newest tokens first, without what would let anybody use them."""
    columns = [c for c in join_tokens.c if c.name != "token_hash"]
    query = select(*columns).order_by(join_tokens.c.created_at.desc()).limit(limit)
    return list(connection.execute(query).mappings())


def hash_of(token: str) -> str:
    """What the registry keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()
