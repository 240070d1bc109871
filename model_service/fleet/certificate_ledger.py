"""The ledger: issued certificates, and which of them were revoked."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from model_service.holder import Holder
from model_service.registry.database import note
from model_service.registry.registry_tables import certificates
from schemas.errors import RegistryError
from schemas.updates import Role


def record(connection: Connection, holder: Holder, not_before: float) -> None:
    """Record a certificate that is about to be issued."""
    connection.execute(
        insert(certificates).values(
            serial=holder.serial,
            subject=holder.name,
            role=",".join(sorted(holder.roles)),
            not_before=not_before,
            not_after=holder.not_after,
            revoked_at=None,
        )
    )


def revoke_all(connection: Connection, subject: str, now: float) -> int:
    """Revoke all certificates of the subject.

    Returns:
        How many were not revoked before.
    """
    held = (certificates.c.subject == subject) & certificates.c.revoked_at.is_(None)
    return connection.execute(update(certificates).where(held).values(revoked_at=now)).rowcount


def record_if_absent(connection: Connection, holder: Holder, not_before: float) -> None:
    """Record a certificate that was issued outside the registry; a repeat changes nothing."""
    if not known_serials(connection, [holder.serial]):
        record(connection, holder, not_before)


def known_serials(connection: Connection, serials: Iterable[str]) -> set[str]:
    """Those of the serials that are on record."""
    own = certificates.c.serial.in_(list(serials))
    return set(connection.execute(select(certificates.c.serial).where(own)).scalars())


def of_people(connection: Connection, limit: int) -> list[RowMapping]:
    """People's certificates, by name, the newest first."""
    rows = select(certificates).where(certificates.c.role != Role.DEVICE.value)
    ordered = rows.order_by(certificates.c.subject, certificates.c.not_before.desc(), certificates.c.serial)
    return list(connection.execute(ordered.limit(limit)).mappings())


def revoke_certificate(connection: Connection, serial: str, now: float, actor: str, reason: str) -> str:
    """Revoke a person's certificate for good; a repeat changes nothing.

    Args:
        connection: A transaction.
        serial: Serial number in hex.
        now: UTC seconds.
        actor: Who revokes it, for the lifecycle event.
        reason: Why, for the lifecycle event.

    Returns:
        The person's name.

    Raises:
        RegistryError: It is not on record, or is a device's.
    """
    own = certificates.c.serial == serial
    found = connection.execute(select(certificates).where(own)).mappings().first()
    if found is None:
        raise RegistryError(f"no certificate {serial} is on record: `edgeloop fleet people` lists them")
    name = str(found["subject"])
    if found["role"] == Role.DEVICE.value:
        raise RegistryError(f"the certificate {serial} is a device's: `edgeloop fleet revoke {name}`")
    if found["revoked_at"] is None:
        connection.execute(update(certificates).where(own).values(revoked_at=now))
        detail = {"by": actor, "serial": serial, "roles": found["role"], "why": reason}
        note(connection, f"revoked/certificate/{serial}", name, "certificate_revoked", detail, now)
    return name


def revoked_serials(connection: Connection, now: float) -> set[str]:
    """Serials of revoked certificates that have not expired."""
    still = certificates.c.revoked_at.is_not(None) & (certificates.c.not_after > now)
    return set(connection.execute(select(certificates.c.serial).where(still)).scalars())


def valid_until(connection: Connection) -> dict[str, float]:
    """When the newest certificate that is not revoked expires, UTC seconds; by subject."""
    last = func.max(certificates.c.not_after)
    query = select(certificates.c.subject, last).where(certificates.c.revoked_at.is_(None))
    return {name: float(at) for name, at in connection.execute(query.group_by(certificates.c.subject))}
