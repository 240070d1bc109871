"""Assignments of devices to gateways, as the registry has them; the issuer passes them on to the lake."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from model_service.registry.database import note
from model_service.registry.registry_tables import devices, join_tokens
from schemas.boot_ids import GATEWAY, gateway_tag
from schemas.errors import RegistryError


def assign(connection: Connection, device_ids: Sequence[str], gateway: str, now: float, actor: str) -> None:
    """Have a gateway send for these devices from now on; a repeat changes nothing.

    Args:
        connection: A transaction.
        device_ids: Devices that have joined.
        gateway: Its name; empty: each device sends for itself.
        now: UTC seconds.
        actor: Who assigns, for the lifecycle events.

    Raises:
        RegistryError: A device has never joined, was revoked or is a gateway; or the gateway is none.
    """
    known = {d: (hardware, active, before) for d, hardware, active, before in _rows(connection)}
    for device_id in device_ids:
        hardware, active, before = known.get(device_id, ("", True, None))
        if not hardware:
            raise RegistryError(f"no device {device_id} has joined: `edgeloop fleet devices` lists them")
        if not active:
            raise RegistryError(f"{device_id} was revoked")
        check_gateways(connection, device_id, hardware, gateway)
        if hardware == GATEWAY:
            raise RegistryError(f"{device_id} is a gateway: gateways are not assigned to others")
        if (before or "") != gateway:
            own = devices.c.device_id == device_id
            connection.execute(update(devices).where(own).values(gateway=gateway or None))
            detail = {"by": actor, "gateway": gateway, "before": before or ""}
            note(connection, f"assigned/{device_id}/{now:.3f}", device_id, "device_assigned", detail, now)


def assigned(connection: Connection) -> dict[str, str]:
    """Gateway by device, of those that have one."""
    query = select(devices.c.device_id, devices.c.gateway).where(devices.c.gateway.is_not(None))
    return {device_id: gateway for device_id, gateway in connection.execute(query) if gateway}


def gateway_of(connection: Connection, device_id: str) -> str | None:
    """The device's gateway; None: it has none, or has never joined."""
    return connection.execute(select(devices.c.gateway).where(devices.c.device_id == device_id)).scalar()


def check_gateways(connection: Connection, device_id: str, hardware: str, gateway: str) -> None:
    """Return if the device may be what it is to be, behind this gateway.

    Raises:
        RegistryError: The gateway is none or was revoked; or a device is to become a gateway or the other way
            round; or a gateway's boots could not be told from another one's.
    """
    gateways = _gateways(connection)
    if gateway and not gateways.get(gateway):
        known = ", ".join(sorted(n for n, active in gateways.items() if active)) or "none yet"
        command = f"`edgeloop fleet invite-gateway {gateway}`"
        raise RegistryError(f"no gateway {gateway} was invited (there are: {known}): {command}")
    if hardware != GATEWAY:
        if device_id in gateways:
            raise RegistryError(f"{device_id} is a gateway, and cannot be a device: choose another name")
        return
    if device_id not in gateways and any(device_id == name for name, *_ in _rows(connection)):
        raise RegistryError(f"{device_id} is a device, and cannot be a gateway: choose another name")
    alike = [n for n in gateways if n != device_id and gateway_tag(n) == gateway_tag(device_id)]
    if alike:
        raise RegistryError(f"boots of {device_id} would look like those of {alike[0]}: choose another name")


def _gateways(connection: Connection) -> dict[str, bool]:
    """Gateways that were invited or have joined, and whether each may join or send."""
    invited = select(join_tokens.c.device_id).where(join_tokens.c.hardware == GATEWAY)
    joined = select(devices.c.device_id, devices.c.active).where(devices.c.hardware == GATEWAY)
    found = dict.fromkeys(connection.execute(invited).scalars(), True)
    return found | {name: bool(active) for name, active in connection.execute(joined)}


def _rows(connection: Connection) -> list[tuple[str, str, bool, str | None]]:
    columns = devices.c.device_id, devices.c.hardware, devices.c.active, devices.c.gateway
    return [tuple(row) for row in connection.execute(select(*columns))]
