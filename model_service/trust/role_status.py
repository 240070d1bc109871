"""Status of every role: its version, its expiry, and who holds its keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from model_service.settings import ModelSettings
from model_service.trust.keyring import Keyring, holder
from model_service.trust.metadata import Delegator, Signed, issued
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import TOP_LEVEL_KEYS, plans
from schemas.channel_documents import ROOT, SNAPSHOT, TARGETS, TIMESTAMP


@dataclass(frozen=True)
class KeyStatus:
    """One key of a role.

    Attributes:
        here: Whether the private half is on this machine, encrypted or not.
    """

    holder: str
    key_id: str
    offline: bool
    here: bool


@dataclass(frozen=True)
class RoleStatus:
    """One role.

    Attributes:
        threshold: How many of its keys must sign.
        targets: How many targets it lists.
    """

    role: str
    version: int
    threshold: int
    keys: tuple[KeyStatus, ...]
    issued: datetime | None
    expires: datetime
    targets: int


def status(settings: ModelSettings) -> list[RoleStatus]:
    """Status of every role, in the order in which devices verify them.

    Raises:
        OperatorError: There is no repository.
    """
    published = TrustRepository(settings.repository, settings.proposals, settings.artifacts).published()
    keyring = Keyring(settings)
    signed: dict[str, Signed] = {
        ROOT: published.root,
        TIMESTAMP: published.timestamp,
        SNAPSHOT: published.snapshot,
        TARGETS: published.targets,
        **published.roles,
    }
    return [_status_of(published, keyring, name, part) for name, part in signed.items()]


def _status_of(published: PublishedState, keyring: Keyring, name: str, part: Signed) -> RoleStatus:
    delegator: Delegator = published.root if name in TOP_LEVEL_KEYS else published.targets
    known = delegator.get_delegated_role(name)
    plan = plans(published.roles).get(name)
    locations = {location.holder: location for location in (plan.keys if plan is not None else ())}
    keys = []
    for key_id in known.keyids:
        held_by = holder(delegator.get_key(key_id))
        location = locations.get(held_by)
        keys.append(
            KeyStatus(
                held_by,
                key_id,
                offline=location is not None and location.offline,
                here=location is not None and keyring.path(location).exists(),
            )
        )
    count = len(published.roles[name].targets) if name in published.roles else 0
    return RoleStatus(name, part.version, known.threshold, tuple(keys), issued(part), part.expires, count)
