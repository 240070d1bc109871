"""A second record of each revocation, beside the registry: what was revoked stays so if the registry is lost.

``revoked/<kind>-<digest of the name>.json`` names a device or the serial of a person's certificate. The
engine makes the files from the registry, and revokes again in the registry what only a file knows: a registry
that was set back, made anew or altered lets nobody in who had been shut out.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Literal, NamedTuple

import orjson
from sqlalchemy import Connection, select

from model_service.fleet import certificate_ledger, devices
from model_service.registry.database import Registry
from model_service.registry.registry_tables import certificates
from model_service.registry.registry_tables import devices as device_table
from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest
from schemas.updates import Role

log = logging.getLogger(__name__)

FOLDER = "revoked"
_ACTOR = "revocation copy"
Kind = Literal["device", "certificate"]


class Revocations(NamedTuple):
    """Devices by id and people's certificates by serial."""

    devices: AbstractSet[str] = frozenset()
    serials: AbstractSet[str] = frozenset()


class RevocationCopies:
    """The files of one model service.

    Args:
        root: Its folder.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / FOLDER
        self._known: dict[tuple[str, int], tuple[Kind, str] | None] = {}

    def all(self) -> Revocations:
        """What the files say; one that is damaged says nothing, and is made anew from the registry."""
        for path in self._folder.glob("[dc]*-*.json"):
            mark = path.name, _changed_at(path)
            if mark not in self._known:  # a damaged one is read, and named, once
                self._known[mark] = _read(path)
        known = [entry for entry in self._known.values() if entry is not None]
        return Revocations(*({name for k, name in known if k == kind} for kind in ("device", "certificate")))

    def reconcile(self, registry: Registry) -> Revocations:
        """Bring files and registry up to what either knows; returns what the registry had to learn."""
        with registry.reading() as connection:
            theirs = _revoked_in(connection)
        self._known.clear()
        ours = self.all()
        for kind, missing in (
            ("device", theirs.devices - ours.devices),
            ("certificate", theirs.serials - ours.serials),
        ):
            for name in sorted(missing):
                self._write(kind, name)
        lost = Revocations(ours.devices - theirs.devices, ours.serials - theirs.serials)
        return self._revoke_again(registry, lost) if lost.devices or lost.serials else Revocations()

    def _write(self, kind: str, name: str) -> None:
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        content = orjson.dumps({"format": 1, "kind": kind, "name": name})
        DISK.write(self._folder / f"{kind}-{digest}.json", with_digest(content))

    def _revoke_again(self, registry: Registry, lost: Revocations) -> Revocations:
        """Revoke what the registry has but not as revoked; what it does not have at all cannot be let in."""
        now = time.time()
        with registry.transaction() as connection:
            query = select(device_table.c.device_id).where(device_table.c.active)
            known = lost.devices & set(connection.execute(query).scalars())
            for name in sorted(known):
                devices.revoke_device(connection, name, now, _ACTOR)
            serials = certificate_ledger.known_serials(connection, lost.serials)
            for serial in sorted(serials):
                certificate_ledger.revoke_certificate(connection, serial, now, _ACTOR, "revoked before")
        for name in (*sorted(known), *sorted(serials)):
            log.warning("%s was revoked, and the registry did not know it: revoked again", name)
        return Revocations(known, serials)


def _revoked_in(connection: Connection) -> Revocations:
    people = (certificates.c.role != Role.DEVICE.value) & certificates.c.revoked_at.is_not(None)
    serials = connection.execute(select(certificates.c.serial).where(people)).scalars()
    return Revocations(devices.revoked_devices(connection), set(serials))


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _read(path: Path) -> tuple[Kind, str] | None:
    data = DISK.read(path)
    if data is None:
        return None
    try:
        raw = checked(data, str(path))
    except DamagedLakeError as exc:
        log.warning("%s; it is made anew from the registry", exc)
        return None
    kind, name = raw.get("kind"), raw.get("name")
    if kind not in ("device", "certificate") or not isinstance(name, str):
        return None
    return kind, name
