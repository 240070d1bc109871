"""Ledger of issued certificates, and those that no longer count."""

from __future__ import annotations

from sqlalchemy import Connection, func, insert, select, update

from model_service.holder import Holder
from model_service.registry.tables import certificates


def record(connection: Connection, holder: Holder, not_before: float) -> None:
    """Enter a certificate that is about to be given out."""
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
    """Revoke what the subject holds.

    Returns:
        Certificates that counted until now.
    """
    held = (certificates.c.subject == subject) & certificates.c.revoked_at.is_(None)
    return connection.execute(update(certificates).where(held).values(revoked_at=now)).rowcount


def revoke_certificate(connection: Connection, holder: Holder, now: float) -> None:
    """Revoke one certificate, a person's for instance, which no issuer entered."""
    own = certificates.c.serial == holder.serial
    if connection.execute(update(certificates).where(own).values(revoked_at=now)).rowcount == 0:
        record(connection, holder, now)
        connection.execute(update(certificates).where(own).values(revoked_at=now))


def revoked_serials(connection: Connection, now: float) -> set[str]:
    """Serials of revoked certificates that would still be valid."""
    still = certificates.c.revoked_at.is_not(None) & (certificates.c.not_after > now)
    return set(connection.execute(select(certificates.c.serial).where(still)).scalars())


def valid_until(connection: Connection) -> dict[str, float]:
    """By subject, UTC seconds at which its newest certificate that counts ends."""
    last = func.max(certificates.c.not_after)
    query = select(certificates.c.subject, last).where(certificates.c.revoked_at.is_(None))
    return {name: float(at) for name, at in connection.execute(query.group_by(certificates.c.subject))}
