"""The registry's devices: the newest record of each, and which were revoked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from model_service.fleet import certificate_ledger
from model_service.registry.database import note
from model_service.registry.registry_tables import devices
from schemas.errors import RegistryError


def put_device(connection: Connection, columns: Mapping[str, Any], now: float) -> None:
    """Write the device's newest record.

    Args:
        connection: A transaction.
        columns: All columns of the table except ``active`` and ``enrolled_at``.
        now: UTC seconds.
    """
    connection.execute(delete(devices).where(devices.c.device_id == columns["device_id"]))
    connection.execute(insert(devices).values(**columns, active=True, enrolled_at=now))


def device(connection: Connection, device_id: str) -> RowMapping:
    """The device's record.

    Raises:
        RegistryError: It has never joined.
    """
    found = connection.execute(select(devices).where(devices.c.device_id == device_id)).mappings().first()
    if found is None:
        raise RegistryError(f"no device {device_id} has joined: `edgeloop fleet devices` lists them")
    return found


def devices_of(connection: Connection, group: str = "", *, active_only: bool = False) -> list[RowMapping]:
    """Devices by id.

    Args:
        connection: A transaction.
        group: Empty: of all groups.
        active_only: Leave out revoked devices.
    """
    query = select(devices).order_by(devices.c.device_id)
    if group:
        query = query.where(devices.c.grp == group)
    if active_only:
        query = query.where(devices.c.active)
    return list(connection.execute(query).mappings())


def owner_of_key(connection: Connection, key_id: str) -> str | None:
    """Device that seals its telemetry with that key; None: no device does."""
    return connection.execute(select(devices.c.device_id).where(devices.c.key_id == key_id)).scalar()


def is_revoked(connection: Connection, device_id: str) -> bool:
    """Whether the device has joined and was revoked afterwards."""
    return (
        connection.execute(select(devices.c.active).where(devices.c.device_id == device_id)).scalar() is False
    )


def revoked_devices(connection: Connection) -> set[str]:
    """Ids of all revoked devices."""
    return set(connection.execute(select(devices.c.device_id).where(~devices.c.active)).scalars())


def revoke_device(connection: Connection, device_id: str, now: float, actor: str) -> None:
    """Revoke the device for good; a repeat changes nothing. The issuer revokes it in the lake.

    Raises:
        RegistryError: It has never joined.
    """
    if not device(connection, device_id)["active"]:
        return
    connection.execute(update(devices).where(devices.c.device_id == device_id).values(active=False))
    certificate_ledger.revoke_all(connection, device_id, now)
    note(connection, f"revoked/{device_id}/{now:.3f}", device_id, "device_revoked", {"by": actor}, now)
