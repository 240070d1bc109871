"""Announced changes in the registry, as they were signed. In the caller's transaction."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, insert, inspect, select, update

from model_service.registry.registry_tables import announced_changes, certificates


class StoredAnnouncement(NamedTuple):
    """A row: what was signed, and what has become of it.

    Attributes:
        announced_at: UTC seconds.
        withdrawn_at: UTC seconds; None: it is in force.
    """

    change_id: str
    profile: str
    document: bytes
    signature: bytes
    certificate: bytes
    announced_by: str
    announced_at: float
    withdrawn_at: float | None


_COLUMNS = [announced_changes.c[name] for name in StoredAnnouncement._fields]


def store(connection: Connection, row: StoredAnnouncement) -> None:
    """Store an announcement."""
    connection.execute(insert(announced_changes).values(**row._asdict()))


def in_force(connection: Connection, profile: str) -> list[StoredAnnouncement]:
    """Announcements of a profile that nobody withdrew, the newest first."""
    c = announced_changes.c
    query = select(*_COLUMNS).where(c.profile == profile, c.withdrawn_at.is_(None))
    return _read(connection, query.order_by(c.announced_at.desc(), c.change_id))


def every_announcement(connection: Connection) -> list[StoredAnnouncement]:
    """All of them, the newest first; none in a registry of an earlier release that nobody migrated yet."""
    if not inspect(connection).has_table(announced_changes.name):
        return []
    return _read(connection, select(*_COLUMNS).order_by(announced_changes.c.announced_at.desc()))


def withdraw(connection: Connection, change_id: str, now: float) -> bool:
    """Withdraw an announcement; False: there is none of this id in force."""
    c = announced_changes.c
    own = update(announced_changes).where(c.change_id == change_id, c.withdrawn_at.is_(None))
    return connection.execute(own.values(withdrawn_at=now)).rowcount == 1


def is_revoked(connection: Connection, serial: str) -> bool:
    """Whether a certificate was revoked."""
    query = select(certificates.c.revoked_at).where(certificates.c.serial == serial)
    return connection.execute(query).scalar() is not None


def _read(connection: Connection, query: Select[Any]) -> list[StoredAnnouncement]:
    return [StoredAnnouncement(*row) for row in connection.execute(query)]
