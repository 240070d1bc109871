"""The trust step after a restore: the fleet is newer than the service, and must still take its next update.

Four things are wrong in a registry and a repository that were set back: devices know higher metadata versions
and channel seqs, join tokens that were used meanwhile are unused again, revocations made since are gone, and
devices that joined since are unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from model_service.fleet import certificate_ledger, devices
from model_service.fleet.reported_versions import ReportedVersions, reported_versions
from model_service.fleet.revocation_copies import RevocationCopies, Revocations
from model_service.registry.database import Registry, note
from model_service.registry.registry_moment import RegistryMoment
from model_service.registry.registry_tables import certificates, join_tokens
from model_service.registry.registry_tables import devices as devices_table
from model_service.rollout.seq_floor import raise_seq
from model_service.settings import ModelSettings
from model_service.trust.keyring import Keyring
from model_service.trust.raising import RaisedVersions, behind, raise_versions
from model_service.trust.repository import TrustRepository
from schemas.errors import PipelineError
from schemas.updates import Role

MARGIN = 10_000
"""Rise of the online roles and of the seqs at a restore: devices may know more than anybody has reported."""
_ACTOR = "restore"


@dataclass(frozen=True)
class CaughtUp:
    """What a trust step did.

    Attributes:
        seqs: Channel seq by group up to which all are used up now.
    """

    versions: RaisedVersions
    seqs: dict[str, int]


@dataclass(frozen=True)
class ReplacedRegistry:
    """What a registry knew that the restored one does not.

    Attributes:
        reported: Versions and seqs that devices reported to it.
        revoked: Devices that were revoked.
        revoked_serials: Certificates of people that were revoked.
        joined: Devices that had joined.
    """

    reported: ReportedVersions
    revoked: frozenset[str]
    revoked_serials: frozenset[str]
    joined: frozenset[str]


def look_at_replaced(path: Path) -> ReplacedRegistry | None:
    """What the registry that a restore replaces knew; None where it cannot be read."""
    try:
        with closing(Registry(f"sqlite:///{path}")) as registry, registry.reading() as connection:
            people = (certificates.c.role != Role.DEVICE.value) & certificates.c.revoked_at.is_not(None)
            serials = select(certificates.c.serial).where(people)
            return ReplacedRegistry(
                reported_versions(connection),
                frozenset(devices.revoked_devices(connection)),
                frozenset(connection.execute(serials).scalars()),
                frozenset(connection.execute(select(devices_table.c.device_id)).scalars()),
            )
    except (SQLAlchemyError, PipelineError, OSError, ValueError):
        return None


def accept_registry(settings: ModelSettings, clock: Callable[[], float] = time.time) -> bool:
    """Take a registry that was set back, lost or altered as it is; returns whether it was.

    What the copies of revocations know is revoked again, and unused join tokens are void.

    Raises:
        DamagedFileError: It cannot be read at all.
    """
    moment = RegistryMoment.of(settings.database_url)
    if moment is None or not moment.accept():
        return False
    with closing(Registry.open(settings.database_url, settings.root)) as registry:
        RevocationCopies(settings.root).reconcile(registry)
        void_tokens(registry, clock())
    return True


def revoked_beside(root: Path) -> Revocations:
    """What the copies of revocations in a model service's folder say, whatever its registry is like."""
    return RevocationCopies(root).all()


def void_tokens(registry: Registry, now: float) -> int:
    """Void every unused join token: some were used after the backup; returns how many."""
    unused = join_tokens.c.used_at.is_(None) & (join_tokens.c.expires_at > now)
    with registry.transaction() as connection:
        return connection.execute(update(join_tokens).where(unused).values(expires_at=now)).rowcount


def revoke_again(registry: Registry, ids: Iterable[str], serials: Iterable[str], now: float) -> list[str]:
    """Revoke devices and certificates once more; returns those that were not revoked.

    Devices that the restored registry does not know need none: they cannot connect.
    """
    done = []
    with registry.transaction() as connection:
        for device_id in sorted(ids):
            known = connection.execute(
                select(devices_table.c.active).where(devices_table.c.device_id == device_id)
            ).scalar()
            if known:
                devices.revoke_device(connection, device_id, now, _ACTOR)
                done.append(device_id)
        for serial in sorted(certificate_ledger.known_serials(connection, serials)):
            certificate_ledger.revoke_certificate(
                connection, serial, now, _ACTOR, "revoked before the restore"
            )
            done.append(serial)
    return done


def unknown_devices(registry: Registry, joined: Iterable[str]) -> list[str]:
    """Devices of these that the registry does not know: they must be invited again."""
    with registry.reading() as connection:
        known = set(connection.execute(select(devices_table.c.device_id)).scalars())
    return sorted(set(joined) - known)


def catch_up(
    settings: ModelSettings,
    also: ReportedVersions | None = None,
    margin: int = 0,
    keyring: Keyring | None = None,
    clock: Callable[[], float] = time.time,
) -> CaughtUp:
    """Sign everything anew, above what any device reports.

    Args:
        settings: Settings of the stack.
        also: Versions and seqs known from elsewhere, such as the registry that was replaced.
        margin: Least rise of the online roles and of the seqs.
        keyring: Available keys; None: those on this machine.
        clock: UTC seconds.
    """
    with closing(Registry.open(settings.database_url, settings.root)) as registry:
        with registry.reading() as connection:
            known = reported_versions(connection)
        known = known if also is None else known.merged(also)
        seqs = {}
        with registry.transaction() as connection:
            groups = set(known.seqs) | set(_repository(settings).policy().canary)
            for group in sorted(groups):
                published = max((c.seq for c in _repository(settings).channels(group).values()), default=0)
                wanted = max(published, known.seqs.get(group, 0)) + margin
                if wanted > published or margin:
                    seqs[group] = raise_seq(connection, group, wanted, clock())
            raised = raise_versions(settings, known.versions, margin, keyring)
            detail = {"roles": len(raised.raised), "groups": len(seqs), "by": _ACTOR}
            note(connection, f"caught-up/{clock():.3f}", "trust", "trust_caught_up", detail, clock())
    return CaughtUp(raised, {g: n for g, n in seqs.items() if n})


def lagging(settings: ModelSettings) -> dict[str, int]:
    """Roles of which a device reports a higher version than is published: the trust step is due again."""
    with closing(Registry(settings.database_url)) as registry, registry.reading() as connection:
        known = reported_versions(connection)
    return behind(_repository(settings).versions(), known.versions)


def _repository(settings: ModelSettings) -> TrustRepository:
    return TrustRepository(settings.repository, settings.proposals, settings.artifacts)
